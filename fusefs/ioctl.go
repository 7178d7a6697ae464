package fusefs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// The ioctls that are passed on; ioctl_iflags(2) and ioctl_fs(2) of the kernel's
// include/uapi/linux/fs.h. Any other is refused: the server would run it as root.
const (
	fsGetVersion = 0x80087601 // FS_IOC_GETVERSION
	fsGetFlags   = 0x80086601 // FS_IOC_GETFLAGS
	fsSetFlags   = 0x40086602 // FS_IOC_SETFLAGS
	fsGetXattr   = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr   = 0x401c5820 // FS_IOC_FSSETXATTR
)

// Ioctl implements fuse.RawFileSystem.
func (f *FS) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	var u use
	if n.isDir() {
		u = f.dir(in.NodeId, in.Fh)
	} else {
		u = f.data(in.NodeId, in.Fh, readable)
	}
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	fd := u.fd
	var arg [32]byte
	size := int(in.Cmd>>16) & 0x3fff
	switch in.Cmd {
	case fsGetVersion, fsGetFlags, fsGetXattr:
		if len(outbuf) < min(size, 4) {
			return fuse.Status(unix.EINVAL)
		}
		if _, errno := sys.Ioctl(fd, in.Cmd, arg[:]); errno != 0 {
			return fuse.Status(errno)
		}
		copy(outbuf, arg[:size])
		return fuse.OK
	case fsSetFlags, fsSetXattr:
		if errno := f.maySetFlags(in, fd, inbuf); errno != 0 {
			return fuse.Status(errno)
		}
		var st unix.Stat_t
		a, errno := f.changer(&in.InHeader, n, fd, &st)
		if errno != 0 {
			return fuse.Status(errno)
		}
		copy(arg[:], inbuf)
		return fuse.Status(f.by(&a, func() unix.Errno {
			_, errno := sys.Ioctl(fd, in.Cmd, arg[:])
			return errno
		}))
	}
	return fuse.Status(unix.ENOTTY)
}

// maySetFlags checks what kernels before 5.13 leave to the file system (they
// pass the ioctl on as it is). Newer ones have checked more exactly.
func (f *FS) maySetFlags(in *fuse.IoctlIn, fd int, inbuf []byte) unix.Errno {
	if len(inbuf) < 4 {
		return unix.EINVAL
	}
	if f.kernel.Flags&fuse.CAP_SECURITY_CTX != 0 { // Linux 5.17
		return 0
	}
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		return errno
	}
	owner := f.own.viewUID(st.Uid)
	caps := subjectOf(in.Pid).caps
	if owner == invalidID || owner != in.Uid && !(in.Uid == 0 && caps.Has(unix.CAP_FOWNER)) {
		return unix.EPERM
	}
	if in.Uid == 0 && caps.Has(unix.CAP_LINUX_IMMUTABLE) {
		return 0
	}
	const immutable, appendOnly = 0x10, 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL
	if in.Cmd == fsSetXattr {
		return unix.EPERM
	}
	var old [8]byte
	if _, errno := sys.Ioctl(fd, fsGetFlags, old[:]); errno != 0 {
		return errno
	}
	if (binary.NativeEndian.Uint32(old[:])^binary.NativeEndian.Uint32(inbuf))&(immutable|appendOnly) != 0 {
		return unix.EPERM
	}
	return 0
}
