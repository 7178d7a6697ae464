package fuseconn

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

const (
	notifyInvalInode = 2 // FUSE_NOTIFY_INVAL_INODE
	notifyInvalEntry = 3 // FUSE_NOTIFY_INVAL_ENTRY
	notifyRetrieve   = 5 // FUSE_NOTIFY_RETRIEVE
	notifyIncEpoch   = 8 // FUSE_NOTIFY_INC_EPOCH, Linux 6.16
	notifyPrune      = 9 // FUSE_NOTIFY_PRUNE, Linux 6.18

	expireOnly = 1 // FUSE_EXPIRE_ONLY
)

// RegisterBacking makes a passthrough file of a descriptor, whose reads and
// writes have the credentials of the calling thread.
func (c *Conn) RegisterBacking(fd int) (id int32, errno unix.Errno) {
	errno = c.withFD(func(dev int) (errno unix.Errno) {
		id, errno = sys.FuseBackingOpen(dev, fd)
		return errno
	})
	return id, errno
}

// UnregisterBacking takes it back; files that are open through it go on.
func (c *Conn) UnregisterBacking(id int32) unix.Errno {
	return c.withFD(func(dev int) unix.Errno { return sys.FuseBackingClose(dev, id) })
}

// A notification may have to wait for requests that the kernel has under way
// (INVAL_ENTRY takes the lock of the directory), so it is sent without any lock
// held, and never from within a request.

// InvalidateEntry has the kernel look a name up again (with EXPIRE_ONLY); ENOENT
// if it knows nothing of it. Before Linux 6.2 it forgets the name altogether, so
// that getcwd(2) fails in a directory that is in use.
func (c *Conn) InvalidateEntry(parent uint64, name string) unix.Errno {
	return c.invalidateEntry(parent, name, expireOnly)
}

// DropEntry has the kernel drop a name and what it has cached below. getcwd(2) then
// fails in a directory that is in use, and what is mounted there is unmounted, as after
// rmdir(2). ENOENT if the kernel knows nothing of it.
func (c *Conn) DropEntry(parent uint64, name string) unix.Errno {
	return c.invalidateEntry(parent, name, 0)
}

func (c *Conn) invalidateEntry(parent uint64, name string, flags uint32) unix.Errno {
	// struct fuse_notify_inval_entry_out: parent, namelen, flags; the name and a zero byte
	body := make([]byte, 16+len(name)+1)
	binary.NativeEndian.PutUint64(body[0:], parent)
	binary.NativeEndian.PutUint32(body[8:], uint32(len(name)))
	binary.NativeEndian.PutUint32(body[12:], flags)
	copy(body[16:], name)
	return c.notify(notifyInvalEntry, body)
}

// InvalidateInode has the kernel forget the attributes of a node, and its
// cached data from off on, length bytes or, if that is 0 or less, all. With a
// negative off it is attributes only.
func (c *Conn) InvalidateInode(id uint64, off, length int64) unix.Errno {
	var body [24]byte // struct fuse_notify_inval_inode_out: ino, off, len
	binary.NativeEndian.PutUint64(body[0:], id)
	binary.NativeEndian.PutUint64(body[8:], uint64(off))
	binary.NativeEndian.PutUint64(body[16:], uint64(length))
	return c.notify(notifyInvalInode, body[:])
}

// IncreaseEpoch makes all names that the kernel has cached stale; ENOSYS if the
// kernel can't.
func (c *Conn) IncreaseEpoch() unix.Errno {
	errno := c.notify(notifyIncEpoch, nil)
	if errno == unix.EINVAL { // a kernel that does not know this code
		errno = unix.ENOSYS
	}
	return errno
}

// Prune has the kernel forget those of the nodes that nothing refers to: no open file,
// working directory or mount, and no cached name below. ENOSYS if the kernel can't.
func (c *Conn) Prune(ids []uint64) unix.Errno {
	// struct fuse_notify_prune_out: count, padding, spare; the ids
	body := make([]byte, 16+8*len(ids))
	binary.NativeEndian.PutUint32(body[0:], uint32(len(ids)))
	for i, id := range ids {
		binary.NativeEndian.PutUint64(body[16+8*i:], id)
	}
	errno := c.notify(notifyPrune, body)
	if errno == unix.EINVAL { // a kernel that does not know this code
		errno = unix.ENOSYS
	}
	return errno
}

func (c *Conn) notify(code uint32, body []byte) unix.Errno {
	message := make([]byte, outHeaderSize, outHeaderSize+len(body))
	binary.NativeEndian.PutUint32(message[0:], uint32(outHeaderSize+len(body)))
	binary.NativeEndian.PutUint32(message[4:], code) // unique 0 says that it answers nothing
	message = append(message, body...)
	pause := faultPause
	for tries := 0; ; tries++ {
		errno := c.withFD(func(fd int) unix.Errno {
			for {
				if _, err := c.send(fd, message); err != unix.EINTR {
					return sys.Errno(err)
				}
			}
		})
		// The kernel would go on with what it has cached.
		if errno != unix.ENOMEM && errno != unix.EFAULT && errno != unix.EAGAIN || tries == faultTries {
			return errno
		}
		c.logOnce("notify /dev/fuse", errno, "code", code)
		if !c.rest(pause) {
			return unix.ENODEV
		}
		pause = min(2*pause, faultMost)
	}
}
