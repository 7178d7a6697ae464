package fusefs

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
)

// callers is a file system that does each operation as its caller: with the
// disk ids of the caller's fsuid, fsgid and supplementary groups, which is what
// an NFS client sends to its server. A server that squashes root (root_squash)
// then does for a mapped user what it would do for that user.
//
// The kernel has decided about the permission before, by what the mount shows;
// this adds the source's own decision and never replaces the kernel's. So it
// does no harm that the groups are those which the process has when they are
// read, not those at the time of its call.
//
// The thread keeps the server's capabilities: a remote source does not see
// them, and open_by_handle_at(2) and the trusted attributes need them here.
//
// What has no caller, or goes by an open file, stays as it is: READ, WRITE,
// FLUSH and FSYNC, for which the source takes the credentials that the
// file was opened with; SETLK, which sees to it where it opens a file, as one
// that waits may not occupy a thread; RELEASE and FORGET, for which the kernel names nobody.
type callers struct {
	fuse.RawFileSystem
	f *FS
}

// nobody is who a caller that the map does not have is on disk, and what root
// is for a server that squashes it.
const nobody = uint32(idmap.OverflowID)

// onDisk are the ids with which the source sees a caller.
func (c *callers) onDisk(who *fuse.Caller) sys.Creds {
	creds := sys.Creds{FsUID: nobody, FsGID: nobody, Groups: c.f.own.diskGroups(who.Pid), Caps: c.f.caps}
	if uid, ok := c.f.own.diskUID(who.Uid); ok {
		creds.FsUID = uid
	}
	if gid, ok := c.f.own.diskGID(who.Gid); ok {
		creds.FsGID = gid
	}
	return creds
}

func (c *callers) as(h *fuse.InHeader, op func() fuse.Status) fuse.Status {
	var status fuse.Status
	errno := c.onDisk(&h.Caller).Run(c.f.base, c.f.permitted, func() unix.Errno {
		status = op()
		return 0
	})
	if errno != 0 {
		return fuse.Status(errno)
	}
	return status
}

// asOwner does what a server has to do on its own as the one who may do it most
// likely: root may be refused to list the source.
func (f *FS) asOwner(of *unix.Stat_t, fn func() error) (err error) {
	if !f.asCallers {
		return fn()
	}
	owner := sys.Creds{FsUID: of.Uid, FsGID: of.Gid, Groups: []uint32{}, Caps: f.caps}
	errno := owner.Run(f.base, f.permitted, func() unix.Errno {
		err = fn()
		return 0
	})
	if errno != 0 {
		return os.NewSyscallError("setfsuid", errno)
	}
	return err
}

func (c *callers) Lookup(x cancel, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return c.as(h, func() fuse.Status { return c.RawFileSystem.Lookup(x, h, name, out) })
}

func (c *callers) GetAttr(x cancel, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.GetAttr(x, in, out) })
}

func (c *callers) Statx(x cancel, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Statx(x, in, out) })
}

// SetAttr is also sent when somebody writes to or truncates a file with S_ISUID or S_ISGID, by
// kernels before 5.12, to clear these: a change of the mode by who is not the
// owner. The kernel has let them, and only what judges by ids refuses it: that
// clears the bits by itself when the write comes.
func (c *callers) SetAttr(x cancel, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status {
		status := c.RawFileSystem.SetAttr(x, in, out)
		mode, ok := in.GetMode()
		if status != fuse.EPERM || !ok || in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
			return status
		}
		look := *in
		look.Valid &^= fuse.FATTR_MODE
		if now := c.RawFileSystem.SetAttr(x, &look, out); now != fuse.OK {
			return now
		}
		const setID = unix.S_ISUID | unix.S_ISGID
		if out.Attr.Mode&07777&^setID != mode&07777&^setID || mode&setID&^out.Attr.Mode != 0 {
			return status // a chmod of its own
		}
		return fuse.OK
	})
}

func (c *callers) Readlink(x cancel, h *fuse.InHeader) (target []byte, status fuse.Status) {
	status = c.as(h, func() (s fuse.Status) {
		target, s = c.RawFileSystem.Readlink(x, h)
		return s
	})
	return target, status
}

