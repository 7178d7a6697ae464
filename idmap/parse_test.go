package idmap_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/idmount/idmount/idmap"
)

func TestParse(t *testing.T) {
	one := func(d, v, n uint32) []idmap.Extent { return []idmap.Extent{{Disk: d, View: v, Count: n}} }
	for _, c := range []struct {
		in         []string
		uids, gids []idmap.Extent
	}{
		{[]string{"b:1001:1002:1"}, one(1001, 1002, 1), one(1001, 1002, 1)},
		{[]string{"both:0:100000:65536"}, one(0, 100000, 65536), one(0, 100000, 65536)},
		{[]string{"0:100000:65536"}, one(0, 100000, 65536), one(0, 100000, 65536)},
		{[]string{"u:1:2:3"}, one(1, 2, 3), nil},
		{[]string{"uid:1:2:3", "gid:4:5:6"}, one(1, 2, 3), one(4, 5, 6)},
		{[]string{"u:1:2:3,g:4:5:6"}, one(1, 2, 3), one(4, 5, 6)},
		{[]string{" u:1:2:3  g:4:5:6\n"}, one(1, 2, 3), one(4, 5, 6)},
		{[]string{"u:1:2"}, one(1, 2, 1), nil},
		{[]string{"u:alice:bob"}, one(1000, 1001, 1), nil},
		{[]string{"u:alice:7"}, one(1000, 7, 1), nil},
		{[]string{"b:alice:bob"}, one(1000, 1001, 1), one(2000, 2001, 1)},
		{[]string{"/proc/1/ns/user"}, one(0, 100000, 65536), one(0, 200000, 65536)},
		{[]string{"b:0:0:4294967295"}, one(0, 0, 4294967295), one(0, 0, 4294967295)},
	} {
		m, err := idmap.Parse(c.in, names{})
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if diff := cmp.Diff([][]idmap.Extent{c.uids, c.gids}, [][]idmap.Extent{m.UIDs(), m.GIDs()}); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const form = "want TYPE:DISK:VIEW:COUNT with TYPE b, u or g, for example b:0:100000:65536"
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, `the map is empty`},
		{[]string{" ", ","}, `the map is empty`},
		{[]string{"b:0:0:1", "b:0:1000:-1"}, `map entry 2 "b:0:1000:-1": count must be 1..4294967295`},
		{[]string{"b:0:0:1 b:5:5:0"}, `map entry 2 "b:5:5:0": count must be 1..4294967295`},
		{[]string{"b:0:0:4294967296"}, `map entry 1 "b:0:0:4294967296": count must be 1..4294967295`},
		{[]string{"b:0:0:+1"}, `map entry 1 "b:0:0:+1": count must be 1..4294967295`},
		{[]string{"u:-1:0:1"}, `map entry 1 "u:-1:0:1": disk id "-1" must be 0..4294967294`},
		{[]string{"u:0:4294967295"}, `map entry 1 "u:0:4294967295": view id "4294967295" must be 0..4294967294`},
		{[]string{"u:0::1"}, `map entry 1 "u:0::1": view id "" must be 0..4294967294`},
		{[]string{"u:4294967294:0:2"}, `map entry 1 "u:4294967294:0:2": disk ids run past 4294967294`},
		{[]string{"x:0:0:1"}, `map entry 1 "x:0:0:1": ` + form},
		{[]string{"0:0"}, `map entry 1 "0:0": ` + form},
		{[]string{"0:0:1:1"}, `map entry 1 "0:0:1:1": ` + form},
		{[]string{"u:0:0:1:1"}, `map entry 1 "u:0:0:1:1": want TYPE:DISK:VIEW:COUNT, or TYPE:DISK:VIEW for one id`},
		{[]string{"u:alice:carol"}, `map entry 1 "u:alice:carol": view user "carol": carol: no such name`},
		{[]string{"g:carol:0"}, `map entry 1 "g:carol:0": disk group "carol": carol: no such name`},
		{[]string{"/nowhere"}, `map entry 1 "/nowhere": /nowhere: no such name`},
		{[]string{"u:0:0:5", "g:0:0:1", "u:9:4:1"}, `map entry 1 "u:0:0:5" and entry 3 "u:9:4:1" overlap on the view side`},
		{[]string{"g:4:9:1 b:0:0:5"}, `map entry 1 "g:4:9:1" and entry 2 "b:0:0:5" overlap on the disk side`},
		{[]string{"b:0:0:1", "b:0:0:1"}, `map entry 1 "b:0:0:1" and entry 2 "b:0:0:1" overlap on the disk side`},
	} {
		m, err := idmap.Parse(c.in, names{})
		if err == nil {
			t.Errorf("%q is the map %q, want the error %s", c.in, m, c.want)
			continue
		}
		if diff := cmp.Diff(c.want, err.Error()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestParseWithoutResolver(t *testing.T) {
	for _, in := range []string{"u:alice:0", "g:0:staff", "b:alice:bob", "/proc/1/ns/user"} {
		if m, err := idmap.Parse([]string{in}, nil); err == nil {
			t.Errorf("%s is the map %q without a resolver", in, m)
		}
	}
}

func TestParseKeepsTheResolversError(t *testing.T) {
	for _, in := range []string{"u:carol:0", "g:carol:0", "/nowhere"} {
		if _, err := idmap.Parse([]string{in}, names{}); !errors.Is(err, errNoSuch) {
			t.Errorf("%s: %v, want the resolver's error in it", in, err)
		}
	}
}
