package fuseconn

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Handler handles one message. in and out are the pieces of which the message
// is, and of which the answer will be, the sum. The first of each begins with
// its header; if there are two, it ends with the structure that belongs to a message,
// and with the header of an answer, and what is read from the second may lie where the
// answer is written to. n is the answer's length, 0 if it has none; without ok nothing
// could be made of the message.
//
// It is called by many threads at a time. in and out are of no use to anybody
// after it has returned.
type Handler func(in, out [][]byte) (n int, ok bool)

// Conn is a connection to the kernel.
type Conn struct {
	Init Init // what the kernel can do

	// To be set before Serve.

	// Channels is how many descriptors the threads may have for themselves; others
	// share one. 0 is one for each.
	Channels int
	// Remote says that requests wait for others than this machine.
	Remote bool
	// Timeout is how old the kernel lets a request become, in seconds, before it aborts
	// the connection; 0 if that does not matter to it. See RequestTimeout.
	Timeout uint16
	// Limit is how long a request may wait, deferred or suspended, before it is
	// answered without a further try; 0 if there is no limit. Timeout sets it.
	Limit time.Duration
	// Dropped is told of each request that was answered while it was deferred or
	// suspended: it has been interrupted, its time is up, or the connection has ended.
	Dropped func(unique uint64)

	log     *slog.Logger
	handler Handler
	request []byte // INIT, until it is handled
	unique  uint64 // of INIT
	pending bool   // INIT has no answer
	payload int    // the most that a message carries beside its structures

	mu sync.RWMutex // held for reading while fd is used
	fd int          // -1 when closed

	receive, send func(fd int, message []byte) (int, error) // read(2), write(2)
	faults        faults

	flights   flights
	deferrals deferrals
	channels  channels
	threads   sync.WaitGroup // that carry messages
	others    sync.WaitGroup // goroutines that do so for a while
	readers   readers
	rings     *rings // nil without
}

// Open reads INIT from dev, an open /dev/fuse of a mount. dev stays the caller's
// and may be closed.
func Open(dev *os.File, log *slog.Logger) (*Conn, error) {
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &sys.Error{Op: "fcntl", Path: dev.Name(), Err: err}
	}
	c := &Conn{log: log, fd: fd, receive: unix.Read, send: unix.Write, flights: flights{all: make(map[*flight]struct{}), over: make(chan struct{})}}
	if err := c.readInit(dev.Name()); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn) readInit(path string) error {
	// A thread waits in read(2), whatever the descriptor was before.
	if err := unix.SetNonblock(c.fd, false); err != nil {
		return &sys.Error{Op: "fcntl", Path: path, Err: err}
	}
	buf := make([]byte, minReadBuffer)
	n, errno := c.read(c.fd, buf)
	if errno != 0 {
		return &sys.Error{Op: "read", Path: path, Detail: "INIT", Err: errno}
	}
	c.request = buf[:n]
	if n >= inHeaderSize {
		c.unique, c.pending = uniqueOf(c.request), true
	}
	var ok bool
	if c.Init, ok = ParseInit(c.request); !ok {
		return &sys.Error{Op: "read", Path: path, Detail: fmt.Sprintf("INIT of %d bytes", n), Err: unix.EPROTO}
	}
	return nil
}

// Serve answers INIT and carries requests from then on, until the file system
// is unmounted. After an error the connection is closed.
func (c *Conn) Serve(h Handler) error {
	c.handler = h
	answer, err := c.answerInit()
	if err == nil {
		c.payload = payloadOf(answer, os.Getpagesize())
		err = c.startReaders() // which are there before the requests
	}
	if err != nil {
		c.dropRings()
		c.Close()
		return err
	}
	c.pending = false
	if _, err = unix.Write(c.fd, answer); err != nil {
		err = &sys.Error{Op: "write", Path: "/dev/fuse", Detail: "INIT", Err: err}
		c.dropRings()
	} else {
		err = c.startRings()
	}
	if err != nil {
		c.Close()
	}
	return err
}

func (c *Conn) answerInit() ([]byte, error) {
	out := make([]byte, initOutSize)
	n, _ := c.handle(new(flight), [][]byte{c.request}, [][]byte{out})
	c.request = nil
	if errno := errnoOf(out); errno != 0 {
		return nil, fmt.Errorf("INIT of protocol 7.%d: %w", c.Init.Minor, errno)
	}
	if n < outHeaderSize+24 { // up to max_write, which is as old as the protocol
		return nil, errors.New("INIT has an answer that is too short")
	}
	c.askTimeout(out[:n])
	return out[:n], nil
}

// Wait returns when the connection has ended and no request is under way any
// more.
func (c *Conn) Wait() {
	c.threads.Wait()
	c.others.Wait()
	c.Close()
}

// Close gives the connection up. If no other descriptor of it is left, the
// kernel ends it. If INIT has no answer yet, it is refused: a mount that waits for the
// answer (sys.FuseMountServed) has a descriptor, too, and would wait for ever.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		if c.pending {
			c.pending = false
			refusal := make([]byte, outHeaderSize)
			putError(refusal, c.unique, unix.EIO)
			_, _ = unix.Write(c.fd, refusal)
		}
		unix.Close(c.fd)
		c.fd = -1
	}
}

// withFD runs fn on the connection unless that is closed.
func (c *Conn) withFD(fn func(fd int) unix.Errno) unix.Errno {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return unix.ENODEV
	}
	return fn(c.fd)
}

// handle has a request answered, and returns the answer's length, 0 if it has
// none. Deferred or Suspended say that there is no answer yet.
//
// The flight is to land when the answer is written or the request is deferred.
func (c *Conn) handle(w *flight, in, out [][]byte) (n int, wait unix.Errno) {
	unique, op := uniqueOf(in[0]), opcodeOf(in[0])
	if op == opInterrupt {
		if len(in[0]) >= inHeaderSize+8 {
			c.interrupt(interrupts(in[0]))
		}
		return 0, 0
	}
	w.node.Store(nodeOf(in[0]))
	w.unique.Store(unique)
	if c.flights.ended.Load() {
		c.interrupt(unique)
	}
	n = c.call(in, out)
	if !expectsAnswer(op) {
		return 0, 0
	}
	if n <= 0 {
		return putError(out[0], unique, unix.EIO), 0
	}
	// The kernel refuses an answer with an errno that no system call may return,
	// and the caller would wait for ever. File systems below do let such slip:
	// 524, ENOTSUPP, is one of NFS.
	switch errno := errnoOf(out[0]); {
	case errno < 512:
		return n, 0
	case errno == Deferred || errno == Suspended:
		return 0, errno
	case errno == 524:
		return putError(out[0], unique, unix.EOPNOTSUPP), 0
	}
	return putError(out[0], unique, unix.EIO), 0
}

// call calls the handler: 0 is no answer, less that it could make nothing of
// the message.
func (c *Conn) call(in, out [][]byte) (n int) {
	defer func() {
		if v := recover(); v != nil {
			c.log.Error("panic in the file system", "cause", fmt.Sprint(v), "stack", string(debug.Stack()))
			n = -1
		}
	}()
	n, ok := c.handler(in, out)
	if !ok && n == 0 {
		return -1
	}
	return n
}

// end notes that the kernel has ended the connection: nobody waits for the
// requests that are still under way.
func (c *Conn) end() {
	c.unpark()
	for _, unique := range c.flights.end() {
		c.interrupt(unique)
	}
	c.endDeferrals()
}
