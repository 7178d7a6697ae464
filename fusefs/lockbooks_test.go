package fusefs

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/idmount/idmount/internal/fuseconn"
)

// The books of an owner say of every byte what the last request for it said.
func TestSpansOfAnOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 40
		var o lockOwner
		want := [size]uint32{}
		for i := range want {
			want[i] = unix.F_UNLCK
		}
		for range rapid.IntRange(1, 20).Draw(t, "requests") {
			start := rapid.Uint64Range(0, size-1).Draw(t, "start")
			s := span{start, rapid.Uint64Range(start, size-1).Draw(t, "end"), rapid.SampledFrom([]uint32{
				unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK,
			}).Draw(t, "type")}
			o.set(s)
			for i := s.start; i <= s.end; i++ {
				want[i] = s.typ
			}
		}
		got := [size]uint32{}
		for i := range got {
			got[i] = unix.F_UNLCK
			for _, s := range o.spans {
				if s.overlaps(span{uint64(i), uint64(i), unix.F_RDLCK}) {
					if got[i] != unix.F_UNLCK {
						t.Fatalf("byte %d is in two spans of %v", i, o.spans)
					}
					got[i] = s.typ
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}

// Locks side by side are one, as in the kernel: who locks a file byte by byte makes no
// more work with each.
func TestSpansSideBySide(t *testing.T) {
	var o lockOwner
	for i := range uint64(1000) {
		o.set(span{2 * i, 2 * i, unix.F_WRLCK})
		o.set(span{2*i + 1, 2*i + 1, unix.F_WRLCK})
	}
	o.set(span{2000, offsetMax, unix.F_WRLCK})
	if want := []span{{0, offsetMax, unix.F_WRLCK}}; !slices.Equal(o.spans, want) {
		t.Errorf("%d spans, want one", len(o.spans))
	}
}

func TestSpanToTheEndOfTheFile(t *testing.T) {
	for _, s := range []span{{0, offsetMax, unix.F_WRLCK}, {5, offsetMax, unix.F_RDLCK}, {5, 5, unix.F_RDLCK}, {0, 1 << 40, unix.F_WRLCK}} {
		lock := s.flockT()
		if got := spanOf(&lock); got != s {
			t.Errorf("%v is %v again", s, got)
		}
	}
}

// Three owners in a ring: whoever closes it is told.
func TestDeadlockIsFoundOverOthers(t *testing.T) {
	var b lockBooks
	l := newFileLocks(nil)
	for id := uint64(1); id <= 3; id++ {
		o := &lockOwner{process: process{posix: true}}
		o.set(span{id, id, unix.F_WRLCK})
		l.owners[id] = o
	}
	ask := func(id uint64) unix.Errno {
		next := id%3 + 1
		return b.wait(b.enter(l, id, lockRequest{owner: id, span: span{next, next, unix.F_WRLCK}}))
	}
	for id := uint64(1); id <= 2; id++ {
		if errno := ask(id); errno != fuseconn.Suspended {
			t.Errorf("owner %d: %v", id, errno)
		}
	}
	if errno := ask(3); errno != unix.EDEADLK {
		t.Errorf("the last of the ring got %v, want EDEADLK", errno)
	}
	l.owners[1].posix = false
	if errno := ask(3); errno != fuseconn.Suspended {
		t.Errorf("a ring through an open file got %v", errno)
	}
}
