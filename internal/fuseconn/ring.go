package fuseconn

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// spareRides is how many threads wait in each queue at first.
const spareRides = 2

// maxRingWaits is how many requests of a ring may wait, deferred or suspended: each
// keeps a thread, which stays for good, and callers can make as many as they like. From
// there on a lock is refused with ENOLCK, as fcntl(2) has it, and an open file with
// EAGAIN, as open(2) has it for leases.
const maxRingWaits = maxThreads / 2

// rings are the threads that carry requests over io_uring. The kernel has a
// queue for each processor, and gives a request to that of its caller's: the
// thread is woken where the caller falls asleep, which is most of the time that
// a request takes. FORGET and INTERRUPT still come over /dev/fuse.
//
// Each thread has a ring with one entry. A request is tied to an entry, and
// handed over by the thread which that belongs to, so one that has an entry
// free must not be busy with another.
type rings struct {
	queues   []*queue
	answered chan struct{} // closed when INIT is answered, or never will be
	dropped  bool          // it never will be
	joined   chan error    // what came of the threads that were there before INIT
	total    atomic.Int32
	waits    atomic.Int32 // threads of deferred and suspended requests
	failed   atomic.Bool  // a thread could not be had, and that was said
	nudges   atomic.Uint64
}

// queue is that of one processor.
type queue struct {
	id      uint16
	waiting atomic.Int32
}

// ride is what one thread needs.
type ride struct {
	flight
	queue   *queue
	ring    *sys.Ring
	header  []byte // struct fuse_uring_req_header
	payload []byte
	iov     [2]unix.Iovec

	in  [2][]byte // the pieces of the request at hand
	out [2][]byte
}

// struct fuse_uring_req_header: room for a header, for what depends on the
// opcode, and struct fuse_uring_ent_in_out: flags, commit_id, payload_sz.
const (
	ringOpAt      = 128
	ringEntryAt   = 256
	ringCommitAt  = ringEntryAt + 8
	ringPayloadAt = ringEntryAt + 16
	ringHeader    = ringEntryAt + 32
)

// PrepareRings makes threads that will carry requests over io_uring, of up to
// payload bytes beside their structures, once the answer to INIT has said so
// (FUSE_OVER_IO_URING). After an error there are none.
func (c *Conn) PrepareRings(payload int) error {
	cpus, err := sys.PossibleCPUs()
	if err != nil {
		return err
	}
	if cpus*spareRides > maxThreads/2 {
		return fmt.Errorf("%d possible processors take too many threads", cpus)
	}
	r := &rings{answered: make(chan struct{}), joined: make(chan error)}
	c.rings = r
	for id := range cpus {
		q := &queue{id: uint16(id)}
		r.queues = append(r.queues, q)
		for range spareRides {
			c.startRide(q, payload, true)
		}
	}
	if err := r.join(); err != nil {
		c.dropRings()
		return err
	}
	return nil
}

// join waits until all threads that were made before INIT have got one step
// further.
func (r *rings) join() (err error) {
	for range len(r.queues) * spareRides {
		if e := <-r.joined; e != nil {
			err = e
		}
	}
	return err
}

// dropRings ends the threads, if there are any, before INIT is answered.
func (c *Conn) dropRings() {
	if c.rings != nil {
		c.rings.dropped = true
		close(c.rings.answered)
		c.rings = nil
	}
}

// startRings has them begin, now that INIT is answered.
func (c *Conn) startRings() error {
	if c.rings == nil {
		return nil
	}
	close(c.rings.answered)
	if err := c.rings.join(); err != nil {
		return fmt.Errorf("FUSE over io_uring: %w", err)
	}
	return nil
}

func (c *Conn) startRide(q *queue, payload int, first bool) {
	r := c.rings
	r.total.Add(1)
	q.waiting.Add(1)
	c.threads.Go(func() {
		// The ring belongs to this thread, which stays on its processor and
		// ends with the goroutine.
		runtime.LockOSThread()
		t, err := newRide(q, payload)
		if first {
			r.joined <- err
		}
		if err == nil {
			defer c.freeRide(t)
			<-r.answered
			if r.dropped {
				return
			}
			err = c.board(t)
			if first {
				r.joined <- err
			} else if err == nil {
				c.nudge()
			}
		}
		switch {
		case err == nil:
			c.ride(t)
			return
		case !first && r.failed.CompareAndSwap(false, true):
			c.log.Warn("no further thread for requests", "cause", err)
		}
		q.waiting.Add(-1)
		r.total.Add(-1)
	})
}

