package sys

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below work on O_PATH descriptors, which is all that a server has
// of most files. Where the kernel has no call that takes one, they go through
// the descriptor's entry in /proc, which leads to the very file and follows no
// symbolic link.

func procFd(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func toErrno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	return unix.EIO
}

// Errno returns the errno of an error from golang.org/x/sys/unix, 0 for nil.
func Errno(err error) unix.Errno { return toErrno(err) }

// Reopen opens what the descriptor fd refers to with other flags.
func Reopen(fd, flags int) (int, unix.Errno) {
	for {
		n, err := unix.Open(procFd(fd), flags|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, toErrno(err)
		}
		return n, 0
	}
}

// Stat is fstat(2).
func Stat(fd int, st *unix.Stat_t) unix.Errno {
	return toErrno(unix.Fstatat(fd, "", st, unix.AT_EMPTY_PATH))
}

// StatAt is fstatat(2) that does not follow links.
func StatAt(fd int, name string, st *unix.Stat_t) unix.Errno {
	return toErrno(unix.Fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW))
}

// Chmod changes the mode of a file. fchmodat2(2) of Linux 6.6 would take the
// descriptor; the entry in /proc works on every kernel.
func Chmod(fd int, mode uint32) unix.Errno {
	return toErrno(unix.Chmod(procFd(fd), mode))
}

// Chown changes the owners of a file; ^uint32(0) leaves one as it is.
func Chown(fd int, uid, gid uint32) unix.Errno {
	return toErrno(unix.Fchownat(fd, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH))
}

// Utimes sets the access and modification times of a file.
func Utimes(fd int, ts *[2]unix.Timespec) unix.Errno {
	p, err := unix.BytePtrFromString(procFd(fd))
	if err != nil {
		return unix.EINVAL
	}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, atFdcwd(), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	return errno
}

// GetXattr reads an extended attribute; an empty dest asks for its size.
func GetXattr(fd int, name string, dest []byte) (int, unix.Errno) {
	n, err := unix.Getxattr(procFd(fd), name, dest)
	return n, toErrno(err)
}

// SetXattr sets an extended attribute; flags are XATTR_CREATE or XATTR_REPLACE.
func SetXattr(fd int, name string, value []byte, flags int) unix.Errno {
	return toErrno(unix.Setxattr(procFd(fd), name, value, flags))
}

// ListXattr lists the names of extended attributes, each ended by a zero byte.
func ListXattr(fd int, dest []byte) (int, unix.Errno) {
	n, err := unix.Listxattr(procFd(fd), dest)
	return n, toErrno(err)
}

// RemoveXattr removes an extended attribute.
func RemoveXattr(fd int, name string) unix.Errno {
	return toErrno(unix.Removexattr(procFd(fd), name))
}

// Readlink reads a symbolic link that fd, opened with O_PATH|O_NOFOLLOW,
// refers to.
func Readlink(fd int) ([]byte, unix.Errno) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return nil, toErrno(err)
	}
	return buf[:n], 0
}

// Ioctl is ioctl(2) with a pointer to arg, of which the kernel reads or writes
// as much as the command says.
func Ioctl(fd int, cmd uint32, arg []byte) (int, unix.Errno) {
	var p unsafe.Pointer
	if len(arg) > 0 {
		p = unsafe.Pointer(&arg[0])
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(p))
	return int(r), errno
}

func atFdcwd() uintptr {
	fd := unix.AT_FDCWD
	return uintptr(fd)
}
