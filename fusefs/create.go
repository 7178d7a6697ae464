package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// creator is who a new file will belong to.
type creator struct {
	creds sys.Creds
	mode  uint32
	pid   uint32
	again bool // the source judges
}

// creator translates the caller and settles the mode of a new file in dir.
// A caller whom the map does not have can own nothing: EOVERFLOW.
func (f *FS) creator(h *fuse.InHeader, dir *node, dirfd int, mode, umask uint32) (creator, unix.Errno) {
	uid, uok := f.own.diskUID(h.Uid)
	gid, gok := f.own.diskGID(h.Gid)
	if !uok || !gok {
		return creator{}, unix.EOVERFLOW
	}
	c := creator{
		creds: sys.Creds{FsUID: uid, FsGID: gid, Caps: f.base.Caps},
		mode:  mode,
		pid:   h.Pid,
	}
	var st unix.Stat_t
	if errno := sys.Stat(dirfd, &st); errno != 0 {
		return creator{}, errno
	}
	a, errno := f.maker(h, dir, dirfd, &st)
	if errno != 0 {
		return creator{}, errno
	}
	c.again = a.kind == asCaller
	switch {
	case c.again:
		c.creds.Caps, c.creds.Groups = a.creds.Caps, a.creds.Groups
	case mode&unix.S_ISGID != 0:
		f.keepSetgid(&c, &st)
	}
	if f.remoteData && !f.asCallers && !c.again {
		c.creds.Groups = f.own.diskGroups(h.Pid) // its server knows no capability of ours
	}
	// The umask counts only where no default ACL takes its place. This process
	// has umask 0, so the source applies none itself.
	if mode&umask&0777 != 0 {
		if _, errno := sys.GetXattr(dirfd, xattrDefaultACL, nil); errno != 0 {
			c.mode &^= umask & 0777
		}
	}
	if f.kernel.Flags&fuse.CAP_CREATE_SUPP_GROUP == 0 && !c.again {
		c.mode = f.stripSetgid(h, &st, gid, c.mode)
	}
	return c, 0
}

// keepSetgid has a new file keep S_ISGID, as the kernel has decided by what st says of
// the directory. If that has become another group's by now, the source clears the bit.
func (f *FS) keepSetgid(c *creator, st *unix.Stat_t) {
	if c.mode&unix.S_IFMT == unix.S_IFDIR || !f.actsAsOwners() {
		c.creds.Caps = f.caps
		return
	}
	c.creds.Caps = f.caps.Without(unix.CAP_FSETID)
	c.creds.Groups = []uint32{}
	if st.Mode&unix.S_ISGID != 0 {
		c.creds.Groups = []uint32{st.Gid}
	}
}

func (f *FS) as(c *creator, fn func() unix.Errno) unix.Errno {
	if f.asCallers {
		if c.again {
			return sys.RunWithCaps(c.creds.Caps, f.caps, f.permitted, fn)
		}
		return fn() // the thread has the ids already, and groups as well
	}
	base := f.base
	if c.creds.Groups != nil {
		base.Groups = f.groups
	}
	errno := c.creds.Run(base, f.permitted, fn)
	if !noSpace(errno) || f.remoteData {
		return errno
	}
	caller := subjectOf(c.pid)
	above := f.aboveQuota(&caller)
	if above == 0 {
		return errno
	}
	c.creds.Caps |= above
	return c.creds.Run(base, f.permitted, fn)
}

// stripSetgid does what older kernels leave to the file system below: an
// executable file made in a setgid directory loses S_ISGID unless its maker
// is in the directory's group or has CAP_FSETID over the directory. Since Linux 6.0 the kernel
// has done so before it asks us, and then this changes nothing. The file
// system below can't: it sees a thread with CAP_FSETID and no groups.
func (f *FS) stripSetgid(h *fuse.InHeader, st *unix.Stat_t, gid, mode uint32) uint32 {
	const both = unix.S_ISGID | unix.S_IXGRP
	if mode&unix.S_IFMT == unix.S_IFDIR || mode&both != both {
		return mode
	}
	if st.Mode&unix.S_ISGID == 0 || st.Gid == gid {
		return mode
	}
	if p := subjectOf(h.Pid); f.mayKeepGroup(&p, st) {
		return mode
	}
	return mode &^ unix.S_ISGID
}

// make runs a call that makes name in the directory of h, and answers with
// the new file.
func (f *FS) make(h *fuse.InHeader, name string, mode, umask uint32, out *fuse.EntryOut,
	call func(dirfd int, mode uint32) unix.Errno) fuse.Status {
	if !validName(name) {
		return fuse.Status(unix.EINVAL)
	}
	dir, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	c, errno := f.creator(h, dir, u.fd, mode, umask)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer f.rewritten(dir)
	if errno := f.as(&c, func() unix.Errno { return call(u.fd, c.mode) }); errno != 0 {
		return fuse.Status(errno)
	}
	return fuse.Status(f.entry(dir, u.fd, name, out))
}

// Mknod implements fuse.RawFileSystem.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(&in.InHeader, name, in.Mode, in.Umask, out, func(dirfd int, mode uint32) unix.Errno {
		return sys.Errno(unix.Mknodat(dirfd, name, mode, int(diskRdev(in.Rdev))))
	})
}

