package idmap

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Resolver looks up what a map names instead of numbering. It is the caller's,
// because this package does no input or output.
type Resolver interface {
	UID(name string) (uint32, error)
	GID(name string) (uint32, error)
	// Namespace returns the extents of a user namespace, Disk being the ids
	// inside and View those that they are outside.
	Namespace(path string) (uids, gids []Extent, err error)
}

// Parse reads map entries. Each string may hold several, separated by spaces or
// commas. An entry is one of
//
//	TYPE:DISK:VIEW:COUNT   a range; TYPE is b or both, u or uid, g or gid
//	DISK:VIEW:COUNT        the same, for both users and groups
//	TYPE:DISK:VIEW         one id, by number or by name
//	/PATH                  the map of a user namespace, such as /proc/PID/ns/user
//
// mount-idmapped and util-linux's X-mount.idmap use the first form. An error
// says which entry is wrong, counting from 1. A nil Resolver knows no names.
func Parse(entries []string, r Resolver) (Map, error) {
	var p parser
	p.r = r
	for _, s := range entries {
		for _, word := range strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == ',' || c == '\t' || c == '\n' }) {
			p.words = append(p.words, word)
			if err := p.entry(word); err != nil {
				return Map{}, fmt.Errorf("map entry %d %q: %w", len(p.words), word, err)
			}
		}
	}
	if len(p.words) == 0 {
		return Map{}, errors.New("the map is empty")
	}
	m, err := New(p.uids.extents, p.gids.extents)
	var o *overlap
	if errors.As(err, &o) {
		origin := &p.uids
		if o.kind == "gid" {
			origin = &p.gids
		}
		i, j := origin.find(o.a, -1), 0
		j = origin.find(o.b, i)
		first, second := origin.entry[i], origin.entry[j]
		if first > second {
			first, second = second, first
		}
		return Map{}, fmt.Errorf("map entry %d %q and entry %d %q %w on the %s side",
			first+1, p.words[first], second+1, p.words[second], ErrOverlap, o.side)
	}
	return m, err
}

// ErrOverlap is the cause when two ranges of a map have an id in common.
var ErrOverlap = errors.New("overlap")

type parser struct {
	r          Resolver
	words      []string
	uids, gids list
}

// list has extents and the entry that each came from.
type list struct {
	extents []Extent
	entry   []int
}

func (l *list) add(entry int, extents ...Extent) error {
	for _, e := range extents {
		if err := e.check(); err != nil {
			return err
		}
		l.extents = append(l.extents, e)
		l.entry = append(l.entry, entry)
	}
	return nil
}

// find returns the index of e, but not the one excluded.
func (l *list) find(e Extent, not int) int {
	for i, x := range l.extents {
		if x == e && i != not {
			return i
		}
	}
	return max(not, 0)
}

func (p *parser) entry(word string) error {
	index := len(p.words) - 1
	if word[0] == '/' {
		if p.r == nil {
			return errors.New("user namespaces are not looked up here")
		}
		uids, gids, err := p.r.Namespace(word)
		if err != nil {
			return err
		}
		if err := p.uids.add(index, uids...); err != nil {
			return err
		}
		return p.gids.add(index, gids...)
	}
	fields := strings.Split(word, ":")
	var users, groups bool
	switch fields[0] {
	case "b", "both":
		users, groups = true, true
	case "u", "uid":
		users = true
	case "g", "gid":
		groups = true
	default:
		if len(fields) != 3 || !isNumber(fields[0]) {
			return errors.New(`want TYPE:DISK:VIEW:COUNT with TYPE b, u or g, for example b:0:100000:65536`)
		}
		users, groups = true, true
		fields = append([]string{"b"}, fields...)
	}
	switch len(fields) {
	case 3:
		if users {
			if err := p.single(&p.uids, fields, "user", p.lookUID); err != nil {
				return err
			}
		}
		if groups {
			return p.single(&p.gids, fields, "group", p.lookGID)
		}
		return nil
	case 4:
		e, err := extent(fields[1:])
		if err != nil {
			return err
		}
		if users {
			if err := p.uids.add(index, e); err != nil {
				return err
			}
		}
		if groups {
			return p.gids.add(index, e)
		}
		return nil
	}
	return errors.New("want TYPE:DISK:VIEW:COUNT, or TYPE:DISK:VIEW for one id")
}

func (p *parser) single(l *list, fields []string, kind string, look func(string) (uint32, error)) error {
	disk, err := resolve("disk", kind, fields[1], look)
	if err != nil {
		return err
	}
	view, err := resolve("view", kind, fields[2], look)
	if err != nil {
		return err
	}
	return l.add(len(p.words)-1, Extent{disk, view, 1})
}

func resolve(side, kind, s string, look func(string) (uint32, error)) (uint32, error) {
	if isNumber(s) || s == "" || s[0] == '-' || s[0] == '+' {
		return number(side, s)
	}
	id, err := look(s)
	if err != nil {
		return 0, fmt.Errorf("%s %s %q: %w", side, kind, s, err)
	}
	return id, nil
}

var errNoNames = errors.New("names are not looked up here, give a number")

func (p *parser) lookUID(name string) (uint32, error) {
	if p.r == nil {
		return 0, errNoNames
	}
	return p.r.UID(name)
}

func (p *parser) lookGID(name string) (uint32, error) {
	if p.r == nil {
		return 0, errNoNames
	}
	return p.r.GID(name)
}

func extent(fields []string) (Extent, error) {
	disk, err := number("disk", fields[0])
	if err != nil {
		return Extent{}, err
	}
	view, err := number("view", fields[1])
	if err != nil {
		return Extent{}, err
	}
	count, err := strconv.ParseUint(fields[2], 10, 32)
	if err != nil || count == 0 || !isNumber(fields[2]) {
		return Extent{}, fmt.Errorf("count must be 1..%d", uint32(invalid))
	}
	return Extent{disk, view, uint32(count)}, nil
}

func number(side, s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == invalid || !isNumber(s) {
		return 0, fmt.Errorf("%s id %q must be 0..%d", side, s, uint32(invalid-1))
	}
	return uint32(n), nil
}

func isNumber(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}
