package fuseconn

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testOpen = 14 // FUSE_OPEN

// gate is a handler that has requests of some opcodes wait until it is open.
type gate struct {
	wait    unix.Errno
	open    atomic.Bool
	tries   atomic.Int32
	mu      sync.Mutex
	waiting map[uint64]bool
	dropped map[uint64]bool
}

func newGate(wait unix.Errno) *gate {
	return &gate{wait: wait, waiting: make(map[uint64]bool), dropped: make(map[uint64]bool)}
}

func (g *gate) handle(in, out [][]byte) (int, bool) {
	switch op := opcodeOf(in[0]); {
	case op == opInterrupt:
		return putError(out[0], uniqueOf(in[0]), unix.EAGAIN), true
	case op == opAny:
		return answer(in, out, "")
	}
	g.tries.Add(1)
	unique := uniqueOf(in[0])
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open.Load() {
		delete(g.waiting, unique)
		return answer(in, out, string(in[0][inHeaderSize:]))
	}
	g.waiting[unique] = true
	return putError(out[0], unique, g.wait), true
}

func (g *gate) drop(unique uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waiting, unique)
	g.dropped[unique] = true
}

func (g *gate) uniques() (all []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for unique := range g.waiting {
		all = append(all, unique)
	}
	return all
}

func (c *Conn) waiting() int {
	c.deferrals.mu.Lock()
	defer c.deferrals.mu.Unlock()
	return len(c.deferrals.all)
}

// TestManyWait: any number of requests may wait. They take no threads and few
// descriptors, and others are answered meanwhile.
func TestManyWait(t *testing.T) {
	const waiters = 20_000
	for name, wait := range map[string]unix.Errno{"deferred": Deferred, "suspended": Suspended} {
		t.Run(name, func(t *testing.T) {
			g := newGate(wait)
			k := connectWith(t, g.handle, func(c *Conn) { c.Dropped = g.drop })
			for i := range waiters {
				k.send(testOpen, uint64(1000+i), fmt.Appendf(nil, "%064d%d", 0, i)) // they ask for the same
				if i%100 == 0 {
					k.quiet()
				}
			}
			k.waitFor("not all requests wait", func() bool { return k.conn.waiting() == waiters })
			if n := k.conn.readers.total.Load(); n > waiters/100 {
				t.Errorf("%d threads", n)
			}
			began := g.tries.Load()
			time.Sleep(100 * time.Millisecond)
			// As many as it takes to notice that the first one need not wait.
			if n := g.tries.Load() - began; n > 200 {
				t.Errorf("%d tries in 100 ms", n)
			}
			g.open.Store(true)
			if wait == Suspended {
				go func() {
					for _, unique := range g.uniques() {
						k.conn.Resume(unique)
					}
				}()
			}
			seen := map[uint64]bool{}
			for range waiters {
				unique, errno, body := k.receive()
				if seen[unique] || errno != 0 || string(body) != fmt.Sprintf("%064d%d", 0, unique-1000) {
					t.Fatalf("answer %q, %v to %d", body, errno, unique)
				}
				seen[unique] = true
			}
			if n := g.tries.Load() - began; n > waiters+200 {
				t.Errorf("%d tries for %d requests", n, waiters)
			}
			k.quiet()
			if n := k.conn.waiting(); n != 0 {
				t.Errorf("%d still wait", n)
			}
		})
	}
}

// TestWaitersAskForDifferentThings: a request that has to wait holds back only those
// that ask for the same.
func TestWaitersAskForDifferentThings(t *testing.T) {
	k := connect(t, func(in, out [][]byte) (int, bool) {
		if string(in[0][inHeaderSize:]) == "never" {
			return putError(out[0], uniqueOf(in[0]), Deferred), true
		}
		if opcodeOf(in[0]) == testOpen && time.Now().UnixMilli()%7 != 0 {
			return putError(out[0], uniqueOf(in[0]), Deferred), true
		}
		return answer(in, out, "")
	})
	k.send(testOpen, 10, []byte("never"))
	for i := range 20 {
		k.send(testOpen, uint64(20+i), []byte("sometimes"))
	}
	for range 20 {
		if unique, errno, _ := k.receive(); unique < 20 || errno != 0 {
			t.Errorf("answer to %d, %v", unique, errno)
		}
	}
}