// Mkdir implements fuse.RawFileSystem.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(&in.InHeader, name, in.Mode&07777|unix.S_IFDIR, in.Umask, out, func(dirfd int, mode uint32) unix.Errno {
		return sys.Mkdir(dirfd, name, mode&07777)
	})
}

// Symlink implements fuse.RawFileSystem.
func (f *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(h, name, 0, 0, out, func(dirfd int, _ uint32) unix.Errno {
		return sys.Errno(unix.Symlinkat(target, dirfd, name))
	})
}

// Create implements fuse.RawFileSystem.
//
// The kernel asks when it knows no such name, and checks no permission of the
// file that it gets: so it has to be a new one. If somebody else made it
// meanwhile, ESTALE lets the kernel look again, and open what is there as any
// other file.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if !validName(name) {
		return fuse.Status(unix.EINVAL)
	}
	dir, u := f.pathOf(in.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	c, errno := f.creator(&in.InHeader, dir, u.fd, in.Mode|unix.S_IFREG, in.Umask)
	if errno != 0 {
		return fuse.Status(errno)
	}
	charged, ok := f.chargeNew(&in.InHeader, dir, !hasSetID(c.mode))
	if !ok {
		return fuse.Status(unix.ENFILE)
	}
	defer f.rewritten(dir)
	fd, errno := f.openNew(c, u.fd, name, f.newFlags(in.Flags)|unix.O_CREAT|unix.O_EXCL)
	if errno == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		errno = unix.ESTALE
		f.lateFinds.begin()
	}
	if errno == 0 {
		errno = f.created(fd, &in.InHeader, in.Flags, dir, name, charged, out)
	} else if charged {
		f.files.uncharge(in.Uid)
	}
	return fuse.Status(errno)
}

// Tmpfile implements fuse.RawFileSystem.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, u := f.pathOf(in.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	c, errno := f.creator(&in.InHeader, dir, u.fd, in.Mode|unix.S_IFREG, in.Umask)
	if errno != 0 {
		return fuse.Status(errno)
	}
	charged, ok := f.chargeNew(&in.InHeader, dir, false)
	if !ok || f.cache.Mode == CacheExclusive && !f.fds.mayPin(in.Uid) {
		return fuse.Status(unix.ENFILE)
	}
	fd, errno := f.openNew(c, u.fd, ".", f.newFlags(in.Flags)&^unix.O_NOFOLLOW|unix.O_TMPFILE|int(in.Flags&unix.O_EXCL))
	if errno == 0 {
		errno = f.created(fd, &in.InHeader, in.Flags, nil, "", charged, out)
	} else if charged {
		f.files.uncharge(in.Uid)
	}
	return fuse.Status(errno)
}

// chargeNew charges the caller for the descriptor of a new file in dir that will be kept,
// before there is anything that a refusal would leave behind. It need not be kept if the
// file can be closed and found again by its name.
func (f *FS) chargeNew(h *fuse.InHeader, dir *node, byName bool) (charged, ok bool) {
	if f.cache.Mode == CacheExclusive || !f.needsDescriptor(dir) {
		return false, true
	}
	charged = f.files.charge(h.Uid)
	return charged, charged || byName && !f.remoteData && !f.asCallers && !f.passOff.Load()
}

// openNew opens a file that flags make, as its creator.
func (f *FS) openNew(c creator, dirfd int, name string, flags int) (fd int, errno unix.Errno) {
	fd = -1
	errno = f.as(&c, func() (errno unix.Errno) {
		fd, errno = sys.OpenAt(dirfd, name, flags, c.mode&07777)
		return errno
	})
	return fd, errno
}

// created answers with a new file that fd has open. The caller has been charged for the
// descriptor, or will be if it is kept.
func (f *FS) created(fd int, h *fuse.InHeader, flags uint32, dir *node, name string, charged bool, out *fuse.CreateOut) unix.Errno {
	var began reading
	if dir != nil {
		began = f.reading(dir, -1) // which is marked since the name was looked up
	}
	n, errno := f.identify(fd, false, dir, name, &out.EntryOut)
	if errno != 0 {
		unix.Close(fd)
		if charged {
			f.files.uncharge(h.Uid)
		}
		return errno
	}
	if dir != nil {
		out.EntryOut.SetEntryTimeout(f.entryValidity(dir, began))
		f.fds.tell(dir)
	}
	if f.cache.Mode == CacheExclusive {
		if f.fds.adopt(n, fd, writable) < 0 {
			unix.Close(fd)
			return 0
		}
		if dir == nil { // it has no name to find it by, and nothing else keeps it
			f.fds.pin(n, h.Uid)
		}
		f.fds.release(n)
		return 0
	}
	how := payAnyway
	switch {
	case charged:
		how = paid
	case f.needsDescriptor(n) && dir != nil:
		how = payOrFail // it can be opened again by its name
	}
	if errno := f.opened(n, fd, h, flags, how, &out.OpenOut); errno != 0 {
		f.Forget(n.id, 1) // the kernel does not hear of it
		return errno
	}
	if dir == nil {
		n.losesName()
	}
	return 0
}

// newFlags are the flags that a new file is opened with at the source.
func (f *FS) newFlags(flags uint32) int {
	if f.cache.Mode == CacheExclusive {
		return unix.O_RDWR | unix.O_NOFOLLOW // whoever uses it next may do either
	}
	return diskOpenFlags(flags)
}