func newRide(q *queue, payload int) (*ride, error) {
	var cpu unix.CPUSet
	cpu.Set(int(q.id))
	// A processor that is not there, or not for us, has no callers either.
	_ = unix.SchedSetaffinity(0, &cpu)

	page := os.Getpagesize()
	mem, err := sys.Buffer(page + payload)
	if err != nil {
		return nil, err
	}
	ring, err := sys.NewRing(2)
	if err != nil {
		sys.FreeBuffer(mem)
		return nil, err
	}
	t := &ride{queue: q, ring: ring, header: mem[:page], payload: mem[page:]}
	t.iov[0] = unix.Iovec{Base: &t.header[0], Len: ringHeader}
	t.iov[1] = unix.Iovec{Base: &t.payload[0], Len: uint64(payload)}
	return t, nil
}

func (c *Conn) freeRide(t *ride) {
	c.flights.remove(&t.flight)
	t.ring.Close()
	sys.FreeBuffer(t.header[:cap(t.header)])
}

// board gives the kernel the thread's entry. If it is refused, that is told at
// once.
func (c *Conn) board(t *ride) error {
	c.flights.add(&t.flight)
	sys.FuseRingRegister(t.ring, c.fd, t.queue.id, &t.iov)
	if err := t.ring.Submit(false); sys.IsShort(err) {
		return nil // ride submits it
	} else if err != nil {
		return err
	}
	if errno, ok := t.ring.Refused(); ok {
		return &sys.Error{Op: "io_uring", Path: "/dev/fuse", Detail: "register", Err: errno}
	}
	return nil
}

// nudge has the kernel send a request to the queue of this processor. It hands a
// request over when that comes, or when an answer does: one that came while all
// threads of the queue were busy does not go to a new one, but waits for an
// answer, and that may be long.
//
// What the kernel sends is data that it has cached of a file, none here. It has
// to be a regular file that the kernel knows, such as those that requests are
// about.
func (c *Conn) nudge() {
	var body [32]byte // struct fuse_notify_retrieve_out: unique, nodeid, offset, size
	// Two at a time with one number, and the kernel takes the answer to one for
	// that to the other.
	binary.NativeEndian.PutUint64(body[0:], nudgeUnique+2*c.rings.nudges.Add(1))
	for _, node := range c.flights.nodes() {
		binary.NativeEndian.PutUint64(body[8:], node)
		switch errno := c.notify(notifyRetrieve, body[:]); errno {
		case unix.EINVAL, unix.ENOENT:
			continue // a directory, or forgotten
		case 0, unix.ENODEV, unix.ENOTCONN, unix.ECONNABORTED:
		default:
			c.log.Error("requests over io_uring", "op", "retrieve", "cause", errno)
		}
		return
	}
}

// nudgeUnique and up are no numbers of requests: the kernel counts those up from 0,
// by two, as the lowest bit tells an interrupt from its request.
const nudgeUnique = 1 << 62

// ride carries requests until the connection ends.
func (c *Conn) ride(t *ride) {
	pause := faultPause
	for {
		errno, ok := t.ring.Completed()
		if ok && errno == 0 {
			c.carry(t)
			pause = faultPause
			continue
		}
		if !ok {
			err := t.ring.Submit(true)
			if err == nil {
				continue
			}
			errno = sys.Errno(err)
		}
		if errno == unix.ECANCELED || isEnd(errno) {
			if errno == unix.EBADF || errno == unix.EPERM {
				c.log.Error("requests over io_uring", "queue", t.queue.id, "cause", errno)
			}
			c.end()
			return
		}
		// What could not be submitted is submitted again. A command that has failed
		// has left its entry, so the kernel is given it anew.
		c.logOnce("requests over io_uring", errno, "queue", t.queue.id)
		if pause = min(2*pause, faultMost); !c.rest(pause) || ok && !c.boardAgain(t, pause) {
			c.end()
			return
		}
	}
}