// TestWaitersAreInterrupted: INTERRUPT ends the waiting, also when it comes before its
// request has to wait.
func TestWaitersAreInterrupted(t *testing.T) {
	for _, wait := range []unix.Errno{Deferred, Suspended} {
		g := newGate(wait)
		slow := make(chan struct{})
		k := connectWith(t, func(in, out [][]byte) (int, bool) {
			if uniqueOf(in[0]) == 500 {
				<-slow
			}
			return g.handle(in, out)
		}, func(c *Conn) { c.Dropped = g.drop })
		k.send(testOpen, 500, nil)
		for i := range 100 {
			k.send(testOpen, uint64(100+i), []byte("waits"))
		}
		k.waitFor("not all requests wait", func() bool { return k.conn.waiting() == 100 })
		interrupt := func(unique uint64) {
			k.send(opInterrupt, unique+1<<40, binary.NativeEndian.AppendUint64(nil, unique))
		}
		for i := range 100 {
			interrupt(uint64(100 + i))
			if unique, errno, _ := k.receive(); unique != uint64(100+i) || errno != unix.EINTR {
				t.Fatalf("answer to %d, %v", unique, errno)
			}
		}
		interrupt(500)
		k.quiet() // the INTERRUPT has been read, if not handled
		k.waitFor("the interruption is not noted", func() bool {
			k.conn.deferrals.mu.Lock()
			defer k.conn.deferrals.mu.Unlock()
			k.conn.flights.mu.Lock()
			defer k.conn.flights.mu.Unlock()
			for w := range k.conn.flights.all {
				if w.marksOf(500)&markInterrupted != 0 {
					return true
				}
			}
			return false
		})
		close(slow)
		if unique, errno, _ := k.receive(); unique != 500 || errno != unix.EINTR {
			t.Fatalf("answer to %d, %v", unique, errno)
		}
		if len(g.uniques()) != 0 || len(g.dropped) != 101 {
			t.Errorf("the handler was told of %d, and %v still wait for it", len(g.dropped), g.uniques())
		}
		k.hangUp()
	}
}

// TestResumeOvertakes: what resumes a request may come before it is known that the
// request waits.
func TestResumeOvertakes(t *testing.T) {
	var k *kernel
	var tries atomic.Int32
	ready := make(chan struct{})
	k = connect(t, func(in, out [][]byte) (int, bool) {
		if opcodeOf(in[0]) == testOpen && tries.Add(1) < 4 {
			<-ready
			k.conn.Resume(uniqueOf(in[0]))
			return putError(out[0], uniqueOf(in[0]), Suspended), true
		}
		return answer(in, out, "")
	})
	close(ready)
	k.send(testOpen, 70, nil)
	if unique, errno, _ := k.receive(); unique != 70 || errno != 0 || tries.Load() != 4 {
		t.Errorf("answer to %d, %v after %d tries", unique, errno, tries.Load())
	}
	k.conn.Resume(70) // and one that comes too late
	k.quiet()
}

// TestWaitersExpire: what has waited for the limit is answered.
func TestWaitersExpire(t *testing.T) {
	const limit = 200 * time.Millisecond
	for _, wait := range []unix.Errno{Deferred, Suspended} {
		g := newGate(wait)
		k := connectWith(t, g.handle, func(c *Conn) { c.Dropped, c.Limit = g.drop, limit })
		for i, c := range []struct {
			op   uint32
			want unix.Errno
		}{{testOpen, unix.EINTR}, {opSetlkw, unix.EAGAIN}} {
			began := time.Now()
			for n := range 3 {
				k.send(c.op, uint64(10*i+n), nil)
			}
			var got []uint64
			for range 3 {
				unique, errno, _ := k.receive()
				if errno != c.want || time.Since(began) < limit {
					t.Errorf("opcode %d: %v after %v", c.op, errno, time.Since(began))
				}
				got = append(got, unique)
			}
			slices.Sort(got)
			if want := []uint64{uint64(10 * i), uint64(10*i + 1), uint64(10*i + 2)}; !slices.Equal(got, want) {
				t.Errorf("answers to %v, want %v", got, want)
			}
		}
		if len(g.dropped) != 6 {
			t.Errorf("the handler was told of %d", len(g.dropped))
		}
		k.hangUp()
	}
}

// TestEndOfWaiters: the end of the connection ends all waiting.
func TestEndOfWaiters(t *testing.T) {
	g := newGate(Deferred)
	k := connectWith(t, g.handle, func(c *Conn) { c.Dropped = g.drop })
	for i := range 50 {
		k.send(testOpen, uint64(100+i), fmt.Append(nil, i))
	}
	k.waitFor("not all requests wait", func() bool { return k.conn.waiting() == 50 })
	k.hangUp() // fails the test if it waits
	if len(g.dropped) != 50 {
		t.Errorf("the handler was told of %d", len(g.dropped))
	}
}
