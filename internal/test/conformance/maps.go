package conformance

import (
	"fmt"
	"strings"
)

// An Extent maps Count ids from Disk on to those from View on.
type Extent struct{ Disk, View, Count uint32 }

// A Map is an id map with the roles that scenarios name their ids by. The
// numbers are ids on disk, of users and groups alike.
type Map struct {
	Name       string
	UIDs, GIDs []Extent
	A, B, U    uint32
}

// Foreign is an id of the initial user namespace that no map but the identity
// has on its view side: the unmapped callers, and what chown is refused for.
const Foreign = 5000

// Maps are those of a full run; the first quickMaps ones are those of a quick
// one.
var Maps = []*Map{
	both("shift", 1000, 1001, 70000, Extent{0, 100000, 65536}),
	both("root", 1000, 1001, 70000, Extent{0, 0, 1}, Extent{1000, 101000, 1000}),
	{
		Name: "uids-not-gids",
		UIDs: []Extent{{0, 100000, 65536}},
		GIDs: []Extent{{0, 120000, 40000}},
		A:    1000, B: 1001, U: 70000,
	},
	both("holes", 1000, 2003, 1500,
		Extent{0, 100000, 900}, Extent{1000, 101500, 10}, Extent{2000, 150000, 100}),
	both("single", 1000, 1001, 70000, Extent{1000, 101000, 1}),
	both("identity", 1000, 1001, 70000, Extent{0, 0, 4294967295}),
	both("340-extents", 10, 12, 11, everySecond(340)...),
}

const quickMaps = 1

func both(name string, a, b, u uint32, e ...Extent) *Map {
	return &Map{Name: name, UIDs: e, GIDs: e, A: a, B: b, U: u}
}

// everySecond is the longest map that the kernel takes, in numbers short
// enough for the page that bounds its text.
func everySecond(n uint32) []Extent {
	var e []Extent
	for i := range n {
		e = append(e, Extent{Disk: 2 * i, View: 1000 + 3*i, Count: 1})
	}
	return e
}

// MapByName panics if there is none.
func MapByName(name string) *Map {
	for _, m := range Maps {
		if m.Name == name {
			return m
		}
	}
	panic("conformance: no map " + name)
}

// DiskID is the id on disk of a role.
func (m *Map) DiskID(role byte) uint32 {
	switch role {
	case 'A':
		return m.A
	case 'B':
		return m.B
	case 'U':
		return m.U
	case 'R':
		return 0
	}
	panic("conformance: no role " + string(role))
}

// owner splits a pair of roles, "AB", in the ids on disk.
func (m *Map) owner(pair string) (uid, gid int) {
	return int(m.DiskID(pair[0])), int(m.DiskID(pair[1]))
}

// viewID is the id of the initial user namespace that e shows for id on disk,
// or Foreign.
func viewID(e []Extent, id uint32) uint32 {
	for _, x := range e {
		if id >= x.Disk && id-x.Disk < x.Count {
			return x.View + (id - x.Disk)
		}
	}
	return Foreign
}

// shows reports whether e has id of the initial user namespace on its view side.
func shows(e []Extent, id uint32) bool {
	for _, x := range e {
		if id >= x.View && id-x.View < x.Count {
			return true
		}
	}
	return false
}

// text is e as /proc/PID/uid_map has it.
func text(e []Extent) string {
	var b strings.Builder
	for _, x := range e {
		fmt.Fprintf(&b, "%d %d %d\n", x.Disk, x.View, x.Count)
	}
	return b.String()
}