func (c *callers) Symlink(x cancel, h *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	return c.as(h, func() fuse.Status { return c.RawFileSystem.Symlink(x, h, to, name, out) })
}

func (c *callers) Mknod(x cancel, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Mknod(x, in, name, out) })
}

func (c *callers) Mkdir(x cancel, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Mkdir(x, in, name, out) })
}

func (c *callers) Unlink(x cancel, h *fuse.InHeader, name string) fuse.Status {
	return c.as(h, func() fuse.Status { return c.RawFileSystem.Unlink(x, h, name) })
}

func (c *callers) Rmdir(x cancel, h *fuse.InHeader, name string) fuse.Status {
	return c.as(h, func() fuse.Status { return c.RawFileSystem.Rmdir(x, h, name) })
}

func (c *callers) Rename(x cancel, in *fuse.RenameIn, from, to string) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Rename(x, in, from, to) })
}

func (c *callers) Link(x cancel, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Link(x, in, name, out) })
}

func (c *callers) Access(x cancel, in *fuse.AccessIn) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Access(x, in) })
}

func (c *callers) Open(x cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	status := c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Open(x, in, out) })
	if status == fuse.EACCES && in.Flags&forExec != 0 {
		return c.openProgram(x, in, out)
	}
	return status
}

func (c *callers) Create(x cancel, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Create(x, in, name, out) })
}

func (c *callers) Tmpfile(x cancel, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Tmpfile(x, in, out) })
}

func (c *callers) OpenDir(x cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.OpenDir(x, in, out) })
}

// Without OPENDIR, it is READDIR that opens the directory.
func (c *callers) ReadDir(x cancel, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.ReadDir(x, in, out) })
}

func (c *callers) ReadDirPlus(x cancel, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.ReadDirPlus(x, in, out) })
}

func (c *callers) FsyncDir(x cancel, in *fuse.FsyncIn) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.FsyncDir(x, in) })
}

// Write goes by the open file; the thread has the capabilities of all other
// operations, which what clears S_ISUID and S_ISGID counts on.
func (c *callers) Write(x cancel, in *fuse.WriteIn, data []byte) (n uint32, status fuse.Status) {
	errno := sys.RunWithCaps(c.f.caps, c.f.base.Caps, c.f.permitted, func() unix.Errno {
		n, status = c.RawFileSystem.Write(x, in, data)
		return 0
	})
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	return n, status
}

func (c *callers) StatFs(x cancel, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	return c.as(h, func() fuse.Status { return c.RawFileSystem.StatFs(x, h, out) })
}

func (c *callers) GetXAttr(x cancel, h *fuse.InHeader, name string, dest []byte) (size uint32, status fuse.Status) {
	status = c.as(h, func() (s fuse.Status) {
		size, s = c.RawFileSystem.GetXAttr(x, h, name, dest)
		return s
	})
	return size, status
}

func (c *callers) ListXAttr(x cancel, h *fuse.InHeader, dest []byte) (size uint32, status fuse.Status) {
	status = c.as(h, func() (s fuse.Status) {
		size, s = c.RawFileSystem.ListXAttr(x, h, dest)
		return s
	})
	return size, status
}

func (c *callers) SetXAttr(x cancel, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.SetXAttr(x, in, name, value) })
}

func (c *callers) RemoveXAttr(x cancel, h *fuse.InHeader, name string) fuse.Status {
	return c.as(h, func() fuse.Status { return c.RawFileSystem.RemoveXAttr(x, h, name) })
}

func (c *callers) Lseek(x cancel, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Lseek(x, in, out) })
}

func (c *callers) Fallocate(x cancel, in *fuse.FallocateIn) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Fallocate(x, in) })
}

func (c *callers) CopyFileRange(x cancel, in *fuse.CopyFileRangeIn) (n uint32, status fuse.Status) {
	status = c.as(&in.InHeader, func() (s fuse.Status) {
		n, s = c.RawFileSystem.CopyFileRange(x, in)
		return s
	})
	return n, status
}

func (c *callers) Ioctl(x cancel, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	return c.as(&in.InHeader, func() fuse.Status { return c.RawFileSystem.Ioctl(x, in, inbuf, out, outbuf) })
}
