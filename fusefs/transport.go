package fusefs

import "golang.org/x/sys/unix"

// transport carries the kernel's requests to the file system and its answers
// back. It is all that the file system knows of its connection.
//
// A notification may have to wait for requests that the kernel has under way
// (INVAL_ENTRY takes the lock of the directory), so it is sent without any lock
// held, and never from within a request.
type transport interface {
	// registerBacking makes a passthrough file of a descriptor.
	registerBacking(fd int) (id int32, errno unix.Errno)
	unregisterBacking(id int32) unix.Errno

	// invalidateEntry has the kernel look a name up again (FUSE_NOTIFY_INVAL_ENTRY
	// with EXPIRE_ONLY); ENOENT if it knows nothing of it. Before Linux 6.2 it
	// forgets the name altogether, so that getcwd(2) fails in a directory that
	// is in use.
	invalidateEntry(parent uint64, name string) unix.Errno

	// invalidateInode has the kernel forget the attributes of a node, and its
	// cached data from off on, length bytes or, if that is 0 or less, all
	// (FUSE_NOTIFY_INVAL_INODE). With a negative off it is attributes only.
	invalidateInode(id uint64, off, length int64) unix.Errno

	// increaseEpoch makes all names that the kernel has cached stale
	// (FUSE_NOTIFY_INC_EPOCH, Linux 6.16); ENOSYS if the kernel can't.
	increaseEpoch() unix.Errno

	// serve begins to carry requests, and returns.
	serve()
	// wait returns when the file system has been unmounted and no request is
	// under way any more. The transport is of no use then.
	wait()
}

// kernelInit is what the kernel said of itself in INIT.
type kernelInit struct {
	flags uint64 // fuse.CAP_*
	minor uint32 // of the protocol, 7.minor
}