// boardAgain gives the kernel the thread's entry, and returns false when the connection
// has ended.
func (c *Conn) boardAgain(t *ride, pause time.Duration) bool {
	for {
		err := c.board(t)
		if err == nil {
			return true
		}
		t.ring.Completed() // what said so
		c.logOnce("requests over io_uring", sys.Errno(err), "queue", t.queue.id)
		if pause = min(2*pause, faultMost); isEnd(sys.Errno(err)) || !c.rest(pause) {
			return false
		}
	}
}

// carry handles the request in the thread's entry.
func (c *Conn) carry(t *ride) {
	// As many have to wait as before, before this one may block.
	if t.queue.waiting.Add(-1) < 1 && c.rings.total.Load() < maxThreads {
		c.startRide(t.queue, len(t.payload), false)
	}
	id := binary.NativeEndian.Uint64(t.header[ringCommitAt:])
	n := c.handleRing(t)
	binary.NativeEndian.PutUint32(t.header[ringPayloadAt:], uint32(n-outHeaderSize))
	sys.FuseRingCommit(t.ring, c.fd, t.queue.id, id)
	t.queue.waiting.Add(1)
}

// handleRing returns the length of the answer, which has a header at least.
func (c *Conn) handleRing(t *ride) int {
	unique, op := uniqueOf(t.header), opcodeOf(t.header)
	payload := int(binary.NativeEndian.Uint32(t.header[ringPayloadAt:]))
	structure := int(binary.NativeEndian.Uint32(t.header)) - inHeaderSize - payload
	if payload > len(t.payload) || structure < 0 || structure > ringOpAt-inHeaderSize {
		c.log.Error("requests over io_uring: lengths that do not fit", "opcode", op, "payload", payload, "structure", structure)
		return putError(t.header, unique, unix.EIO)
	}
	// The structure goes behind the header, as in a message that is read.
	head := t.header[:inHeaderSize+structure]
	copy(head[inHeaderSize:], t.header[ringOpAt:])
	t.in = [...][]byte{head, t.payload[:payload]}
	t.out = [...][]byte{t.header[:outHeaderSize], t.payload}
	switch op {
	case opNotifyReply: // to a nudge
		return putError(t.header, unique, 0)
	case opIoctl:
		// Here alone data goes both ways, and a handler might write the answer
		// to where it still reads.
		t.in[1] = append([]byte(nil), t.in[1]...)
	}
	begin := [outHeaderSize]byte(head) // the header of the answer takes its place
	defer t.land()
	n, wait := c.handle(&t.flight, t.in[:], t.out[:])
	if wait != 0 {
		copy(head, begin[:])
		return c.waitRing(t, wait, head, payload)
	}
	if n < outHeaderSize { // what takes no answer does not come this way
		return putError(t.header, unique, 0)
	}
	return n
}

// waitRing has a request wait, and its thread with it, until there is an answer. It is
// for requests that are a structure and nothing else.
func (c *Conn) waitRing(t *ride, wait unix.Errno, head []byte, payload int) int {
	defer c.rings.waits.Add(-1)
	unique := uniqueOf(head)
	if c.rings.waits.Add(1) > maxRingWaits || payload > 0 {
		if c.Dropped != nil {
			c.Dropped(unique)
		}
		if opcodeOf(head) == opSetlkw {
			return putError(t.header, unique, unix.ENOLCK)
		}
		return putError(t.header, unique, unix.EAGAIN)
	}
	message := bytes.Clone(head)
	thread := make(chan bool, 1)
	r := c.deferRequest(&t.flight, wait, message, nil, thread)
	for {
		if !<-thread {
			return putError(t.header, unique, r.errno)
		}
		t.in = [...][]byte{message, nil}
		n, wait := c.handle(&t.flight, t.in[:], t.out[:])
		c.settle(r, wait)
		if wait == 0 {
			return max(n, outHeaderSize)
		}
	}
}
