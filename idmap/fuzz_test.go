package idmap_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/idmount/idmount/idmap"
)

// names resolves what fuzzing may find: a few names, a namespace, one of which
// is out of range.
type names struct{}

var errNoSuch = errors.New("no such name")

func (names) UID(name string) (uint32, error) {
	switch name {
	case "alice":
		return 1000, nil
	case "bob":
		return 1001, nil
	case "minus":
		return 1<<32 - 1, nil
	}
	return 0, fmt.Errorf("%s: %w", name, errNoSuch)
}

func (names) GID(name string) (uint32, error) {
	id, err := names{}.UID(name)
	return id + 1000, err
}

func (names) Namespace(path string) (uids, gids []idmap.Extent, err error) {
	switch path {
	case "/proc/1/ns/user":
		return []idmap.Extent{{Disk: 0, View: 100000, Count: 65536}}, []idmap.Extent{{Disk: 0, View: 200000, Count: 65536}}, nil
	case "/empty":
		return nil, nil, nil
	}
	return nil, nil, fmt.Errorf("%s: %w", path, errNoSuch)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"b:0:100000:65536", "both:0:0:1 uid:5:6:7,gid:8:9:10", "0:100000:65536", "u:alice:bob", "b:alice:bob",
		"u:1:2", "g:minus:0", "/proc/1/ns/user", "/empty", "b:0:1000:-1", "b:0:0:4294967295", "u:4294967295:0:1",
		"u:0:0:2 u:1:9:1", "u:0:0:5 u:9:4:1", "", " ,\t", ":", "b:", "x:1:2:3", "u:1:2:3:4", "u:+1:2:3", "u:01:2:3",
		"u:99999999999999999999:0:1", "\xff:1:2:3", "u:\u0661:2:3",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := idmap.Parse([]string{s}, names{})
		if err != nil {
			if !m.IsZero() {
				t.Errorf("an error and the map %q: %v", m, err)
			}
			return
		}
		if _, err := idmap.New(m.UIDs(), m.GIDs()); err != nil {
			t.Errorf("Parse(%q) is a map that New refuses: %v", s, err)
		}
		if _, ok := m.ViewUID(1<<32 - 1); ok {
			t.Errorf("Parse(%q) maps uid -1", s)
		}
		var back idmap.Map
		if err := back.UnmarshalText([]byte(m.String())); err != nil || !back.Equal(m) {
			t.Errorf("Parse(%q) is %q, which parses back to %q, %v", s, m, back, err)
		}
	})
}

// fuzzMap has both sides of 0 mapped differently, and gaps.
func fuzzMap(tb testing.TB) idmap.Map {
	tb.Helper()
	return parse(tb, "u:0:100000:65536 u:100000:0:1000 g:0:200000:65536")
}

func parse(tb testing.TB, entries ...string) idmap.Map {
	tb.Helper()
	m, err := idmap.Parse(entries, names{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

type codec func(idmap.Map, []byte) ([]byte, error)

// fuzzCodec checks what holds of all codecs: the input stays as it was, and an
// error is one of the two kinds and comes alone.
func fuzzCodec(t *testing.T, m idmap.Map, c codec, in []byte) ([]byte, error) {
	t.Helper()
	before := string(in)
	out, err := c(m, in)
	if string(in) != before {
		t.Errorf("the input %x became %x", before, in)
	}
	if err != nil {
		if out != nil {
			t.Errorf("an error and %x", out)
		}
		if !errors.Is(err, idmap.ErrMalformed) && !errors.Is(err, idmap.ErrUnmapped) {
			t.Errorf("neither malformed nor unmapped: %v", err)
		}
	}
	return out, err
}

func addACLs(f *testing.F) {
	full := acl(aclEntry{userObj, 7, noID}, aclEntry{user, 6, 1000}, aclEntry{groupObj, 5, noID},
		aclEntry{group, 4, 1000}, aclEntry{mask, 7, noID}, aclEntry{other, 0, noID})
	f.Add(full)
	f.Add(full[:len(full)-1])
	f.Add(acl())
	f.Add(acl(aclEntry{user, 7, 100000}))
	f.Add(acl(aclEntry{group, 7, 200000}))
	f.Add(acl(aclEntry{user, 7, idmap.ACLStandIn}))
	f.Add(acl(aclEntry{user, 8, 0}))
	f.Add(acl(aclEntry{3, 7, 0}))
	f.Add([]byte{1, 0, 0, 0})
	f.Add([]byte{})
}

func FuzzViewACL(f *testing.F) {
	addACLs(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		m := fuzzMap(t)
		view, err := fuzzCodec(t, m, idmap.ViewACL, in)
		if errors.Is(err, idmap.ErrUnmapped) {
			t.Errorf("unmapped on the way to the view: %v", err)
		}
		if err != nil {
			return
		}
		if len(view) != len(in) {
			t.Errorf("%d bytes became %d", len(in), len(view))
		}
		if disk, err := idmap.DiskACL(m, view); err == nil && string(disk) != string(in) {
			t.Errorf("%x on disk becomes %x when set as seen", in, disk)
		}
	})
}

func FuzzDiskACL(f *testing.F) {
	addACLs(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		m := fuzzMap(t)
		disk, err := fuzzCodec(t, m, idmap.DiskACL, in)
		if err != nil {
			return
		}
		if view, err := idmap.ViewACL(m, disk); err != nil || string(view) != string(in) {
			t.Errorf("%x is read back as %x, %v", in, view, err)
		}
	})
}

func addFileCaps(f *testing.F) {
	for _, b := range [][]byte{
		fileCap(1, false), fileCap(2, true), fileCap(3, true, 0), fileCap(3, false, 100000), fileCap(3, false, noID),
		fileCap(2, false, 0), fileCap(3, false), fileCap(4, false, 0), {0, 0, 0, 2}, {},
	} {
		f.Add(b)
	}
}

func FuzzViewFileCap(f *testing.F) {
	addFileCaps(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		m := fuzzMap(t)
		view, err := fuzzCodec(t, m, idmap.ViewFileCap, in)
		if errors.Is(err, idmap.ErrUnmapped) {
			t.Errorf("unmapped on the way to the view: %v", err)
		}
		// Root on disk is not root in this view: revision 2 would make it so.
		if err == nil && (len(view) != 24 || view[3] != 3) {
			t.Errorf("%x is seen as %x, not revision 3", in, view)
		}
	})
}

func FuzzDiskFileCap(f *testing.F) {
	addFileCaps(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		m := fuzzMap(t)
		disk, err := fuzzCodec(t, m, idmap.DiskFileCap, in)
		if err != nil {
			return
		}
		if len(disk) != 24 || disk[3] != 3 || le.Uint32(disk[20:]) == noID {
			t.Errorf("%x is stored as %x, not revision 3 with a rootid", in, disk)
		}
		if view, err := idmap.ViewFileCap(m, disk); err != nil || (len(in) == 24 && string(view) != string(in)) {
			t.Errorf("%x is read back as %x, %v", in, view, err)
		}
	})
}
