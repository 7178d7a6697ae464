package conformance

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// A CallerClass is a kind of caller; who it is in numbers depends on the map.
type CallerClass struct {
	Name string
	Make func(*Map) testenv.Caller
}

var container = testenv.Namespace{Outer: 100000, Count: 65536}

// Callers are all that scenarios run as.
var Callers = []CallerClass{
	{"R0", func(*Map) testenv.Caller { return testenv.Caller{Caps: testenv.AllCaps} }},
	{"R0-without-fsetid", func(*Map) testenv.Caller {
		return testenv.Caller{Caps: testenv.AllCaps &^ (1 << unix.CAP_FSETID)}
	}},
	{"user-A", func(m *Map) testenv.Caller { return user(m.ViewUID('A'), m.ViewGID('A')) }},
	{"user-B", func(m *Map) testenv.Caller { return user(m.ViewUID('B'), m.ViewGID('B')) }},
	{"user-B-in-group-A", func(m *Map) testenv.Caller {
		return user(m.ViewUID('B'), m.ViewGID('B'), m.ViewGID('A'))
	}},
	{"user-unmapped", func(*Map) testenv.Caller { return user(Foreign, Foreign) }},
	{"user-A-gid-unmapped", func(m *Map) testenv.Caller { return user(m.ViewUID('A'), Foreign) }},
	{"user-unmapped-gid-A", func(m *Map) testenv.Caller { return user(Foreign, m.ViewGID('A')) }},
	{"MR", func(m *Map) testenv.Caller {
		return testenv.Caller{UID: m.ViewUID('A'), GID: m.ViewGID('A'), Caps: testenv.AllCaps}
	}},
	{"MR-B", func(m *Map) testenv.Caller {
		return testenv.Caller{UID: m.ViewUID('B'), GID: m.ViewGID('B'), Caps: testenv.AllCaps}
	}},
	{"C0", func(*Map) testenv.Caller {
		return testenv.Caller{Namespaces: []testenv.Namespace{container}, Caps: testenv.AllCaps}
	}},
	{"container-user", func(*Map) testenv.Caller {
		return testenv.Caller{Namespaces: []testenv.Namespace{container}, UID: 1000, GID: 1000}
	}},
	{"container-user-with-caps", func(*Map) testenv.Caller {
		return testenv.Caller{Namespaces: []testenv.Namespace{container}, UID: 1001, GID: 1001, Caps: testenv.AllCaps}
	}},
	{"nested-root", func(*Map) testenv.Caller {
		return testenv.Caller{Namespaces: []testenv.Namespace{container, {Outer: 1000, Count: 500}}, Caps: testenv.AllCaps}
	}},
}

func user(uid, gid uint32, groups ...uint32) testenv.Caller {
	return testenv.Caller{UID: uid, GID: gid, Groups: groups}
}

// CallerByName panics if there is none.
func CallerByName(name string) CallerClass {
	for _, c := range Callers {
		if c.Name == name {
			return c
		}
	}
	panic("conformance: no caller " + name)
}

// ViewUID is the id of the initial user namespace that the mount shows for the
// user of a role, or Foreign.
func (m *Map) ViewUID(role byte) uint32 { return viewID(m.UIDs, m.DiskID(role)) }

// ViewGID is ViewUID for groups.
func (m *Map) ViewGID(role byte) uint32 { return viewID(m.GIDs, m.DiskID(role)) }

// InNamespaces is the number that a caller has to use for id of the initial
// user namespace. For an id that its namespace lacks it is 4000000000, which
// the namespace lacks as well.
func InNamespaces(c testenv.Caller, id uint32) uint32 {
	for _, n := range c.Namespaces {
		if id < n.Outer || id-n.Outer >= n.Count {
			return 4000000000
		}
		id -= n.Outer
	}
	return id
}

// inEveryNamespace is an id inside every namespace of the callers, and outside most maps.
const inEveryNamespace = 400

// outerID is the id of the initial user namespace that a caller's number stands for.
func outerID(c testenv.Caller, id uint32) uint32 {
	for _, n := range slices.Backward(c.Namespaces) {
		id += n.Outer
	}
	return id
}

// Unmapped reports whether the user or the group of a class of callers is outside a
// map: files of theirs would have no owner on disk.
func Unmapped(m *Map, class string) bool {
	c := CallerByName(class).Make(m)
	return !shows(m.UIDs, outerID(c, c.UID)) || !shows(m.GIDs, outerID(c, c.GID))
}
