package idmap

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The ids of users and groups, by side. They are distinct types, so that a
// forgotten translation does not compile.
type (
	DiskUID uint32
	ViewUID uint32
	DiskGID uint32
	ViewGID uint32
)

const (
	// MaxExtents is how many extents the kernel takes for users, and again for
	// groups (UID_GID_MAP_MAX_EXTENTS, Linux 4.15).
	MaxExtents = 340

	// OverflowID is what the kernel shows for an id that it can't map.
	OverflowID = 65534

	// invalid is no id (uid_t)-1.
	invalid = 1<<32 - 1
)

// Extent maps Count consecutive ids: Disk to View, Disk+1 to View+1, and so on.
type Extent struct{ Disk, View, Count uint32 }

func (e Extent) String() string { return fmt.Sprintf("%d:%d:%d", e.Disk, e.View, e.Count) }

// Map is a mapping of users and of groups. The zero Map maps nothing.
type Map struct{ uid, gid *table }

// table has one kind's extents for either direction, each sorted by the side
// that is looked up: toDisk has its extents with the sides exchanged.
type table struct{ toView, toDisk []Extent }

// New makes a Map of extents of users and of groups. The order of extents has
// no meaning. An empty list leaves every id of that kind unmapped.
func New(uids, gids []Extent) (Map, error) {
	u, err := newTable("uid", uids)
	if err != nil {
		return Map{}, err
	}
	g, err := newTable("gid", gids)
	if err != nil {
		return Map{}, err
	}
	return Map{u, g}, nil
}

// Identity maps every id to itself.
func Identity() Map {
	all := []Extent{{0, 0, invalid}}
	return Map{&table{all, all}, &table{all, all}}
}

func newTable(kind string, extents []Extent) (*table, error) {
	if len(extents) == 0 {
		return nil, nil
	}
	if len(extents) > MaxExtents {
		return nil, fmt.Errorf("%s map: %d extents, the kernel takes at most %d", kind, len(extents), MaxExtents)
	}
	for _, e := range extents {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("%s extent %v: %w", kind, e, err)
		}
	}
	t := &table{toView: slices.Clone(extents), toDisk: swapped(extents)}
	if a, b, ok := sortExtents(t.toView); !ok {
		return nil, &overlap{kind, "disk", a, b}
	}
	if a, b, ok := sortExtents(t.toDisk); !ok {
		return nil, &overlap{kind, "view", a.swapped(), b.swapped()}
	}
	return t, nil
}

// sortExtents sorts by the first side, and returns two extents that share ids
// there if there are such.
func sortExtents(extents []Extent) (a, b Extent, ok bool) {
	slices.SortFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Disk, b.Disk) })
	for i := 1; i < len(extents); i++ {
		if a, b := extents[i-1], extents[i]; b.Disk-a.Disk < a.Count {
			return a, b, false
		}
	}
	return Extent{}, Extent{}, true
}

func (e Extent) swapped() Extent { return Extent{e.View, e.Disk, e.Count} }

func swapped(extents []Extent) []Extent {
	out := make([]Extent, len(extents))
	for i, e := range extents {
		out[i] = e.swapped()
	}
	return out
}

func (e Extent) check() error {
	switch {
	case e.Count == 0:
		return fmt.Errorf("count must be 1..%d", uint32(invalid))
	case uint64(e.Disk)+uint64(e.Count) > invalid:
		return fmt.Errorf("disk ids run past %d", uint32(invalid-1))
	case uint64(e.View)+uint64(e.Count) > invalid:
		return fmt.Errorf("view ids run past %d", uint32(invalid-1))
	}
	return nil
}

// overlap is the error of two extents that share ids.
type overlap struct {
	kind, side string
	a, b       Extent
}

func (o *overlap) Error() string {
	return fmt.Sprintf("%s extents %v and %v overlap on the %s side", o.kind, o.a, o.b, o.side)
}

func (t *table) view(disk uint32) (uint32, bool) {
	if t == nil {
		return 0, false
	}
	return translate(t.toView, disk)
}

func (t *table) disk(view uint32) (uint32, bool) {
	if t == nil {
		return 0, false
	}
	return translate(t.toDisk, view)
}

