package idmap_test

import (
	"testing"

	"github.com/idmount/idmount/idmap"
)

// largest has as many extents as the kernel takes, none continuing another.
func largest(tb testing.TB) idmap.Map {
	tb.Helper()
	list := make([]idmap.Extent, idmap.MaxExtents)
	for i := range list {
		list[i] = idmap.Extent{Disk: uint32(i) * 10, View: uint32(len(list)-i) * 20, Count: 5}
	}
	m, err := idmap.New(list, list)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func BenchmarkLookUp(b *testing.B) {
	for _, c := range []struct {
		name string
		m    idmap.Map
	}{
		{"1extent", parse(b, "b:0:100000:65536")},
		{"340extents", largest(b)},
	} {
		b.Run("ViewUID/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.m.ViewUID(idmap.DiskUID(i % 3400))
			}
		})
		b.Run("DiskGID/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.m.DiskGID(idmap.ViewGID(i % 6800))
			}
		})
	}
}

var codecs = []struct {
	name string
	c    codec
	in   []byte
}{
	{"ViewACL", idmap.ViewACL, acl(aclEntry{userObj, 7, noID}, aclEntry{user, 6, 33}, aclEntry{groupObj, 5, noID},
		aclEntry{group, 4, 33}, aclEntry{mask, 7, noID}, aclEntry{other, 0, noID})},
	{"DiskACL", idmap.DiskACL, acl(aclEntry{userObj, 7, noID}, aclEntry{user, 6, 100033}, aclEntry{groupObj, 5, noID},
		aclEntry{group, 4, 200033}, aclEntry{mask, 7, noID}, aclEntry{other, 0, noID})},
	{"ViewFileCap", idmap.ViewFileCap, fileCap(2, true)},
	{"DiskFileCap", idmap.DiskFileCap, fileCap(3, true, 100033)},
}

func BenchmarkCodec(b *testing.B) {
	m := fuzzMap(b)
	for _, c := range codecs {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.c(m, c.in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestAllocations: look-ups allocate nothing, a codec only its result.
func TestAllocations(t *testing.T) {
	m := fuzzMap(t)
	if got := testing.AllocsPerRun(100, func() {
		m.ViewUID(33)
		m.DiskUID(33)
		m.ViewGID(33)
		m.DiskGID(33)
	}); got != 0 {
		t.Errorf("look-ups: %v allocations, want 0", got)
	}
	for _, c := range codecs {
		if got := testing.AllocsPerRun(100, func() { c.c(m, c.in) }); got != 1 {
			t.Errorf("%s: %v allocations, want 1", c.name, got)
		}
	}
}
