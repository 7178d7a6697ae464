package fuseconn

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Calls of the device fail for two reasons: the connection has ended, or the call
// could not be done this time. Memory limits of the cgroup make them ENOMEM or
// EFAULT, and the kernel then has answered the request with EIO.
const (
	faultPause = time.Millisecond // before the first repetition; twice as long each time
	faultMost  = time.Second
	faultTries = 10 // of an answer or a notification
)

// isEnd reports whether a read(2) or write(2) of the device failed because the connection
// has ended, or because the descriptor can't ever be one of a connection.
func isEnd(errno unix.Errno) bool {
	switch errno {
	case unix.ENODEV, unix.ECONNABORTED, unix.ENOTCONN, unix.EBADF, unix.EPERM:
		return true
	}
	return false
}

// faults are the errors that have been logged: each once.
type faults struct {
	mu     sync.Mutex
	logged map[fault]bool
}

type fault struct {
	what  string
	errno unix.Errno
}

// logOnce logs an error of the device that did not end the connection.
func (c *Conn) logOnce(what string, errno unix.Errno, args ...any) {
	f := &c.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.logged[fault{what, errno}] {
		return
	}
	if f.logged == nil {
		f.logged = make(map[fault]bool)
	}
	f.logged[fault{what, errno}] = true
	c.log.Error(what, append(args, "cause", errno)...)
}

// rest sleeps, or returns false when the connection has ended.
func (c *Conn) rest(pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-c.flights.over:
		return false
	}
}

// read reads one message. An error means that there will be no more.
func (c *Conn) read(fd int, buf []byte) (int, unix.Errno) {
	pause := faultPause
	for {
		n, err := c.receive(fd, buf)
		switch errno := sys.Errno(err); {
		case errno == 0 && n == 0:
			return 0, unix.ENODEV // not /dev/fuse, whose ends are errors
		case errno == 0:
			return n, 0
		case errno == unix.EINTR, errno == unix.EAGAIN, errno == unix.ENOENT: // ENOENT: the request was interrupted before it was read
		case isEnd(errno):
			return 0, errno
		default:
			c.logOnce("read /dev/fuse", errno)
			if !c.rest(pause) {
				return 0, unix.ENODEV
			}
			pause = min(2*pause, faultMost)
		}
	}
}

// write writes an answer to where its request came from. The caller waits until the
// kernel has taken one, so an answer that it refuses becomes EIO.
func (c *Conn) write(fd int, out []byte) {
	pause := faultPause
	for tries := 0; tries < faultTries; {
		_, err := c.send(fd, out)
		switch errno := sys.Errno(err); {
		case errno == 0, errno == unix.ENOENT, isEnd(errno): // nobody waits for it any more
			return
		case errno == unix.EINTR:
		case errno == unix.ENOMEM, errno == unix.EAGAIN, len(out) == outHeaderSize:
			c.logOnce("write /dev/fuse", errno, "bytes", len(out))
			tries++
			if !c.rest(pause) {
				return
			}
			pause = min(2*pause, faultMost)
		default:
			c.logOnce("write /dev/fuse", errno, "bytes", len(out))
			out = out[:putError(out, uniqueOf(out), unix.EIO)]
		}
		if tries == faultTries && len(out) > outHeaderSize {
			out, tries = out[:putError(out, uniqueOf(out), unix.EIO)], 0
		}
	}
	c.log.Error("write /dev/fuse: a request is left without an answer", "unique", uniqueOf(out))
}
