package mntopt

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// List is a parsed option list.
type List struct {
	Mount   Options
	Own     map[string][]string // the values of idmount's own options, in their order
	Remount bool

	// NoEffect are options that `mount --bind` takes as well, and that can't do here
	// what they say.
	NoEffect []string
}

// Caller says who has made a list.
type Caller int

const (
	User   Caller = iota // a person: every option is meant
	Mount8               // mount(8), which adds "rw"
	Fuse8                // mount.fuse(8), which adds "suid" and "dev", too
)

// own are idmount's own options. true stands for those that have a value.
var own = map[string]bool{
	"map":           true,
	"X-mount.idmap": true, // map, as util-linux 2.39 writes it
	"backend":       true,
	"access":        true,
	"cache":         true,
	"transport":     true,
	"stacking":      true,
	"recursive":     false,
}

// ErrBind is the cause when a list has bind or rbind.
var ErrBind = errors.New("mount(8) takes this option for itself and makes an ordinary bind mount without a map: leave bind out, and write recursive for rbind")

// noEffect are options of a file system that `mount --bind` takes, and that change
// nothing for a mount of a part of it. true stands for those that ask for something.
var noEffect = map[string]bool{
	"sync": true, "dirsync": true, "mand": true, "iversion": true, "lazytime": true,
	"async": false, "nomand": false, "noiversion": false, "nolazytime": false, "silent": false, "loud": false,
}

// forMount8 are the options that mount(8) and systemd read for themselves. With
// another caller some of them stand for flags as well, which mount(8) lists itself.
var forMount8 = map[string]uint64{
	"defaults": 0, "auto": 0, "noauto": 0, "nofail": 0, "_netdev": 0,
	"user": implied | unix.MOUNT_ATTR_NOEXEC, "users": implied | unix.MOUNT_ATTR_NOEXEC,
	"owner": implied, "group": implied,
	"nouser": 0, "nousers": 0, "noowner": 0, "nogroup": 0,
	"uhelper": 0, "helper": 0, "comment": 0,
}

const implied = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// ofMount are the options of a FUSE mount and of an ID-mapped one that mount(8)
// finds in the mount table and repeats at a remount.
var ofMount = map[string]bool{
	"idmapped": true, "user_id": true, "group_id": true, "default_permissions": true, "allow_other": true,
	"max_read": true, "blksize": true, "seclabel": true, "fd": true, "rootmode": true,
}

// ParseList reads a comma-separated list of a person. Empty entries are skipped; an
// unknown one is an error that names it.
func ParseList(list string) (List, error) { return parse(list, User, false) }

// ParseHelper reads the list of a mount helper. If sloppy (mount -s), unknown
// options have no effect.
func ParseHelper(list string, caller Caller, sloppy bool) (List, error) {
	return parse(list, caller, sloppy)
}

func parse(list string, caller Caller, sloppy bool) (List, error) {
	entries, err := split(list)
	if err != nil {
		return List{}, err
	}
	l := List{Own: make(map[string][]string)}
	for _, e := range entries {
		l.Remount = l.Remount || e.name == "remount"
	}
	for _, e := range entries {
		if err := l.add(e, caller, sloppy); err != nil {
			return List{}, fmt.Errorf("mount option %q: %w", e.text, err)
		}
	}
	return l, nil
}

// add applies one entry of a list.
func (l *List) add(e entry, caller Caller, sloppy bool) error {
	if opt, ok := known[e.name]; ok && !e.valued {
		l.Mount.add(opt)
		if (caller == Mount8 && !l.Remount || caller == Fuse8) && leaves(e.name, l.Remount) {
			l.Mount.Set &^= opt.mask
			l.Mount.Clear &^= opt.mask
		}
		return nil
	}
	if valued, ok := own[e.name]; ok {
		if valued != (e.value != "") {
			if valued {
				return errors.New("it takes a value")
			}
			return errors.New("it takes no value")
		}
		l.Own[e.name] = append(l.Own[e.name], e.value)
		return nil
	}
	if label := l.Mount.Labels.field(e.name); label != nil {
		if l.Remount {
			return nil // what the mount has already, from the mount table
		}
		if e.value == "" {
			return errors.New("it takes a value")
		}
		*label = e.value
		return nil
	}
	if flags, ok := forMount8[e.name]; ok {
		if caller == User && flags != 0 {
			l.Mount.add(option{set: flags, mask: flags})
		}
		return nil
	}
	asks, ok := noEffect[e.name]
	switch {
	case ok && !e.valued:
		if asks {
			l.NoEffect = append(l.NoEffect, e.name)
		}
		return nil
	case e.name == "remount", strings.HasPrefix(e.name, "x-"), strings.HasPrefix(e.name, "X-"):
		return nil
	case e.name == "bind", e.name == "rbind":
		return ErrBind
	case l.Remount && ofMount[e.name]:
		return nil
	case sloppy:
		l.NoEffect = append(l.NoEffect, e.text)
		return nil
	}
	return errors.New("unknown option of a bind mount")
}

// leaves reports whether a helper's list may have the option although nobody has
// asked for it. Then it leaves the flag as the source has it.
func leaves(name string, remount bool) bool {
	switch name {
	case "suid", "dev":
		return true
	case "rw", "exec", "symfollow", "atime", "diratime":
		return !remount
	}
	return false
}

// An entry of a list: name, name= or name=value.
type entry struct {
	name, value string
	valued      bool
	text        string // as written
}

// split reads the entries. As in libmount, commas in double quotes do not separate.
func split(list string) ([]entry, error) {
	var entries []entry
	for rest := list; rest != ""; {
		end, quoted := len(rest), false
		for i, c := range []byte(rest) {
			if c == '"' {
				quoted = !quoted
			} else if c == ',' && !quoted {
				end = i
				break
			}
			if i == len(rest)-1 && quoted {
				return nil, fmt.Errorf("mount option %q: a double quote is missing", strings.TrimSpace(rest))
			}
		}
		text := strings.TrimSpace(rest[:end])
		rest = rest[min(end+1, len(rest)):]
		if text == "" {
			continue
		}
		e := entry{text: text}
		e.name, e.value, e.valued = strings.Cut(text, "=")
		if v := e.value; len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
			e.value = v[1 : len(v)-1]
		}
		if strings.Contains(e.name, `"`) || strings.Contains(e.value, `"`) {
			return nil, fmt.Errorf("mount option %q: double quotes stand around a whole value", text)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
