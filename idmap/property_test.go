package idmap_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/idmount/idmount/idmap"
)

// extents generates a legal list: disjoint on both sides, the sides in different
// orders. Gaps of 0 occur, so that some extents continue one another.
func extents() *rapid.Generator[[]idmap.Extent] {
	return rapid.Custom(func(t *rapid.T) []idmap.Extent {
		// 7 extents and 14 gaps of at most 2^27 ids stay below 2^32-1.
		size := rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Uint32Range(0, 70000), rapid.Uint32Range(0, 1<<27))
		out := make([]idmap.Extent, rapid.IntRange(0, 7).Draw(t, "extents"))
		order := make([]int, len(out))
		var next uint32
		for i := range out {
			order[i] = i
			out[i].Count = 1 + size.Draw(t, "count")
			out[i].Disk = next + size.Draw(t, "gap on disk")
			next = out[i].Disk + out[i].Count
		}
		next = 0
		for _, i := range rapid.Permutation(order).Draw(t, "order in view") {
			out[i].View = next + size.Draw(t, "gap in view")
			next = out[i].View + out[i].Count
		}
		return rapid.Permutation(out).Draw(t, "order given")
	})
}

func maps() *rapid.Generator[idmap.Map] {
	return rapid.Custom(func(t *rapid.T) idmap.Map {
		uids := extents().Draw(t, "uids")
		gids := uids
		if rapid.Bool().Draw(t, "own gids") {
			gids = extents().Draw(t, "gids")
		}
		m, err := idmap.New(uids, gids)
		if err != nil {
			t.Fatalf("New(%v, %v): %v", uids, gids, err)
		}
		return m
	})
}

// idNear draws any id, or one at or next to an extent's edge.
func idNear(t *rapid.T, list []idmap.Extent) uint32 {
	if len(list) == 0 || rapid.Bool().Draw(t, "any id") {
		return rapid.Uint32().Draw(t, "id")
	}
	e := rapid.SampledFrom(list).Draw(t, "extent")
	edge := rapid.SampledFrom([]uint32{e.Disk, e.Disk + e.Count, e.View, e.View + e.Count}).Draw(t, "edge")
	return edge + rapid.SampledFrom([]uint32{0, 1, 1<<32 - 1}).Draw(t, "beside")
}

// slowView is the definition of a look-up, without the binary search.
func slowView(list []idmap.Extent, disk uint32) (uint32, bool) {
	for _, e := range list {
		if disk >= e.Disk && uint64(disk) < uint64(e.Disk)+uint64(e.Count) {
			return e.View + (disk - e.Disk), true
		}
	}
	return 0, false
}

func TestLookUpsAgreeWithDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		id := idNear(t, m.UIDs())
		want, wantOK := slowView(m.UIDs(), id)
		if got, ok := m.ViewUID(idmap.DiskUID(id)); uint32(got) != want || ok != wantOK {
			t.Errorf("ViewUID(%d) = %d, %v, want %d, %v", id, got, ok, want, wantOK)
		}
		want, wantOK = slowView(m.Inverse().UIDs(), id)
		if got, ok := m.DiskUID(idmap.ViewUID(id)); uint32(got) != want || ok != wantOK {
			t.Errorf("DiskUID(%d) = %d, %v, want %d, %v", id, got, ok, want, wantOK)
		}
		id = idNear(t, m.GIDs())
		want, wantOK = slowView(m.GIDs(), id)
		if got, ok := m.ViewGID(idmap.DiskGID(id)); uint32(got) != want || ok != wantOK {
			t.Errorf("ViewGID(%d) = %d, %v, want %d, %v", id, got, ok, want, wantOK)
		}
		want, wantOK = slowView(m.Inverse().GIDs(), id)
		if got, ok := m.DiskGID(idmap.ViewGID(id)); uint32(got) != want || ok != wantOK {
			t.Errorf("DiskGID(%d) = %d, %v, want %d, %v", id, got, ok, want, wantOK)
		}
	})
}

func TestLookUpsUndoOneAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		id := idNear(t, m.UIDs())
		if view, ok := m.ViewUID(idmap.DiskUID(id)); ok {
			if back, ok := m.DiskUID(view); !ok || uint32(back) != id {
				t.Errorf("uid %d is seen as %d, which is stored as %d, %v", id, view, back, ok)
			}
		}
		id = idNear(t, m.GIDs())
		if disk, ok := m.DiskGID(idmap.ViewGID(id)); ok {
			if back, ok := m.ViewGID(disk); !ok || uint32(back) != id {
				t.Errorf("gid %d is stored as %d, which is seen as %d, %v", id, disk, back, ok)
			}
		}
	})
}

func TestInverseTwiceIsTheMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		if diff := cmp.Diff(m.UIDs(), m.Inverse().Inverse().UIDs()); diff != "" {
			t.Errorf("uids (-map +inverse twice):\n%s", diff)
		}
		if !m.Inverse().Inverse().Equal(m) {
			t.Errorf("%v is not equal to its inverse's inverse", m)
		}
	})
}

func TestStringParsesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		text, err := m.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back idmap.Map
		if err := back.UnmarshalText(text); err != nil {
			t.Fatalf("UnmarshalText(%q): %v", text, err)
		}
		if !back.Equal(m) || back.String() != string(text) {
			t.Errorf("%q parses back to %q", text, back)
		}
		if m.IsZero() {
			return
		}
		parsed, err := idmap.Parse(strings.Fields(m.String()), nil)
		if err != nil || !parsed.Equal(m) {
			t.Errorf("Parse of the entries of %q = %q, %v", m, parsed, err)
		}
	})
}

// TestKernelTextIsTheMap reads uid_map text back as the kernel does.
func TestKernelTextIsTheMap(t *testing.T) {
	read := func(t *rapid.T, text string) []idmap.Extent {
		var out []idmap.Extent
		for line := range strings.Lines(text) {
			var e idmap.Extent
			if n, err := fmt.Sscanf(line, "%d %d %d\n", &e.Disk, &e.View, &e.Count); n != 3 || err != nil {
				t.Fatalf("line %q: %v", line, err)
			}
			out = append(out, e)
		}
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		back, err := idmap.New(read(t, m.UIDMapText()), read(t, m.GIDMapText()))
		if err != nil || !back.Equal(m) {
			t.Errorf("%q is %q by the kernel's text, %v", m, back, err)
		}
	})
}

// TestOverlapIsRefused puts one more extent over an id that is already mapped.
func TestOverlapIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := extents().Filter(func(l []idmap.Extent) bool { return len(l) > 0 }).Draw(t, "extents")
		victim := rapid.SampledFrom(list).Draw(t, "victim")
		shift := rapid.Uint32Range(0, victim.Count-1).Draw(t, "shift")
		// Above every generated id, so that only one side overlaps.
		more := idmap.Extent{Disk: victim.Disk + shift, View: 4294000000, Count: 1}
		if rapid.Bool().Draw(t, "in view") {
			more = idmap.Extent{Disk: 4294000000, View: victim.View + shift, Count: 1}
		}
		if m, err := idmap.New(append(list, more), nil); err == nil {
			t.Errorf("New took %v, which overlaps %v: %v", more, victim, m)
		}
	})
}

// TestACLRoundTrip: what is seen can be set back, unless it has an unmapped id,
// and it is then what was on disk.
func TestACLRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		var entries []aclEntry
		allMapped := true
		for range rapid.IntRange(0, 6).Draw(t, "entries") {
			e := aclEntry{
				tag:  rapid.SampledFrom([]uint16{userObj, user, groupObj, group, mask, other}).Draw(t, "tag"),
				perm: rapid.Uint16Range(0, 7).Draw(t, "perm"),
				id:   noID,
			}
			switch e.tag {
			case user:
				e.id = idNear(t, m.UIDs())
				_, ok := m.ViewUID(idmap.DiskUID(e.id))
				allMapped = allMapped && ok
			case group:
				e.id = idNear(t, m.GIDs())
				_, ok := m.ViewGID(idmap.DiskGID(e.id))
				allMapped = allMapped && ok
			}
			entries = append(entries, e)
		}
		disk := acl(entries...)
		view, err := idmap.ViewACL(m, disk)
		if err != nil {
			t.Fatal(err)
		}
		back, err := idmap.DiskACL(m, view)
		if !allMapped {
			if !errors.Is(err, idmap.ErrUnmapped) && m.CheckTranslate() == nil {
				t.Errorf("DiskACL of an unmapped id: %x, %v, want ErrUnmapped", back, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(disk, back); diff != "" {
			t.Errorf("round trip (-disk +back):\n%s", diff)
		}
	})
}

