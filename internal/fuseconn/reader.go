package fuseconn

import (
	"bytes"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// maxThreads bounds what a source that does not answer (NFS, with its server
// away) can tie up. It is far beyond what a disk can use, and well below the
// 10,000 threads at which Go gives up.
const maxThreads = 1000

// spareThreads is how many threads wait for requests when there are none. The
// kernel wakes the one that has waited longest: more of them would take turns,
// each with cold caches.
const spareThreads = 2

// patience is after how many requests threads leave that were not needed for any
// of them. If they came and went with each burst, that would cost more than
// they do waiting.
const patience = 512

// readers are the threads that read requests from /dev/fuse, and answer them
// there: one waits for the next request while others handle theirs.
type readers struct {
	waiting atomic.Int32 // for a request, or about to
	least   atomic.Int32 // of waiting during these requests
	handled atomic.Uint32
	surplus atomic.Int32 // may leave
	total   atomic.Int32
	failed  atomic.Bool // a thread could not be had, and that was said

	solo solo
}

// reader is what one thread needs.
type reader struct {
	flight
	*channel
	turn
	mem  []byte
	room int // for the data of a message
}

func (c *Conn) startReaders() error {
	for range spareThreads {
		c.readers.waiting.Add(1)
		if err := c.startReader(); err != nil {
			c.readers.waiting.Add(-1)
			return err
		}
	}
	c.readers.least.Store(spareThreads)
	if !c.Remote && c.rings == nil { // with rings, hardly anything comes this way
		c.startSolo()
	}
	return nil
}

// startReader starts a thread that is counted as waiting already.
func (c *Conn) startReader() error {
	r, err := c.newReader()
	if err != nil {
		return err
	}
	c.readers.total.Add(1)
	c.flights.add(&r.flight)
	c.threads.Go(func() { c.run(r) })
	return nil
}

func (c *Conn) newReader() (*reader, error) {
	// Twice the data, as a message and its answer may both have much, and the
	// pages that their structures and names, of 4 KiB each at most, begin and
	// end in.
	mem, err := sys.Buffer(2*c.payload + 16*os.Getpagesize())
	if err != nil {
		return nil, err
	}
	return &reader{mem: mem, room: c.payload, channel: c.takeChannel()}, nil
}

func (c *Conn) freeReader(r *reader) {
	c.flights.remove(&r.flight)
	c.leaveChannel(r.channel)
	sys.FreeBuffer(r.mem)
	c.readers.total.Add(-1)
}

// The data of a WRITE begins behind struct fuse_in_header and struct
// fuse_write_in, that of the answer to a READ behind struct fuse_out_header.
// Both lie on page boundaries.
const writeData = inHeaderSize + 40

// in returns where a message is read to.
func (r *reader) in() []byte {
	page := os.Getpagesize()
	return r.mem[page-writeData:][:r.room+4*page]
}

// out returns where the answer to a message of n bytes goes: behind it, on pages
// that such messages have used before.
func (r *reader) out(n int) []byte {
	page := os.Getpagesize()
	end := page - writeData + n
	data := (end+outHeaderSize+page-1)/page*page + page
	return r.mem[data-outHeaderSize:][:r.room+4*page]
}

func (c *Conn) run(r *reader) {
	defer c.freeReader(r)
	// One piece each; a handler may keep slices of them on the heap.
	in, out := make([][]byte, 1), make([][]byte, 1)
	for {
		n, errno := c.read(r.fd, r.in())
		c.took(r, n)
		if errno != 0 {
			if errno != unix.ENODEV && errno != unix.ECONNABORTED {
				c.log.Error("read /dev/fuse", "cause", errno)
			}
			c.end()
			return
		}
		in[0], out[0] = r.in()[:n], r.out(n)
		m := c.handleMessage(r, in, out)
		// Before the answer: its caller may ask for the next thing at once.
		c.endTurn(&r.turn)
		if m > 0 {
			c.write(r.fd, out[0][:m])
		}
		r.land()
		if !c.waitAgain() {
			return
		}
	}
}

// handleMessage returns the length of the answer to a message, 0 if there is none, or not
// yet.
func (c *Conn) handleMessage(r *reader, in, out [][]byte) int {
	message := in[0]
	if len(message) < inHeaderSize {
		c.log.Error("read /dev/fuse: a message without a header", "bytes", len(message))
		return 0
	}
	if lengthOf(message) != len(message) {
		op := opcodeOf(message)
		c.log.Error("read /dev/fuse: a message of another length", "bytes", len(message), "opcode", op, "length", lengthOf(message))
		if !expectsAnswer(op) {
			return 0
		}
		return putError(out[0], uniqueOf(message), unix.EIO)
	}
	n, wait := c.handle(&r.flight, in, out)
	if wait != 0 {
		c.deferRequest(&r.flight, wait, bytes.Clone(message), r.channel, nil)
	}
	return n
}

// took is called by a thread that waits no longer, with the length of what it
// has read. If nobody waits, and there is a request to handle, another has to
// before that may block.
func (c *Conn) took(r *reader, size int) {
	rs := &c.readers
	n := rs.waiting.Add(-1)
	for {
		least := rs.least.Load()
		if n >= least || rs.least.CompareAndSwap(least, n) {
			break
		}
	}
	if size == 0 {
		return
	}
	rs.solo.begin(&r.turn, r.in()[:size])
	if c.isSolo(r) || n > 0 || rs.total.Load() >= maxThreads || !rs.waiting.CompareAndSwap(0, 1) {
		return
	}
	if err := c.startReader(); err != nil {
		rs.waiting.Add(-1)
		if rs.failed.CompareAndSwap(false, true) {
			c.log.Warn("no further thread for requests", "cause", err)
		}
	}
}

// waitAgain has the caller wait for the next request, or says false to one that
// was not needed of late.
func (c *Conn) waitAgain() bool {
	rs := &c.readers
	if rs.solo.on.Load() && rs.waiting.Load() > 0 {
		return c.park()
	}
	rs.solo.pause()
	if rs.handled.Add(1)%patience == 0 {
		rs.surplus.Store(rs.least.Swap(rs.waiting.Load()) - (spareThreads - 1))
	}
	if n := rs.surplus.Load(); n > 0 && rs.surplus.CompareAndSwap(n, n-1) {
		return false
	}
	rs.waiting.Add(1)
	return true
}
