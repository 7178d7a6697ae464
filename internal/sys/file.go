package sys

import (
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below work on O_PATH descriptors, which is all that a server has
// of most files. Where the kernel has no call that takes one, they go through
// the descriptor's entry in /proc, which leads to the very file and follows no
// symbolic link.

func procFd(fd int) string { return procDir + strconv.Itoa(fd) }

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

// OpenAt is openat(2), O_CLOEXEC.
func OpenAt(dirfd int, name string, flags int, mode uint32) (int, unix.Errno) {
	var b nameBuf
	p, errno := b.of(name)
	if errno != 0 {
		return -1, errno
	}
	return openAt(uintptr(dirfd), p, flags, mode)
}

// Reopen opens what the descriptor fd refers to with other flags.
func Reopen(fd, flags int) (int, unix.Errno) {
	var b procPath
	dir, name := b.of(fd)
	return openAt(dir, name, flags, 0)
}

func openAt(dirfd uintptr, name *byte, flags int, mode uint32) (int, unix.Errno) {
	for p := (patience{}); ; {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, dirfd, uintptr(unsafe.Pointer(name)),
			uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), uintptr(mode), 0, 0)
		if errno == 0 {
			return int(fd), 0
		}
		if !p.again(&errno) {
			return -1, errno
		}
	}
}

// GrowDescriptors makes the process's table of descriptors large enough for n. The
// kernel doubles a full one, and then waits until no processor looks at the old one
// any more: milliseconds, each time, in which whoever opens a file waits as well.
// fd is any descriptor.
func GrowDescriptors(fd, n int) {
	if last, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, n-1); err == nil {
		unix.Close(last)
	}
}

// MayExecute asks whether the thread, with its file system ids, may execute what
// the descriptor fd refers to (faccessat2(2), Linux 5.8; before it answers ENOSYS).
func MayExecute(fd int) unix.Errno { return MayAccess(fd, unix.X_OK) }

// MayAccess is MayExecute for any of unix.R_OK, W_OK and X_OK.
func MayAccess(fd int, mode uint32) unix.Errno {
	for {
		err := unix.Faccessat2(fd, "", mode, unix.AT_EMPTY_PATH|unix.AT_EACCESS)
		if err != unix.EINTR {
			return toErrno(err)
		}
	}
}

// Unlink is unlinkat(2).
func Unlink(dirfd int, name string, flags int) unix.Errno {
	var b nameBuf
	p, errno := b.of(name)
	if errno != 0 {
		return errno
	}
	_, _, errno = unix.Syscall(unix.SYS_UNLINKAT, uintptr(dirfd), uintptr(unsafe.Pointer(p)), uintptr(flags))
	return errno
}

// Mkdir is mkdirat(2).
func Mkdir(dirfd int, name string, mode uint32) unix.Errno {
	var b nameBuf
	p, errno := b.of(name)
	if errno != 0 {
		return errno
	}
	_, _, errno = unix.Syscall(unix.SYS_MKDIRAT, uintptr(dirfd), uintptr(unsafe.Pointer(p)), uintptr(mode))
	return errno
}

// Link makes another name of what the descriptor fd refers to. To do so by the
// descriptor takes CAP_DAC_READ_SEARCH, which the thread has if privileged is set;
// otherwise it is done by the entry in /proc.
func Link(fd, dirfd int, name string, privileged bool) unix.Errno {
	if privileged {
		return toErrno(unix.Linkat(fd, "", dirfd, name, unix.AT_EMPTY_PATH))
	}
	return toErrno(unix.Linkat(unix.AT_FDCWD, procFd(fd), dirfd, name, unix.AT_SYMLINK_FOLLOW))
}

// Stat is fstat(2), which takes O_PATH descriptors as well.
func Stat(fd int, st *unix.Stat_t) unix.Errno {
	return toErrno(unix.Fstat(fd, st))
}

// StatAt is fstatat(2) that does not follow links.
func StatAt(fd int, name string, st *unix.Stat_t) unix.Errno {
	return toErrno(unix.Fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW))
}

// Revalidate has a network file system ask its server for the file name of a
// directory, or for fd itself if that is "", whatever it has cached of it.
func Revalidate(fd int, name string) unix.Errno {
	var st unix.Statx_t
	return toErrno(unix.Statx(fd, name, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st))
}

// Chmod changes the mode of a file. fchmodat2(2) of Linux 6.6 would take the
// descriptor; the entry in /proc works on every kernel.
func Chmod(fd int, mode uint32) unix.Errno {
	var b procPath
	dir, name := b.of(fd)
	_, _, errno := unix.Syscall(unix.SYS_FCHMODAT, dir, uintptr(unsafe.Pointer(name)), uintptr(mode))
	return errno
}

// Chown changes the owners of a file; ^uint32(0) leaves one as it is.
func Chown(fd int, uid, gid uint32) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_FCHOWNAT, uintptr(fd), uintptr(unsafe.Pointer(&noName)),
		uintptr(uid), uintptr(gid), unix.AT_EMPTY_PATH, 0)
	return errno
}

// Truncate changes the size of the file of fd, which may be O_PATH, as
// truncate(2) does.
func Truncate(fd int, size int64) unix.Errno {
	return toErrno(unix.Truncate(procFd(fd), size))
}

// Utimes sets the access and modification times of a file.
func Utimes(fd int, ts *[2]unix.Timespec) unix.Errno {
	var b procPath
	dir, name := b.of(fd)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, dir, uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	return errno
}

// GetXattr reads an extended attribute; an empty dest asks for its size.
func GetXattr(fd int, name string, dest []byte) (int, unix.Errno) {
	var b nameBuf
	attr, errno := b.of(name)
	if errno != 0 {
		return 0, errno
	}
	args := xattrArgs{value: unsafe.Pointer(unsafe.SliceData(dest)), size: uint32(len(dest))}
	if len(dest) == 0 {
		args.value = nil
	}
	var path procPath
	var n uintptr
	if atXattrs() {
		dir, entry := path.of(fd)
		n, _, errno = unix.Syscall6(sysGetxattrat, dir, uintptr(unsafe.Pointer(entry)), 0,
			uintptr(unsafe.Pointer(attr)), uintptr(unsafe.Pointer(&args)), sizeofXattrArgs)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_GETXATTR, uintptr(unsafe.Pointer(path.full(fd))),
			uintptr(unsafe.Pointer(attr)), uintptr(args.value), uintptr(len(dest)), 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
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

// PathOf returns the path of what the descriptor fd refers to, as this process sees it.
func PathOf(fd int) (string, error) { return os.Readlink(procFd(fd)) }

// Readlink reads a symbolic link that fd, opened with O_PATH|O_NOFOLLOW,
// refers to.
func Readlink(fd int) ([]byte, unix.Errno) {
	var buf [unix.PathMax]byte
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(fd), uintptr(unsafe.Pointer(&noName)),
		uintptr(unsafe.Pointer(&buf)), uintptr(len(buf)), 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return append([]byte(nil), buf[:n]...), 0
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
