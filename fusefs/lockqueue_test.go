package fusefs

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/idmount/idmount/internal/fuseconn"
)

// lockWorld is a file whose locks are in the books alone: what the source would do, the
// books say.
type lockWorld struct {
	t interface {
		Fatalf(string, ...any)
	}
	b       lockBooks
	l       *fileLocks
	resumed []uint64
	asked   map[uint64]lockRequest // by unique: those that wait
	foreign []span                 // locks of the source's users
	polled  map[uint64]bool
	tries   int
	last    uint64
}

func newLockWorld(t interface{ Fatalf(string, ...any) }) *lockWorld {
	w := &lockWorld{t: t, l: newFileLocks(nil), asked: map[uint64]lockRequest{}, polled: map[uint64]bool{}}
	w.b.resume = func(unique uint64) { w.resumed = append(w.resumed, unique) }
	return w
}

func (w *lockWorld) free(r *lockRequest) bool {
	for _, s := range w.foreign {
		if !r.flock && r.span.conflicts(s) {
			return false
		}
	}
	return w.l.obstacle(r) == nil
}

func (w *lockWorld) give(r *lockRequest) {
	if r.flock {
		h := w.l.flocks[r.fh]
		if h == nil {
			h = new(flockHolder)
			w.l.flocks[r.fh] = h
			w.b.unfollow(w.l, r.key())
		}
		h.typ = r.typ
		w.b.release(w.l, &h.queue, h.blocks)
		return
	}
	o := w.l.owners[r.owner]
	if o == nil {
		o = &lockOwner{}
		w.l.owners[r.owner] = o
		w.b.unfollow(w.l, r.key())
	}
	o.set(r.span)
	w.b.release(w.l, &o.queue, o.blocks)
}

// handle is SetLkw.
func (w *lockWorld) handle(unique uint64, r lockRequest) {
	w.tries++
	waiter := w.b.waiters[unique]
	if waiter != nil {
		waiter.leave()
	}
	errno := unix.Errno(0)
	if w.free(&r) {
		w.give(&r)
	} else {
		if waiter == nil {
			waiter = w.b.enter(w.l, unique, r)
		}
		errno = w.b.wait(waiter)
		w.polled[unique] = errno == fuseconn.Deferred
		if errno != unix.EDEADLK {
			w.asked[unique] = r
			return
		}
	}
	delete(w.asked, unique)
	delete(w.polled, unique)
	if waiter != nil {
		w.b.finish(waiter, w.l.held(&r, errno))
	}
}

func (w *lockWorld) lock(r lockRequest) uint64 {
	w.last++
	w.handle(w.last, r)
	return w.last
}

func (w *lockWorld) unlock(r lockRequest) {
	if r.flock {
		if h := w.l.flocks[r.fh]; h != nil {
			delete(w.l.flocks, r.fh)
			w.b.release(w.l, &h.queue, nothingBlocks)
		}
		return
	}
	o := w.l.owners[r.owner]
	if o == nil {
		return
	}
	o.set(span{r.start, r.end, unix.F_UNLCK})
	w.b.release(w.l, &o.queue, o.blocks)
	if len(o.spans) == 0 {
		delete(w.l.owners, r.owner)
		w.b.release(w.l, &o.queue, nothingBlocks)
	}
}

func (w *lockWorld) cancel(unique uint64) {
	delete(w.asked, unique)
	delete(w.polled, unique)
	w.b.interrupted(unique)
}

// settle has everybody try who was told to.
func (w *lockWorld) settle() {
	for n := 0; len(w.resumed) > 0; n++ {
		unique := w.resumed[0]
		w.resumed = w.resumed[1:]
		if r, ok := w.asked[unique]; ok {
			w.handle(unique, r)
		}
		if n > 1_000_000 {
			w.t.Fatalf("they never come to rest")
		}
	}
}

// poll has those try that wait for locks of the source's users.
func (w *lockWorld) poll() {
	for before := -1; before != len(w.asked); {
		before = len(w.asked)
		for unique := range w.polled {
			if r, ok := w.asked[unique]; ok && w.polled[unique] {
				w.handle(unique, r)
			}
		}
		w.settle()
	}
}

