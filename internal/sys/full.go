package sys

import (
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// full is what gives descriptors back when the process has none left.
var full struct {
	mu   sync.Mutex
	last int
	all  map[int]func() bool
}

// OnFull has fn called when a file can't be opened as the process has no descriptor left
// (EMFILE). It closes some that can be opened again, and reports whether there were any.
// It may not open files, nor wait for anybody who does. The caller calls remove in the end.
func OnFull(fn func() bool) (remove func()) {
	full.mu.Lock()
	defer full.mu.Unlock()
	if full.all == nil {
		full.all = make(map[int]func() bool)
	}
	full.last++
	id := full.last
	full.all[id] = fn
	return func() {
		full.mu.Lock()
		defer full.mu.Unlock()
		delete(full.all, id)
	}
}

// patience is for a call that opens a file.
type patience struct {
	tries int
	pause time.Duration
}

// again reports whether a call that failed with errno is to be made once more. Without
// descriptors it waits for those of other calls, for a quarter of a second at most. Then
// it is ENFILE: the limit is the server's, and not that of whoever the call is for.
func (p *patience) again(errno *unix.Errno) bool {
	if *errno == unix.EINTR {
		return true
	}
	if *errno != unix.EMFILE {
		return false
	}
	full.mu.Lock()
	fns := slices.Collect(maps.Values(full.all))
	full.mu.Unlock()
	if len(fns) == 0 {
		return false
	}
	const most = 64
	for _, fn := range fns {
		if p.tries < most && fn() {
			p.tries++
			return true
		}
	}
	if p.pause *= 2; p.pause == 0 {
		p.pause = time.Millisecond
	}
	if p.pause > 128*time.Millisecond {
		*errno = unix.ENFILE
		return false
	}
	time.Sleep(p.pause)
	return true
}

// Duplicate is fcntl(2) with F_DUPFD_CLOEXEC.
func Duplicate(fd int) (int, unix.Errno) {
	var p patience
	for {
		again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		errno := toErrno(err)
		if errno == 0 || !p.again(&errno) {
			return again, errno
		}
	}
}

// ReadFile reads a file of /proc. os.ReadFile would ask Go's poller about it.
func ReadFile(path string) ([]byte, error) {
	fd, errno := OpenAt(unix.AT_FDCWD, path, unix.O_RDONLY, 0)
	if errno != 0 {
		return nil, &Error{Op: "open", Path: path, Err: errno}
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 2048)
	for {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &Error{Op: "read", Path: path, Err: toErrno(err)}
		case n == 0:
			return buf, nil
		}
		buf = buf[:len(buf)+n]
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, cap(buf))
		}
	}
}
