package bench

import (
	"strings"
	"testing"
)

func TestParseSystem(t *testing.T) {
	for _, c := range []struct {
		name, err string
		want      System
	}{
		{"source", "", System{Kind: Source}},
		{"relay", "", System{Kind: Relay}},
		{"translate+uring+exclusive", "", System{Kind: Translate, Transport: "uring", Cache: "exclusive"}},
		{"translate+nopass+none", "", System{Kind: Translate, Cache: "none", NoPass: true}},
		{"bindfs+multi", "", System{Kind: Bindfs, Multi: true}},
		{"fuse-overlayfs", "", System{Kind: FuseOverlayfs}},
		{"", `system "": must be one of source, `, System{}},
		{"zfs", `system "zfs": must be one of source, `, System{}},
		{"translate+", `a variant is missing after +`, System{}},
		{"translate+fast", `the variants of translate are`, System{}},
		{"translate+dev+uring", `the variants of translate are`, System{}},
		{"relay+none+ttl", `the variants of relay are`, System{}},
		{"bindfs+nopass", `the variant of bindfs is multi`, System{}},
		{"source+none", `source has no variants`, System{}},
	} {
		got, err := ParseSystem(c.name)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("ParseSystem(%q): error %v, want one with %q", c.name, err, c.err)
			}
			continue
		}
		c.want.Name = c.name
		if err != nil || got != c.want {
			t.Errorf("ParseSystem(%q) = %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestSystemListsParse(t *testing.T) {
	for _, list := range [][]string{shortSystems, fullSystems} {
		if _, err := parseSystems(list); err != nil {
			t.Error(err)
		}
	}
	for _, name := range shortSystems {
		if !strings.Contains(" "+strings.Join(fullSystems, " ")+" ", " "+name+" ") {
			t.Errorf("a full run lacks %s, which a short one has", name)
		}
	}
}
