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
