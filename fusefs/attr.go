package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	// By the open file it is also right when the last name is gone.
	u := f.file(n, in.Fh(), in.Flags()&fuse.FUSE_GETATTR_FH != 0)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	return fuse.Status(f.attributes(n, u.fd, out, (*kernelCopy).sent))
}

// attributes answers with those of a node, of which fd is a descriptor. note notes what
// the kernel has then.
func (f *FS) attributes(n *node, fd int, out *fuse.AttrOut, note func(*kernelCopy, uint64)) unix.Errno {
	began := f.reading(n, fd)
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		return errno
	}
	if !n.is(st.Mode) {
		if n != f.root {
			return unix.ESTALE
		}
		st.Mode = unix.S_IFDIR // of a source that is no directory
	}
	f.own.attr(&st, n.tag, &out.Attr)
	if f.assembling.Load() {
		disguise(&out.Attr)
		return 0
	}
	note(&n.attrs, n.fingerprint(st.Uid, st.Gid, st.Mode))
	out.SetTimeout(f.attrValidity(n, st.Mode, uint64(st.Nlink), began))
	return 0
}

// SetAttr implements fuse.RawFileSystem. The kernel has decided whether the
// caller may; ids outside the map are refused before anything is changed.
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	uid, gid := uint32(invalidID), uint32(invalidID) // chown(2): leave as it is
	if v, ok := in.GetUID(); ok {
		if uid, ok = f.own.diskUID(v); !ok {
			return fuse.Status(unix.EOVERFLOW)
		}
	}
	if v, ok := in.GetGID(); ok {
		if gid, ok = f.own.diskGID(v); !ok {
			return fuse.Status(unix.EOVERFLOW)
		}
	}
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	u := f.file(n, in.Fh, in.Valid&fuse.FATTR_FH != 0)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	var st unix.Stat_t
	if errno := sys.Stat(u.fd, &st); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.watch.disturb(n)
	errno := f.setAttr(in, n, u.fd, uid, gid, &st)
	if errno == 0 {
		errno = f.attributes(n, u.fd, out, (*kernelCopy).replaced)
	}
	if errno == 0 {
		n.acl.dropped()
	}
	return fuse.Status(errno)
}

// setAttr does what a SETATTR asks for. st is what the file was just now.
func (f *FS) setAttr(in *fuse.SetAttrIn, n *node, fd int, uid, gid uint32, st *unix.Stat_t) unix.Errno {
	if f.isJudged(in, st) && !f.isCurrent(&in.InHeader, n, fd, st) {
		return f.setAttrAgain(in, n, fd, uid, gid, st)
	}
	owners := uid != invalidID || gid != invalidID
	nothing := in.Valid&^fuse.FATTR_CTIME == 0 // with CacheExclusive the kernel says when
	copied := false
	if nothing && !f.mapped(st) && f.kernel.Flags&capKillprivV2 != 0 && !f.isCurrent(&in.InHeader, n, fd, st) {
		return unix.EOVERFLOW // chown(-1, -1)
	}
	if owners || nothing {
		may := f.mayChown(in.Pid, st)
		copied = owners && copiedUp(fd, st)
		if owners && !may && !copied && f.kernel.Flags&capKillprivV2 != 0 {
			return unix.EPERM
		}
		// Nothing to set is chown(-1, -1), or a change of data that the kernel
		// announces, and that clears the bits itself. The former does so only
		// for owners.
		owners = owners || may
	}
	if size, ok := in.GetSize(); ok {
		if errno := f.truncate(n, fd, in, int64(size)); errno != 0 {
			return errno
		}
	}
	// The mode after the owners: a change of owners clears S_ISUID and S_ISGID
	// of files, and the mode that the kernel sends along is what it wants then.
	if owners {
		errno := f.chown(in, n, fd, uid, gid, st)
		if errno == 0 && copied {
			errno = f.withSetID(true, func() unix.Errno { return sys.Chmod(fd, st.Mode&07777) })
		}
		if errno != 0 {
			return errno
		}
	}
	if mode, ok := in.GetMode(); ok && n.typ != unix.S_IFLNK {
		if errno := f.chmod(in, fd, mode&07777, st); errno != 0 {
			return errno
		}
	}
	if ts, ok := timesOf(in); ok {
		return sys.Utimes(fd, ts)
	}
	return 0
}

// chown changes the owners of a file. A change of the group alone, which is what
// owners may, is made as the owner that the kernel has judged by.
func (f *FS) chown(in *fuse.SetAttrIn, n *node, fd int, uid, gid uint32, st *unix.Stat_t) unix.Errno {
	change := func() unix.Errno { return sys.Chown(fd, uid, gid) }
	if uid == invalidID && gid != invalidID && !hasSetID(st.Mode) && f.actsAsOwners() {
		a := f.owner(st.Uid, gid)
		return f.confirmed(in, &a, fd, func() unix.Errno { return f.keepFileCap(n, fd, uid, gid, change) })
	}
	return f.alter(in.Pid, fd, askOfChown, func() unix.Errno { return f.keepFileCap(n, fd, uid, gid, change) })
}

