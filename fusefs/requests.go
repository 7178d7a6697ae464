package fusefs

import (
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/idmount/idmount/internal/fuseconn"
)

// Requests counts the requests that a file system is sent, by opcode. The zero
// value is ready, and all its methods may be called at any time.
//
// A file system without it pays nothing: the counting stands in front of it as
// a file system of its own, whatever transport carries the requests, and is
// there only when it was asked for. With it a request costs one atomic addition
// more, a few nanoseconds out of microseconds.
type Requests struct {
	count [len(opcodes)]atomic.Uint64
}

type opcode int

// The opcodes that reach the file system. What go-fuse or the connection answers
// itself (INIT, INTERRUPT, SYNCFS) isn't among them.
const (
	opLookup opcode = iota
	opForget
	opGetattr
	opSetattr
	opReadlink
	opSymlink
	opMknod
	opMkdir
	opUnlink
	opRmdir
	opRename
	opLink
	opOpen
	opRead
	opWrite
	opStatfs
	opRelease
	opFsync
	opSetxattr
	opGetxattr
	opListxattr
	opRemovexattr
	opFlush
	opOpendir
	opReaddir
	opReaddirplus
	opReleasedir
	opFsyncdir
	opGetlk
	opSetlk
	opSetlkw
	opAccess
	opCreate
	opTmpfile
	opIoctl
	opFallocate
	opLseek
	opCopyFileRange
	opStatx
)

// opcodes are their names, as the kernel has them.
var opcodes = [...]string{
	opLookup: "LOOKUP", opForget: "FORGET", opGetattr: "GETATTR", opSetattr: "SETATTR",
	opReadlink: "READLINK", opSymlink: "SYMLINK", opMknod: "MKNOD", opMkdir: "MKDIR",
	opUnlink: "UNLINK", opRmdir: "RMDIR", opRename: "RENAME", opLink: "LINK", opOpen: "OPEN",
	opRead: "READ", opWrite: "WRITE", opStatfs: "STATFS", opRelease: "RELEASE", opFsync: "FSYNC",
	opSetxattr: "SETXATTR", opGetxattr: "GETXATTR", opListxattr: "LISTXATTR",
	opRemovexattr: "REMOVEXATTR", opFlush: "FLUSH", opOpendir: "OPENDIR", opReaddir: "READDIR",
	opReaddirplus: "READDIRPLUS", opReleasedir: "RELEASEDIR", opFsyncdir: "FSYNCDIR",
	opGetlk: "GETLK", opSetlk: "SETLK", opSetlkw: "SETLKW", opAccess: "ACCESS", opCreate: "CREATE",
	opTmpfile: "TMPFILE", opIoctl: "IOCTL", opFallocate: "FALLOCATE", opLseek: "LSEEK",
	opCopyFileRange: "COPY_FILE_RANGE", opStatx: "STATX",
}

// Counts returns the requests so far by the names of their opcodes, without
// those that never came. FORGET counts nodes, of which one request may carry
// many, and nobody waits for it.
func (r *Requests) Counts() map[string]uint64 {
	counts := make(map[string]uint64)
	for op := range r.count {
		if n := r.count[op].Load(); n > 0 {
			counts[opcodes[op]] = n
		}
	}
	return counts
}

func (r *Requests) add(op opcode) { r.count[op].Add(1) }

// front is what the transport calls: the file system, or what stands before it.
func (f *FS) front() fuse.RawFileSystem {
	var front fuse.RawFileSystem = f
	if f.remoteData {
		front = &stale{front, &f.suspicion}
	}
	if f.asCallers {
		front = &callers{RawFileSystem: front, f: f}
	}
	if f.requests != nil {
		front = &counting{RawFileSystem: front, n: f.requests}
	}
	return front
}

// counting is a file system that counts what it passes on.
type counting struct {
	fuse.RawFileSystem
	n *Requests
}

type cancel = <-chan struct{}

// answered counts a request that may have to wait, when it does no longer.
func (c *counting) answered(op opcode, status fuse.Status) fuse.Status {
	if status != fuse.Status(fuseconn.Deferred) && status != fuse.Status(fuseconn.Suspended) {
		c.n.add(op)
	}
	return status
}

func (c *counting) Lookup(x cancel, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	c.n.add(opLookup)
	return c.RawFileSystem.Lookup(x, h, name, out)
}

func (c *counting) Forget(id, count uint64) {
	c.n.add(opForget)
	c.RawFileSystem.Forget(id, count)
}

func (c *counting) GetAttr(x cancel, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.n.add(opGetattr)
	return c.RawFileSystem.GetAttr(x, in, out)
}

func (c *counting) SetAttr(x cancel, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return c.answered(opSetattr, c.RawFileSystem.SetAttr(x, in, out))
}

func (c *counting) Readlink(x cancel, h *fuse.InHeader) ([]byte, fuse.Status) {
	c.n.add(opReadlink)
	return c.RawFileSystem.Readlink(x, h)
}

func (c *counting) Symlink(x cancel, h *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	c.n.add(opSymlink)
	return c.RawFileSystem.Symlink(x, h, to, name, out)
}

func (c *counting) Mknod(x cancel, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	c.n.add(opMknod)
	return c.RawFileSystem.Mknod(x, in, name, out)
}

func (c *counting) Mkdir(x cancel, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	c.n.add(opMkdir)
	return c.RawFileSystem.Mkdir(x, in, name, out)
}

