package fuseconn

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flight is a request under way, or the place of one.
type flight struct {
	unique atomic.Uint64 // 0 if there is none
	node   atomic.Uint64 // that it is about, or the last one was

	// Guarded by deferrals.mu.
	marks  flightMarks
	marked uint64 // the request that the marks are about
}

// flightMarks are what has happened to a request while it was being handled. It
// matters if the request then waits.
type flightMarks uint8

const (
	markResumed flightMarks = 1 << iota
	markInterrupted
)

// marksOf returns the marks of the request at hand. deferrals.mu is held.
func (w *flight) marksOf(unique uint64) flightMarks {
	if w.marked != unique {
		return 0
	}
	return w.marks
}

// land notes that a request is no longer under way.
func (w *flight) land() { w.unique.Store(0) }

// flights are the requests under way of a connection.
type flights struct {
	mu    sync.Mutex
	all   map[*flight]struct{}
	ended atomic.Bool   // the kernel takes no answers any more
	over  chan struct{} // closed then
}

func (f *flights) add(w *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[w] = struct{}{}
}

func (f *flights) remove(w *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, w)
}

// end returns the requests that are under way when the connection ends. One that
// begins after that sees ended.
func (f *flights) end() (under []uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended.Swap(true) {
		return nil
	}
	close(f.over)
	for w := range f.all {
		if unique := w.unique.Load(); unique != 0 {
			under = append(under, unique)
		}
	}
	return under
}

// nodes are those that the requests under way, and the last ones, are about.
func (f *flights) nodes() (nodes []uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.all {
		if node := w.node.Load(); node != 0 {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// mark notes that something has happened to a request under way. deferrals.mu is held.
func (f *flights) mark(unique uint64, m flightMarks) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.all {
		if w.unique.Load() == unique {
			w.marks, w.marked = w.marksOf(unique)|m, unique
		}
	}
}

func (f *flights) has(unique uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.all {
		if w.unique.Load() == unique {
			return true
		}
	}
	return false
}

// An INTERRUPT comes by whatever thread reads it, so it can be there before the
// handler has been told of the request, and after it has finished it: it is
// tried for as long as a thread that has just read a request may take to say so.
const (
	interruptDelay = 50 * time.Microsecond // at first; twice as long each time
	interruptPause = 20 * time.Millisecond // at most
	interruptFor   = time.Second
)

// interrupt hands the handler the interruption of a request. Its answer, EAGAIN,
// is how it says that it knows of no such request.
func (c *Conn) interrupt(unique uint64) {
	var request [inHeaderSize + 8]byte // struct fuse_in_header, fuse_interrupt_in
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint32(request[4:], opInterrupt)
	binary.NativeEndian.PutUint64(request[inHeaderSize:], unique)
	var out [outHeaderSize]byte
	again := func() bool {
		if c.interruptDeferred(unique) {
			return false
		}
		n := c.call([][]byte{request[:]}, [][]byte{out[:]})
		return n >= outHeaderSize && errnoOf(out[:]) == unix.EAGAIN
	}
	if !again() {
		return
	}
	c.others.Go(func() {
		end := time.Now().Add(interruptFor)
		for delay := interruptDelay; time.Now().Before(end); delay = min(2*delay, interruptPause) {
			time.Sleep(delay)
			if !again() || c.flights.ended.Load() && !c.flights.has(unique) {
				return
			}
		}
	})
}
