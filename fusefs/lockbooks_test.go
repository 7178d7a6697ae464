package fusefs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
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
	f := &FS{}
	l := &fileLocks{owners: map[uint64]*lockOwner{}, waiters: map[*lockWaiter]struct{}{}}
	for id := uint64(1); id <= 3; id++ {
		o := &lockOwner{process: process{posix: true}}
		o.set(span{id, id, unix.F_WRLCK})
		l.owners[id] = o
	}
	ask := func(id uint64) (bool, unix.Errno) {
		next := id%3 + 1
		r := lockRequest{owner: id, span: span{next, next, unix.F_WRLCK}}
		ours, _, errno := f.blocked(f.wait(l, r), &r)
		return ours, errno
	}
	for id := uint64(1); id <= 2; id++ {
		if ours, errno := ask(id); !ours || errno != 0 {
			t.Errorf("owner %d: blocked by the mount %v, %v", id, ours, errno)
		}
	}
	if _, errno := ask(3); errno != unix.EDEADLK {
		t.Errorf("the last of the ring got %v, want EDEADLK", errno)
	}
	l.owners[1].posix = false
	if _, errno := ask(3); errno != 0 {
		t.Errorf("a ring through an open file got %v", errno)
	}
}