// TestFileCapRoundTrip: a set value is read back with its sets and its rootid.
func TestFileCapRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		view := fileCap(3, rapid.Bool().Draw(t, "effective"), idNear(t, m.UIDs()))
		rootid := idmap.ViewUID(le.Uint32(view[20:]))
		disk, err := idmap.DiskFileCap(m, view)
		if _, ok := m.DiskUID(rootid); !ok {
			if !errors.Is(err, idmap.ErrUnmapped) {
				t.Errorf("DiskFileCap of an unmapped rootid: %x, %v, want ErrUnmapped", disk, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		back, err := idmap.ViewFileCap(m, disk)
		if err != nil {
			t.Fatal(err)
		}
		want := view
		if rootid == 0 && le.Uint32(disk[20:]) == 0 {
			want = fileCap(2, view[0]&1 != 0)
		}
		if diff := cmp.Diff(want, back); diff != "" {
			t.Errorf("round trip (-view +back):\n%s", diff)
		}
	})
}

func TestComposeIsOneAfterTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, next := maps().Draw(t, "first"), maps().Draw(t, "next")
		both, err := first.Compose(next)
		if err != nil {
			t.Fatalf("%v and %v: %v", first, next, err)
		}
		near := append(first.UIDs(), next.Inverse().UIDs()...)
		for _, e := range next.UIDs() {
			if id, ok := first.DiskUID(idmap.ViewUID(e.Disk)); ok {
				near = append(near, idmap.Extent{Disk: uint32(id), View: e.View, Count: e.Count})
			}
		}
		id := idNear(t, near)
		var want idmap.ViewUID
		between, ok := first.ViewUID(idmap.DiskUID(id))
		if ok {
			want, ok = next.ViewUID(idmap.DiskUID(between))
		}
		if got, gotOK := both.ViewUID(idmap.DiskUID(id)); gotOK != ok || ok && got != want {
			t.Errorf("%v then %v: uid %d is seen as %d, %v, want %d, %v", first, next, id, got, gotOK, want, ok)
		}
		var back idmap.DiskGID
		mid, ok := next.DiskGID(idmap.ViewGID(id))
		if ok {
			back, ok = first.DiskGID(idmap.ViewGID(mid))
		}
		if got, gotOK := both.DiskGID(idmap.ViewGID(id)); gotOK != ok || ok && got != back {
			t.Errorf("%v then %v: gid %d is stored as %d, %v, want %d, %v", first, next, id, got, gotOK, back, ok)
		}
	})
}

func TestComposeWithIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maps().Draw(t, "map")
		before, err := idmap.Identity().Compose(m)
		if err != nil || !before.Equal(m) {
			t.Errorf("identity, then %v: %v, %v", m, before, err)
		}
		after, err := m.Compose(idmap.Identity())
		if err != nil || !after.Equal(m) {
			t.Errorf("%v, then identity: %v, %v", m, after, err)
		}
	})
}

// Two maps of as many extents as the kernel takes can need more together.
func TestComposeHasLimits(t *testing.T) {
	var halves, shifted []idmap.Extent
	for i := range uint32(idmap.MaxExtents) {
		halves = append(halves, idmap.Extent{Disk: 4 * i, View: 4 * (idmap.MaxExtents - i), Count: 4})
		shifted = append(shifted, idmap.Extent{Disk: 4*i + 2, View: 4 * (idmap.MaxExtents - i), Count: 4})
	}
	a, err := idmap.New(nil, halves)
	if err != nil {
		t.Fatal(err)
	}
	b, err := idmap.New(nil, shifted)
	if err != nil {
		t.Fatal(err)
	}
	const want = "gid map: 679 extents, the kernel takes at most 340"
	if _, err := a.Compose(b); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
