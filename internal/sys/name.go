package sys

import (
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameBuf has room for what nearly every name needs as the kernel takes it, so
// that it can lie on the stack: these calls are made for each request.
type nameBuf [256]byte

// of returns s with a zero byte after it.
func (b *nameBuf) of(s string) (*byte, unix.Errno) {
	if strings.IndexByte(s, 0) >= 0 {
		return nil, unix.EINVAL
	}
	if len(s) >= len(b) {
		long := make([]byte, len(s)+1)
		copy(long, s)
		return &long[0], 0
	}
	b[copy(b[:], s)] = 0
	return &b[0], 0
}

var noName = [1]byte{}

const procDir = "/proc/self/fd/"

// procPath is a descriptor's entry in /proc, ended by a zero byte.
type procPath [len(procDir) + 21]byte

// of returns a directory and the name in it that lead to what fd refers to.
func (b *procPath) of(fd int) (dirfd uintptr, name *byte) {
	b.full(fd)
	if dir := procFDs(); dir >= 0 {
		return uintptr(dir), &b[len(procDir)]
	}
	return atFdcwd(), &b[0]
}

// full returns the path of the entry.
func (b *procPath) full(fd int) *byte {
	end := copy(b[:], procDir)
	digits := 1
	for n := fd; n >= 10; n /= 10 {
		digits++
	}
	for i := end + digits - 1; i >= end; i-- {
		b[i] = byte('0' + fd%10)
		fd /= 10
	}
	b[end+digits] = 0
	return &b[0]
}

// procFDs is a descriptor of this process's directory of descriptors, which saves
// a third of the way through it; -1 if there is none. It stays open.
var procFDs = sync.OnceValue(func() int {
	fd, err := unix.Open(procDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
})

// xattrArgs is struct xattr_args of Linux 6.13.
type xattrArgs struct {
	value unsafe.Pointer // 64 bits: see atXattrs
	size  uint32
	flags uint32
}

const (
	sysGetxattrat    = 464 // on every architecture
	sizeofXattrArgs  = unsafe.Sizeof(xattrArgs{})
	pointersOf64Bits = unsafe.Sizeof(uintptr(0)) == 8
)

// atXattrs reports whether the kernel has getxattrat(2). It refuses O_PATH
// descriptors, but takes a directory to go from.
var atXattrs = sync.OnceValue(func() bool {
	dir := procFDs()
	if dir < 0 || !pointersOf64Bits {
		return false
	}
	var b nameBuf
	name, _ := b.of("user.idmount")
	args := xattrArgs{}
	_, _, errno := unix.Syscall6(sysGetxattrat, uintptr(dir), uintptr(unsafe.Pointer(&noName)), unix.AT_EMPTY_PATH,
		uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&args)), sizeofXattrArgs)
	return errno == unix.EBADF || errno == unix.ENODATA || errno == unix.EOPNOTSUPP
})