// TestNoLockWaiterIsForgotten: whoever can have a lock has it, whatever was locked,
// unlocked and given up before.
func TestNoLockWaiterIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newLockWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			start := rapid.Uint64Range(0, 7).Draw(t, "start")
			r := lockRequest{
				flock: rapid.IntRange(0, 4).Draw(t, "kind") == 0,
				span: span{start, rapid.Uint64Range(start, 7).Draw(t, "end"),
					rapid.SampledFrom([]uint32{unix.F_RDLCK, unix.F_WRLCK}).Draw(t, "type")},
			}
			r.owner = rapid.Uint64Range(1, 8).Draw(t, "owner")
			r.fh = r.owner
			if r.flock {
				r.span.start, r.span.end = 0, offsetMax
			}
			switch rapid.IntRange(0, 9).Draw(t, "call") {
			case 0, 1, 2, 3, 4:
				w.lock(r)
			case 5, 6:
				w.unlock(r)
			case 7:
				for unique := range w.asked {
					w.cancel(unique)
					break
				}
			case 8:
				if w.free(&lockRequest{owner: 1 << 40, span: r.span}) {
					w.foreign = append(w.foreign, r.span)
				}
			case 9:
				w.foreign = nil
			}
			if rapid.Bool().Draw(t, "rest") {
				w.settle()
				w.poll()
				for unique, r := range w.asked {
					if w.free(&r) {
						t.Fatalf("request %d for %+v waits, and nothing is in its way", unique, r)
					}
				}
			}
		}
		for len(w.b.waiters) > 0 {
			for unique := range w.b.waiters {
				w.cancel(unique)
			}
		}
		if len(w.l.waiters) > 0 || len(w.l.count) > 0 || w.l.trying > 0 || w.l.lobby.list.Len() > 0 || w.l.foreign.list.Len() > 0 {
			t.Fatalf("when nobody waits there is left: %d waiters, %d owners, %d that try, %d in the lobby, %d for foreign locks",
				len(w.l.waiters), len(w.l.count), w.l.trying, w.l.lobby.list.Len(), w.l.foreign.list.Len())
		}
	})
}

// TestEachUnlockWakesFew: to pass a lock on from one to the next of many takes a try
// each, whatever they ask for, and also while a user of the source has it.
func TestEachUnlockWakesFew(t *testing.T) {
	const waiters = 2000
	spans := map[string]func(i uint64) span{
		"the same":    func(uint64) span { return span{0, offsetMax, unix.F_WRLCK} },
		"ever more":   func(i uint64) span { return span{0, i, unix.F_WRLCK} },
		"ever less":   func(i uint64) span { return span{0, waiters - i, unix.F_WRLCK} },
		"overlapping": func(i uint64) span { return span{i, i + waiters, unix.F_WRLCK} },
		"one each":    func(i uint64) span { return span{i, i, unix.F_WRLCK} },
		"readers":     func(i uint64) span { return span{0, offsetMax, []uint32{unix.F_RDLCK, unix.F_WRLCK}[i%2]} },
	}
	for name, ask := range spans {
		for _, flock := range []bool{false, true} {
			for _, foreign := range []bool{false, true} {
				if flock && (foreign || name != "the same" && name != "readers") {
					continue
				}
				t.Run(fmt.Sprintf("%s/flock=%v/foreign=%v", name, flock, foreign), func(t *testing.T) {
					w := newLockWorld(t)
					all := lockRequest{flock: flock, fh: 1 << 40, owner: 1 << 40, span: span{0, offsetMax, unix.F_WRLCK}}
					if foreign {
						w.foreign = []span{all.span}
					} else {
						w.give(&all)
					}
					requests := map[uint64]lockRequest{}
					for i := range uint64(waiters) {
						r := lockRequest{flock: flock, fh: i, owner: i, span: ask(i)}
						requests[w.lock(r)] = r
					}
					w.settle()
					if len(w.asked) != waiters {
						t.Fatalf("%d wait", len(w.asked))
					}
					polled := 0
					for _, yes := range w.polled {
						if yes {
							polled++
						}
					}
					if (name == "the same" || name == "ever more") && polled != map[bool]int{true: 1}[foreign] {
						t.Errorf("%d are polled", polled)
					}
					w.tries = 0
					if foreign {
						w.foreign = nil
						w.poll()
					} else {
						w.unlock(all)
						w.settle()
					}
					for len(w.asked) > 0 {
						for unique, r := range requests {
							if _, waits := w.asked[unique]; !waits {
								delete(requests, unique)
								w.unlock(r)
							}
						}
						w.settle()
						w.poll()
					}
					if w.tries > 3*waiters {
						t.Errorf("%d tries for %d waiters", w.tries, waiters)
					}
				})
			}
		}
	}
}
