package idmap_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/idmount/idmount/idmap"
)

func TestNewRefuses(t *testing.T) {
	tooMany := make([]idmap.Extent, idmap.MaxExtents+1)
	for i := range tooMany {
		tooMany[i] = idmap.Extent{Disk: uint32(i) * 2, View: uint32(i) * 2, Count: 1}
	}
	for _, c := range []struct {
		name string
		list []idmap.Extent
		want string
	}{
		{"no ids", []idmap.Extent{{0, 0, 0}}, "count must be 1..4294967295"},
		{"id -1 on disk", []idmap.Extent{{4294967295, 0, 1}}, "disk ids run past 4294967294"},
		{"id -1 in view", []idmap.Extent{{0, 4294967295, 1}}, "view ids run past 4294967294"},
		{"up to id -1", []idmap.Extent{{4294967290, 0, 6}}, "disk ids run past 4294967294"},
		{"wrapped", []idmap.Extent{{1, 1, 4294967295}}, "disk ids run past 4294967294"},
		{"overlap on disk", []idmap.Extent{{5, 100, 5}, {0, 0, 6}}, "extents 0:0:6 and 5:100:5 overlap on the disk side"},
		{"overlap in view", []idmap.Extent{{0, 0, 6}, {100, 5, 5}}, "extents 0:0:6 and 100:5:5 overlap on the view side"},
		{"twice the same", []idmap.Extent{{0, 0, 1}, {0, 0, 1}}, "overlap on the disk side"},
		{"one inside another", []idmap.Extent{{0, 0, 100}, {50, 500, 1}}, "overlap on the disk side"},
		{"more than the kernel takes", tooMany, "341 extents, the kernel takes at most 340"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := idmap.New(c.list, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("as uids: %v, want %q", err, c.want)
			}
			_, err := idmap.New(nil, c.list)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "gid") {
				t.Errorf("as gids: %v, want gid ... %q", err, c.want)
			}
		})
	}
	if _, err := idmap.New(tooMany[1:], tooMany[1:]); err != nil {
		t.Errorf("340 extents: %v", err)
	}
}

func TestEdges(t *testing.T) {
	m := parse(t, "u:10:20:5")
	for disk, want := range map[idmap.DiskUID]bool{9: false, 10: true, 14: true, 15: false, 0: false, 1<<32 - 1: false} {
		view, ok := m.ViewUID(disk)
		if ok != want || ok && uint32(view) != uint32(disk)+10 {
			t.Errorf("ViewUID(%d) = %d, %v, want ok %v", disk, view, ok, want)
		}
	}
	if id, ok := m.ViewGID(10); ok {
		t.Errorf("a map of users maps group 10 to %d", id)
	}
	all := idmap.Identity()
	for id, want := range map[uint32]bool{0: true, 1<<32 - 2: true, 1<<32 - 1: false} {
		if _, ok := all.DiskGID(idmap.ViewGID(id)); ok != want {
			t.Errorf("identity maps gid %d: %v, want %v", id, ok, want)
		}
	}
	var zero idmap.Map
	if _, ok := zero.DiskUID(0); ok || !zero.IsZero() || !zero.Inverse().IsZero() || zero.String() != "" || zero.UIDMapText() != "" {
		t.Errorf("the zero map maps something: %q", zero)
	}
}

// TestMapIsImmutable: neither what New was given nor what UIDs gave is the map.
func TestMapIsImmutable(t *testing.T) {
	given := []idmap.Extent{{0, 100, 10}}
	m, err := idmap.New(given, nil)
	if err != nil {
		t.Fatal(err)
	}
	given[0].View = 7
	m.UIDs()[0].View = 8
	if diff := cmp.Diff([]idmap.Extent{{0, 100, 10}}, m.UIDs()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct{ in, canonical, uidMap, gidMap string }{
		{"b:1001:1002:1", "b:1001:1002:1", "1001 1002 1\n", "1001 1002 1\n"},
		{"0:0:10 b:10:10:5", "b:0:0:15", "0 0 15\n", "0 0 15\n"},
		{"u:5:6:1,g:7:8:1,u:0:1:1", "u:0:1:1 u:5:6:1 g:7:8:1", "0 1 1\n5 6 1\n", "7 8 1\n"},
		{"u:5:6", "u:5:6:1", "5 6 1\n", ""},
	} {
		m := parse(t, c.in)
		got := []string{m.String(), m.UIDMapText(), m.GIDMapText()}
		if diff := cmp.Diff([]string{c.canonical, c.uidMap, c.gidMap}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestWarnings(t *testing.T) {
	for in, want := range map[string]string{"u:0:1:1": "no gid is mapped", "g:0:1:1": "no uid is mapped", "b:0:1:1": ""} {
		got := strings.Join(parse(t, in).Warnings(), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestCheckTranslate(t *testing.T) {
	for in, ok := range map[string]bool{
		"b:0:0:4294967295":                  true,
		"b:0:100000:65536":                  true,
		"b:4294967294:0:1":                  true,
		"u:0:4294967294:1 g:0:0:1":          false,
		"u:0:0:1 g:0:4294967290:5":          false,
		"b:1:1:4294967294":                  false,
		"b:0:1:4294967294 b:4294967294:0:1": true,
	} {
		if err := parse(t, in).CheckTranslate(); (err == nil) != ok {
			t.Errorf("%s: %v, want ok %v", in, err, ok)
		}
	}
}