// translate finds id on the first side of sorted extents, by halves.
func translate(extents []Extent, id uint32) (uint32, bool) {
	lo, hi := 0, len(extents)
	for lo < hi {
		mid := (lo + hi) / 2
		if extents[mid].Disk <= id {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0, false
	}
	e := extents[lo-1]
	if id-e.Disk >= e.Count {
		return 0, false
	}
	return e.View + (id - e.Disk), true
}

// ViewUID returns the user that a disk id is seen as; false if it is unmapped.
func (m Map) ViewUID(id DiskUID) (ViewUID, bool) {
	v, ok := m.uid.view(uint32(id))
	return ViewUID(v), ok
}

// DiskUID returns the user that a view id is stored as; false if it is unmapped.
func (m Map) DiskUID(id ViewUID) (DiskUID, bool) {
	v, ok := m.uid.disk(uint32(id))
	return DiskUID(v), ok
}

// ViewGID returns the group that a disk id is seen as; false if it is unmapped.
func (m Map) ViewGID(id DiskGID) (ViewGID, bool) {
	v, ok := m.gid.view(uint32(id))
	return ViewGID(v), ok
}

// DiskGID returns the group that a view id is stored as; false if it is unmapped.
func (m Map) DiskGID(id ViewGID) (DiskGID, bool) {
	v, ok := m.gid.disk(uint32(id))
	return DiskGID(v), ok
}

// UIDs returns the extents of users, sorted by disk id.
func (m Map) UIDs() []Extent { return m.uid.extents() }

// GIDs returns the extents of groups, sorted by disk id.
func (m Map) GIDs() []Extent { return m.gid.extents() }

func (t *table) extents() []Extent {
	if t == nil {
		return nil
	}
	return slices.Clone(t.toView)
}

// Inverse returns the map with its sides exchanged.
func (m Map) Inverse() Map { return Map{m.uid.inverse(), m.gid.inverse()} }

func (t *table) inverse() *table {
	if t == nil {
		return nil
	}
	return &table{toView: t.toDisk, toDisk: t.toView}
}

// Equal reports whether two maps translate every id alike.
func (m Map) Equal(o Map) bool {
	return slices.Equal(m.uid.merged(), o.uid.merged()) && slices.Equal(m.gid.merged(), o.gid.merged())
}

// merged joins extents that continue one another on both sides.
func (t *table) merged() []Extent {
	var out []Extent
	for _, e := range t.extents() {
		if n := len(out); n > 0 {
			if l := &out[n-1]; l.Disk+l.Count == e.Disk && l.View+l.Count == e.View {
				l.Count += e.Count
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// IsZero reports whether the map maps nothing at all.
func (m Map) IsZero() bool { return m.uid == nil && m.gid == nil }

// String returns the map in the syntax of Parse, extents that continue one
// another joined, "b" where users and groups are mapped alike.
func (m Map) String() string {
	uids, gids := m.uid.merged(), m.gid.merged()
	var words []string
	for _, e := range uids {
		kind := "u:"
		if i := slices.Index(gids, e); i >= 0 {
			kind = "b:"
			gids = slices.Delete(slices.Clone(gids), i, i+1)
		}
		words = append(words, kind+e.String())
	}
	for _, e := range gids {
		words = append(words, "g:"+e.String())
	}
	return strings.Join(words, " ")
}

// MarshalText returns String.
func (m Map) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText parses what MarshalText returns; it knows no names.
func (m *Map) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = Map{}
		return nil
	}
	parsed, err := Parse([]string{string(text)}, nil)
	if err != nil {
		return err
	}
	*m = parsed
	return nil
}

// UIDMapText returns the users' extents as /proc/PID/uid_map takes them.
func (m Map) UIDMapText() string { return m.uid.text() }

// GIDMapText returns the groups' extents as /proc/PID/gid_map takes them.
func (m Map) GIDMapText() string { return m.gid.text() }

func (t *table) text() string {
	var b []byte
	for _, e := range t.merged() {
		b = strconv.AppendUint(b, uint64(e.Disk), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(e.View), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(e.Count), 10)
		b = append(b, '\n')
	}
	return string(b)
}

// Warnings says what about the map is legal and probably not meant.
func (m Map) Warnings() []string {
	const text = "no %s is mapped: every file's %s shows as %d, and no file can be created; add g or u entries, or use b to map both"
	switch {
	case m.IsZero():
		return nil
	case m.gid == nil:
		return []string{fmt.Sprintf(text, "gid", "group", OverflowID)}
	case m.uid == nil:
		return []string{fmt.Sprintf(text, "uid", "owner", OverflowID)}
	}
	return nil
}

// CheckTranslate returns an error if the FUSE server can't translate this map:
// it shows ACL entries of unmapped ids as ACLStandIn, which then must not be
// the view id of anything. A map that leaves no disk id unmapped needs none.
func (m Map) CheckTranslate() error {
	for _, k := range []struct {
		name string
		t    *table
	}{{"uid", m.uid}, {"gid", m.gid}} {
		if _, ok := k.t.disk(ACLStandIn); ok && !k.t.complete() {
			return fmt.Errorf("%s map: view id %d stands for unmapped ids in ACLs and can't be mapped when some ids are not",
				k.name, uint32(ACLStandIn))
		}
	}
	return nil
}

// complete reports whether every id is mapped.
func (t *table) complete() bool {
	var sum uint64
	for _, e := range t.extents() {
		sum += uint64(e.Count)
	}
	return sum == invalid
}