// chmod changes the mode of a file. With set-id bits that is done as the owner, and in
// the group, that the kernel has judged by: the source refuses it, or clears S_ISGID,
// if the file has another owner or group by now.
func (f *FS) chmod(in *fuse.SetAttrIn, fd int, mode uint32, st *unix.Stat_t) unix.Errno {
	change := func() unix.Errno { return sys.Chmod(fd, mode) }
	switch {
	case !hasSetID(mode | st.Mode&unix.S_IFMT):
		if mode&unix.S_ISGID != 0 {
			return f.withSetID(true, change)
		}
		return change()
	case in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 || !f.actsAsOwners():
		return f.withSetID(mode&unix.S_ISGID != 0, change)
	}
	a := f.owner(st.Uid, st.Gid)
	return f.confirmed(in, &a, fd, change)
}

// timesOf are the times that a SETATTR sets.
func timesOf(in *fuse.SetAttrIn) (*[2]unix.Timespec, bool) {
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return nil, false
	}
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	switch {
	case in.Valid&fuse.FATTR_ATIME_NOW != 0:
		ts[0].Nsec = unix.UTIME_NOW
	case in.Valid&fuse.FATTR_ATIME != 0:
		ts[0] = unix.Timespec{Sec: int64(in.Atime), Nsec: int64(in.Atimensec)}
	}
	switch {
	case in.Valid&fuse.FATTR_MTIME_NOW != 0:
		ts[1].Nsec = unix.UTIME_NOW
	case in.Valid&fuse.FATTR_MTIME != 0:
		ts[1] = unix.Timespec{Sec: int64(in.Mtime), Nsec: int64(in.Mtimensec)}
	}
	return &ts, true
}

// truncate works by the caller's open file where there is one: to open it again
// could be refused, as for a program that runs. Otherwise it is truncate(2) here,
// too, which may leave the times of a file that keeps its size, unlike
// ftruncate(2). open(2) with O_TRUNC comes as truncate(2) does, from the thread whose
// OPEN was answered before it, and sets the times of an empty file too.
func (f *FS) truncate(n *node, fd int, in *fuse.SetAttrIn, size int64) unix.Errno {
	set := func() unix.Errno { return sys.Truncate(fd, size) }
	if o := f.files.get(in.Fh); o != nil && in.Valid&fuse.FATTR_FH != 0 {
		u := f.descriptor(o)
		if u.errno != 0 {
			return u.errno
		}
		defer u.done()
		fd = u.fd
		set = func() unix.Errno { return sys.Errno(unix.Ftruncate(fd, size)) }
	} else {
		done, errno := f.breakLeases(n, fd)
		if errno != 0 {
			return errno
		}
		defer done()
		if size == 0 && n.justOpened(in.Pid) {
			set = func() unix.Errno { return truncateToOpen(fd) }
		}
	}
	return f.alter(in.Pid, fd, kernelVerdict(in.Valid&fuse.FATTR_KILL_SUIDGID != 0), func() unix.Errno {
		return f.keepFileCap(n, fd, invalidID, invalidID, set)
	})
}

func truncateToOpen(fd int) unix.Errno {
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		return errno
	}
	if errno := sys.Truncate(fd, 0); errno != 0 || st.Size > 0 {
		return errno
	}
	return sys.Utimes(fd, &[2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}})
}

// StatFs implements fuse.RawFileSystem.
func (f *FS) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	_, u := f.pathOf(in.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	var st unix.Statfs_t
	if err := unix.Fstatfs(u.fd, &st); err != nil {
		return fuse.Status(sys.Errno(err))
	}
	*out = fuse.StatfsOut{
		Blocks:  st.Blocks,
		Bfree:   st.Bfree,
		Bavail:  st.Bavail,
		Files:   st.Files,
		Ffree:   st.Ffree,
		Bsize:   uint32(st.Bsize),
		NameLen: uint32(st.Namelen),
		Frsize:  uint32(st.Frsize),
	}
	return fuse.OK
}

// Statx implements fuse.RawFileSystem: GetAttr with the time of birth, for
// which kernels ask since 6.6.
func (f *FS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	u := f.file(n, in.Fh, in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	began := f.reading(n, u.fd)
	var st unix.Statx_t
	if err := unix.Statx(u.fd, "", unix.AT_EMPTY_PATH, mask, &st); err != nil {
		return fuse.Status(sys.Errno(err))
	}
	if !n.is(uint32(st.Mode)) {
		return fuse.Status(unix.ESTALE)
	}
	n.attrs.sent(n.fingerprint(st.Uid, st.Gid, uint32(st.Mode)))
	out.Mask = st.Mask & mask
	out.Blksize = st.Blksize
	out.Nlink = st.Nlink
	out.Uid = f.own.viewUID(st.Uid)
	out.Gid = f.own.viewGID(st.Gid)
	out.Mode = st.Mode
	out.Ino = taggedIno(st.Ino, n.tag)
	out.Size = st.Size
	out.Blocks = st.Blocks
	out.Atime = sxTime(st.Atime)
	out.Btime = sxTime(st.Btime)
	out.Ctime = sxTime(st.Ctime)
	out.Mtime = sxTime(st.Mtime)
	out.RdevMajor, out.RdevMinor = st.Rdev_major, st.Rdev_minor
	out.SetTimeout(f.attrValidity(n, uint32(st.Mode), uint64(st.Nlink), began))
	return fuse.OK
}

func sxTime(t unix.StatxTimestamp) fuse.SxTime {
	return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec}
}
