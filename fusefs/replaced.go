package fusefs

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// lateFinds are files that were looked up just after a file was found to be gone.
//
// A file with a handle has no descriptor here. When its last name is replaced between
// a LOOKUP and the next request, the answer is ESTALE, and the kernel looks the path up
// again, once (LOOKUP_REVAL). So that the second attempt can't fail in the same way,
// for a moment after an ESTALE a descriptor of each file that is looked up is kept.
type lateFinds struct {
	until atomic.Int64 // when the moment ends, on the clock of started
	mu    sync.Mutex
	files []lateFind // the oldest first
	timer *time.Timer
}

type lateFind struct {
	id uint64
	fd int
}

// lateFindTime is far longer than the kernel takes to look again.
const lateFindTime = 500 * time.Millisecond

// maxLateFinds is a small part of the least number of descriptors that a server works with.
const maxLateFinds = 16

// begin begins the moment.
func (l *lateFinds) begin() {
	l.until.Store((time.Since(started) + lateFindTime).Nanoseconds())
}

// active reports whether files that are looked up are to be kept.
func (l *lateFinds) active() bool {
	until := l.until.Load()
	return until != 0 && time.Since(started).Nanoseconds() < until
}

// keep takes over a descriptor of a node.
func (l *lateFinds) keep(id uint64, fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) >= maxLateFinds {
		unix.Close(l.files[0].fd)
		l.files = append(l.files[:0], l.files[1:]...)
	}
	l.files = append(l.files, lateFind{id, fd})
	if l.timer == nil {
		l.timer = time.AfterFunc(2*lateFindTime, l.end)
	}
}

// end closes all descriptors when the moment is over.
func (l *lateFinds) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = nil
	if l.active() && len(l.files) > 0 {
		l.timer = time.AfterFunc(2*lateFindTime, l.end)
		return
	}
	l.closeAll()
}

func (l *lateFinds) closeAll() {
	for _, f := range l.files {
		unix.Close(f.fd)
	}
	l.files = nil
}

func (l *lateFinds) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.closeAll()
}

// open opens a node by what is kept of it; ESTALE if there is nothing.
func (l *lateFinds) open(id uint64, flags int) (int, unix.Errno) {
	fd, errno := l.path(id)
	if errno != 0 || flags&unix.O_PATH != 0 {
		return fd, errno
	}
	defer unix.Close(fd)
	return sys.Reopen(fd, flags&^unix.O_NOFOLLOW) // the entry in /proc is a link
}

// path returns an O_PATH descriptor of a node.
func (l *lateFinds) path(id uint64) (int, unix.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range slices.Backward(l.files) {
		if f.id == id {
			fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
			return fd, sys.Errno(err)
		}
	}
	return -1, unix.ESTALE
}

// openHandle opens a node by its handle on m.
func (f *FS) openHandle(m *mount, n *node, flags int) (int, unix.Errno) {
	fd, errno := sys.OpenHandle(m.fd, n.handle(), flags)
	if errno == unix.ENOMEM {
		// On ext4 that also says that a new file is about to get the inode.
		fd, errno = sys.OpenHandle(m.fd, n.handle(), flags)
	}
	if errno != unix.ESTALE && errno != unix.ENOMEM {
		return fd, errno
	}
	if fd, late := f.lateFinds.open(n.id, flags); late != unix.ESTALE {
		return fd, late
	}
	f.lateFinds.begin()
	return -1, unix.ESTALE
}

// findLate is internName for a file of which a descriptor is kept.
func (f *FS) findLate(dir *node, dirfd int, name string, out *fuse.EntryOut) unix.Errno {
	fd, errno := openPath(dirfd, name)
	if errno != 0 {
		return errno
	}
	n, errno := f.identify(fd, false, dir, name, out)
	if errno != 0 || n.isDir() || f.mountOf(n) == nil {
		unix.Close(fd)
		return errno
	}
	f.lateFinds.keep(n.id, fd)
	return 0
}
