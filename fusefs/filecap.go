package fusefs

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// capLocks keep the capabilities of a file from being set or removed while they are
// away. Each file that is being changed has a lock of its own: a source that does not
// answer for one file holds back no other.
type capLocks struct {
	mu sync.Mutex
	of map[*node]*capLock
}

type capLock struct {
	sync.RWMutex
	users int // guarded by capLocks.mu
}

func (c *capLocks) acquire(n *node) *capLock {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.of[n]
	if l == nil {
		l = new(capLock)
		if c.of == nil {
			c.of = make(map[*node]*capLock)
		}
		c.of[n] = l
	}
	l.users++
	return l
}

func (c *capLocks) release(n *node, l *capLock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(c.of, n)
	}
}

// keepFileCap runs a call that changes a file and leaves its capabilities, which
// the source would remove.
//
// The kernel removes them itself, before the request, where they have to go. They
// stay with a store to a mapping; with data that it writes back, as they may have
// come since; and with a file that overlayfs has copied up with them and then
// gives its size and owners.
//
// The call gives the file the owners uid and gid, or leaves those that are invalidID.
// A chown(2) of somebody else meanwhile has found no capabilities to remove, so they
// are not given to a file with other owners.
func (f *FS) keepFileCap(n *node, fd int, uid, gid uint32, call func() unix.Errno) unix.Errno {
	if !n.isRegular() {
		return call()
	}
	var value [maxFileCap]byte
	lock := f.capLocks.acquire(n)
	defer f.capLocks.release(n, lock)
	lock.RLock()
	if _, errno := sys.GetXattr(fd, xattrFileCap, value[:]); errno != 0 {
		defer lock.RUnlock()
		return call()
	}
	lock.RUnlock()
	lock.Lock()
	defer lock.Unlock()
	var before, after unix.Stat_t
	if errno := sys.Stat(fd, &before); errno != 0 {
		return errno
	}
	size, errno := sys.GetXattr(fd, xattrFileCap, value[:])
	// Of a source that is FUSE, too, the kernel announces their removal by a change
	// as it does chown(2), which clears set-id bits. Without them it has nothing to
	// announce.
	if errno != 0 || sys.RemoveXattr(fd, xattrFileCap) == unix.ENODATA {
		return call()
	}
	errno = call()
	if errno != 0 || uid == invalidID {
		uid = before.Uid
	}
	if errno != 0 || gid == invalidID {
		gid = before.Gid
	}
	lost := sys.SetXattr(fd, xattrFileCap, value[:size], unix.XATTR_CREATE)
	if lost == unix.EEXIST { // somebody else has set others meanwhile
		return errno
	}
	if sys.Stat(fd, &after) != 0 || after.Uid != uid || after.Gid != gid {
		_ = sys.RemoveXattr(fd, xattrFileCap)
	}
	if errno == 0 {
		errno = lost
	}
	return errno
}

// changeXattr runs a call that sets or removes an attribute.
func (f *FS) changeXattr(n *node, name string, call func() unix.Errno) unix.Errno {
	if name == xattrFileCap {
		lock := f.capLocks.acquire(n)
		defer f.capLocks.release(n, lock)
		lock.Lock()
		defer lock.Unlock()
	}
	return call()
}
