package fusefs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// lateFiles are open files that this server has opened after the kernel, or has
// not at all. For an open file with passthrough the kernel opens the source's file
// by itself; if it is open to be read, the server needs it for hardly anything:
// locks, SEEK_DATA, ioctls. To open and close it there costs as much as all else
// that happens to such a request, and it takes one of the descriptors.
type lateFiles struct {
	last atomic.Uint64 // handle
	mu   sync.Mutex
	fds  map[uint64]int // by handle; those that are open here
	open atomic.Int32   // len(fds)
}

// firstLate is the first handle of such a file. Those of others are descriptors,
// which are smaller.
const firstLate = 1 << 32

// isDescriptor reports whether the handle of an open file is this server's descriptor
// of it. A late file's is not, and with CacheExclusive no file is opened here.
func (f *FS) isDescriptor(fh uint64) bool { return f.cache.Mode != CacheExclusive && fh < firstLate }

// openLate answers an OPEN without opening the file, if that may be. A file that
// is not open is looked at for set-id bits (see begin), again only where it is known
// that somebody has changed it since; so this is for sources that report that.
func (f *FS) openLate(n *node, flags uint32, out *fuse.OpenOut) bool {
	const not = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_SYNC | unix.O_DIRECT | unix.O_NOATIME
	if flags&not != 0 || f.asCallers || f.remoteData || f.passOff.Load() {
		return false
	}
	if m := f.mountOf(n); m == nil || !m.watched {
		return false
	}
	u := n.uses()
	o := &u.open
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == 0 && (o.backing == 0 || !f.watch.undisturbed(o.looked)) {
		p := f.path(n)
		if p.errno != 0 {
			return false
		}
		f.begin(n, o, p.fd, true)
		if o.backing != 0 {
			p = f.fds.lend(n, p) // more is asked of a file that is open
		}
		p.done()
	}
	if o.backing == 0 {
		return false
	}
	out.Fh = firstLate + f.late.last.Add(1)
	f.attach(n, u, flags, out)
	return true
}

// descriptor returns that of the open file fh of n.
func (f *FS) descriptor(n *node, fh uint64) (int, unix.Errno) {
	if fh < firstLate {
		return int(fh), 0
	}
	l := &f.late
	l.mu.Lock()
	defer l.mu.Unlock()
	if fd, ok := l.fds[fh]; ok {
		return fd, 0
	}
	// The kernel has it open, so nothing can make this wait.
	fd, errno := f.reopen(n, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if errno != 0 {
		return -1, errno
	}
	if l.fds == nil {
		l.fds = make(map[uint64]int)
	}
	l.fds[fh] = fd
	l.open.Store(int32(len(l.fds)))
	return fd, 0
}

// close closes the open file fh.
func (l *lateFiles) close(fh uint64) {
	if fh < firstLate {
		unix.Close(int(fh))
		return
	}
	if l.open.Load() == 0 {
		return
	}
	l.mu.Lock()
	fd, ok := l.fds[fh]
	delete(l.fds, fh)
	l.open.Store(int32(len(l.fds)))
	l.mu.Unlock()
	if ok {
		unix.Close(fd)
	}
}