func (c *counting) Unlink(x cancel, h *fuse.InHeader, name string) fuse.Status {
	c.n.add(opUnlink)
	return c.RawFileSystem.Unlink(x, h, name)
}

func (c *counting) Rmdir(x cancel, h *fuse.InHeader, name string) fuse.Status {
	c.n.add(opRmdir)
	return c.RawFileSystem.Rmdir(x, h, name)
}

func (c *counting) Rename(x cancel, in *fuse.RenameIn, from, to string) fuse.Status {
	c.n.add(opRename)
	return c.RawFileSystem.Rename(x, in, from, to)
}

func (c *counting) Link(x cancel, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	c.n.add(opLink)
	return c.RawFileSystem.Link(x, in, name, out)
}

func (c *counting) Open(x cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return c.answered(opOpen, c.RawFileSystem.Open(x, in, out))
}

func (c *counting) Read(x cancel, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	c.n.add(opRead)
	return c.RawFileSystem.Read(x, in, buf)
}

func (c *counting) Write(x cancel, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	c.n.add(opWrite)
	return c.RawFileSystem.Write(x, in, data)
}

// Writev of a file system that hasn't one is called for every WRITE, before Write.
func (c *counting) Writev(x cancel, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	n, status := c.RawFileSystem.Writev(x, in, data)
	if status != fuse.ENOSYS {
		c.n.add(opWrite)
	}
	return n, status
}

func (c *counting) StatFs(x cancel, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	c.n.add(opStatfs)
	return c.RawFileSystem.StatFs(x, h, out)
}

func (c *counting) Release(x cancel, in *fuse.ReleaseIn) {
	c.n.add(opRelease)
	c.RawFileSystem.Release(x, in)
}

func (c *counting) Fsync(x cancel, in *fuse.FsyncIn) fuse.Status {
	c.n.add(opFsync)
	return c.RawFileSystem.Fsync(x, in)
}

func (c *counting) SetXAttr(x cancel, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	c.n.add(opSetxattr)
	return c.RawFileSystem.SetXAttr(x, in, name, data)
}

func (c *counting) GetXAttr(x cancel, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	c.n.add(opGetxattr)
	return c.RawFileSystem.GetXAttr(x, h, name, dest)
}

func (c *counting) ListXAttr(x cancel, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	c.n.add(opListxattr)
	return c.RawFileSystem.ListXAttr(x, h, dest)
}

func (c *counting) RemoveXAttr(x cancel, h *fuse.InHeader, name string) fuse.Status {
	c.n.add(opRemovexattr)
	return c.RawFileSystem.RemoveXAttr(x, h, name)
}

func (c *counting) Flush(x cancel, in *fuse.FlushIn) fuse.Status {
	c.n.add(opFlush)
	return c.RawFileSystem.Flush(x, in)
}

func (c *counting) OpenDir(x cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.n.add(opOpendir)
	return c.RawFileSystem.OpenDir(x, in, out)
}

func (c *counting) ReadDir(x cancel, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	c.n.add(opReaddir)
	return c.RawFileSystem.ReadDir(x, in, out)
}

func (c *counting) ReadDirPlus(x cancel, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	c.n.add(opReaddirplus)
	return c.RawFileSystem.ReadDirPlus(x, in, out)
}

func (c *counting) ReleaseDir(in *fuse.ReleaseIn) {
	c.n.add(opReleasedir)
	c.RawFileSystem.ReleaseDir(in)
}

func (c *counting) FsyncDir(x cancel, in *fuse.FsyncIn) fuse.Status {
	c.n.add(opFsyncdir)
	return c.RawFileSystem.FsyncDir(x, in)
}

func (c *counting) GetLk(x cancel, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	c.n.add(opGetlk)
	return c.RawFileSystem.GetLk(x, in, out)
}

func (c *counting) SetLk(x cancel, in *fuse.LkIn) fuse.Status {
	c.n.add(opSetlk)
	return c.RawFileSystem.SetLk(x, in)
}

func (c *counting) SetLkw(x cancel, in *fuse.LkIn) fuse.Status {
	return c.answered(opSetlkw, c.RawFileSystem.SetLkw(x, in))
}

func (c *counting) Access(x cancel, in *fuse.AccessIn) fuse.Status {
	c.n.add(opAccess)
	return c.RawFileSystem.Access(x, in)
}

func (c *counting) Create(x cancel, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	c.n.add(opCreate)
	return c.RawFileSystem.Create(x, in, name, out)
}

func (c *counting) Tmpfile(x cancel, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	c.n.add(opTmpfile)
	return c.RawFileSystem.Tmpfile(x, in, out)
}

func (c *counting) Ioctl(x cancel, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	c.n.add(opIoctl)
	return c.RawFileSystem.Ioctl(x, in, inbuf, out, outbuf)
}

func (c *counting) Fallocate(x cancel, in *fuse.FallocateIn) fuse.Status {
	c.n.add(opFallocate)
	return c.RawFileSystem.Fallocate(x, in)
}

func (c *counting) Lseek(x cancel, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	c.n.add(opLseek)
	return c.RawFileSystem.Lseek(x, in, out)
}

func (c *counting) CopyFileRange(x cancel, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	c.n.add(opCopyFileRange)
	return c.RawFileSystem.CopyFileRange(x, in)
}

func (c *counting) Statx(x cancel, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	c.n.add(opStatx)
	return c.RawFileSystem.Statx(x, in, out)
}
