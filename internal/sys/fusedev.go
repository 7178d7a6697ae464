package sys

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The ioctls of /dev/fuse: include/uapi/linux/fuse.h.
const (
	fuseDevClone        = 0x8004e500 // FUSE_DEV_IOC_CLONE, Linux 4.2
	fuseDevBackingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN, Linux 6.9
	fuseDevBackingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE, Linux 6.9
	fuseDevSyncInit     = 0xe503     // FUSE_DEV_IOC_SYNC_INIT, Linux 6.18
)

// FuseClone opens /dev/fuse once more for the connection of dev. What is read
// from a descriptor has to be answered on it; the kernel keeps a list of such
// requests, with a lock, for each.
func FuseClone(dev int) (int, error) {
	const path = "/dev/fuse"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{Op: "open", Path: path, Err: err}
	}
	var arg [4]byte
	binary.NativeEndian.PutUint32(arg[:], uint32(dev))
	if _, errno := Ioctl(fd, fuseDevClone, arg[:]); errno != 0 {
		unix.Close(fd)
		return -1, &Error{Op: "ioctl", Path: path, Detail: "clone", Err: errno}
	}
	return fd, nil
}

// fuseSyncInit has the mount of dev, which has none yet, wait for the answer to INIT.
// Before Linux 6.18 that is ENOTTY.
func fuseSyncInit(dev int) unix.Errno {
	_, errno := Ioctl(dev, fuseDevSyncInit, nil)
	return errno
}

// FuseBackingOpen gives the connection of dev a file for passthrough. The
// calling thread's credentials are those of all reads and writes of it.
func FuseBackingOpen(dev, fd int) (id int32, errno unix.Errno) {
	var arg [16]byte // struct fuse_backing_map: fd, flags, padding
	binary.NativeEndian.PutUint32(arg[:], uint32(fd))
	n, errno := Ioctl(dev, fuseDevBackingOpen, arg[:])
	return int32(n), errno
}

// FuseBackingClose takes it back. Files that are open through it go on.
func FuseBackingClose(dev int, id int32) unix.Errno {
	var arg [4]byte
	binary.NativeEndian.PutUint32(arg[:], uint32(id))
	_, errno := Ioctl(dev, fuseDevBackingClose, arg[:])
	return errno
}

// The commands of FUSE over io_uring (Linux 6.14): FUSE_IO_URING_CMD_REGISTER
// and FUSE_IO_URING_CMD_COMMIT_AND_FETCH. Each is completed when there is a
// request, and takes struct fuse_uring_cmd_req: flags, commit_id, qid.
const (
	fuseRingRegister = 1
	fuseRingCommit   = 2
)

// FuseRingRegister gives a queue of the connection memory for one request at a
// time: struct fuse_uring_req_header and the payload. There is a queue for each
// possible processor.
func FuseRingRegister(r *Ring, dev int, queue uint16, iov *[2]unix.Iovec) {
	r.Command(dev, fuseRingRegister, iov[:], ringRequest(queue, 0))
}

// FuseRingCommit says that the answer to a request is in the memory where the
// request was, and asks for the next one.
func FuseRingCommit(r *Ring, dev int, queue uint16, id uint64) {
	r.Command(dev, fuseRingCommit, nil, ringRequest(queue, id))
}

func ringRequest(queue uint16, id uint64) (args [32]byte) {
	binary.NativeEndian.PutUint64(args[8:], id)
	binary.NativeEndian.PutUint16(args[16:], queue)
	return args
}
