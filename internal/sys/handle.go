package sys

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxHandle is the longest file handle in bytes, its type included, that
// HandleAt returns (MAX_HANDLE_SZ of open_by_handle_at(2), and 4 for the type).
const MaxHandle = 128 + 4

// handleBuf is struct file_handle with the most bytes that it can have.
type handleBuf struct {
	size uint32
	typ  int32
	data [128]byte
}

// HandleAt writes the file handle of name below dirfd into buf, its type
// first, and returns its length and the id of the mount that it lies on. An
// empty name stands for dirfd itself. Links are not followed.
func HandleAt(dirfd int, name string, buf *[MaxHandle]byte) (n int, mountID int32, errno unix.Errno) {
	return handleAt(dirfd, name, buf, 0)
}

// FileID is HandleAt of fd for a handle that identifies the file, as fanotify reports
// it, and need not open it (Linux 6.5; before, it is EINVAL). More file systems have
// those: overlay in its usual form, ramfs.
func FileID(fd int, buf *[MaxHandle]byte) (n int, mountID int32, errno unix.Errno) {
	return handleAt(fd, "", buf, atHandleFID)
}

const atHandleFID = 0x200 // AT_HANDLE_FID

func handleAt(dirfd int, name string, buf *[MaxHandle]byte, flags uintptr) (n int, mountID int32, errno unix.Errno) {
	var h handleBuf
	h.size = uint32(len(h.data))
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var b nameBuf
	p, errno := b.of(name)
	if errno != 0 {
		return 0, 0, errno
	}
	_, _, errno = unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(dirfd), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&mountID)), flags, 0)
	if errno != 0 {
		return 0, 0, errno
	}
	binary.NativeEndian.PutUint32(buf[:4], uint32(h.typ))
	return 4 + copy(buf[4:], h.data[:h.size]), mountID, 0
}

// HandleInode returns the number of the inode that a handle is of, on the file
// systems whose handles are known to hold it (include/linux/exportfs.h): on any
// other it may return false, or the number of no inode.
func HandleInode(handle []byte) (uint64, bool) {
	const (
		ino32Gen = 1    // ext4 and most others: 32 bits, then the generation; tmpfs: the generation, then 64 bits
		btrfs    = 0x4d // 64 bits, then the subvolume and the generation
		ino64Gen = 0x81 // xfs: 64 bits, then the generation
	)
	if len(handle) < 4 {
		return 0, false
	}
	typ, id := binary.NativeEndian.Uint32(handle), handle[4:]
	switch {
	case typ == ino32Gen && len(id) == 8:
		return uint64(binary.NativeEndian.Uint32(id)), true
	case typ == ino32Gen && len(id) == 12:
		return uint64(binary.NativeEndian.Uint32(id[4:])) | uint64(binary.NativeEndian.Uint32(id[8:]))<<32, true
	case typ == btrfs && len(id) == 20, typ == ino64Gen && len(id) == 12:
		return binary.NativeEndian.Uint64(id), true
	}
	return 0, false
}

// OpenHandle opens what handle, as HandleAt wrote it, names on the file system
// of mountFd, which must not be an O_PATH descriptor. It takes
// CAP_DAC_READ_SEARCH in the initial user namespace. A file that is gone is
// ESTALE.
func OpenHandle(mountFd int, handle string, flags int) (int, unix.Errno) {
	if len(handle) < 4 || len(handle) > MaxHandle {
		return -1, unix.EINVAL
	}
	var h handleBuf
	h.size = uint32(copy(h.data[:], handle[4:]))
	h.typ = int32(binary.NativeEndian.Uint32([]byte(handle[:4])))
	for p := (patience{}); ; {
		fd, _, errno := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mountFd), uintptr(unsafe.Pointer(&h)),
			uintptr(flags|unix.O_CLOEXEC))
		if errno == 0 {
			return int(fd), 0
		}
		if !p.again(&errno) {
			return -1, errno
		}
	}
}

// SupportsHandles reports whether files of the file system that the directory
// dir lies on can be opened again by handle: not overlay in its usual form or
// ramfs. It tries it, but on FUSE: its handles open as long as the kernel has the
// file in its cache, as it has dir. Which servers find others nobody can tell.
func SupportsHandles(dir *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return &Error{Op: "statfs", Path: dir.Name(), Err: err}
	}
	if uint32(fs.Type) == unix.FUSE_SUPER_MAGIC {
		return &Error{Op: "open_by_handle_at", Path: dir.Name(), Detail: "fuse", Err: unix.EOPNOTSUPP}
	}
	var buf [MaxHandle]byte
	n, _, errno := HandleAt(int(dir.Fd()), "", &buf)
	if errno != 0 {
		return &Error{Op: "name_to_handle_at", Path: dir.Name(), Err: errno}
	}
	fd, errno := OpenHandle(int(dir.Fd()), string(buf[:n]), unix.O_PATH)
	if errno != 0 {
		return &Error{Op: "open_by_handle_at", Path: dir.Name(), Err: errno}
	}
	return unix.Close(fd)
}
