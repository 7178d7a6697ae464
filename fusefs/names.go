package fusefs

import (
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Unlink implements fuse.RawFileSystem.
func (f *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.unlink(h, name, 0)
}

// Rmdir implements fuse.RawFileSystem.
func (f *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.unlink(h, name, unix.AT_REMOVEDIR)
}

func (f *FS) unlink(h *fuse.InHeader, name string, flags int) fuse.Status {
	if !validName(name) {
		return fuse.Status(unix.EINVAL)
	}
	dir, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	r := remover{n: 1}
	r.places[0] = place{dir: dir, fd: u.fd, name: name}
	if errno := f.mayRemove(h, &r); errno != 0 {
		return fuse.Status(errno)
	}
	remove := func() unix.Errno { return sys.Unlink(u.fd, name, flags) }
	v := f.victim(dir, u.fd, name, flags&unix.AT_REMOVEDIR != 0)
	defer f.rewritten(dir)
	errno := f.remove(h, &r, remove)
	for pause := time.Millisecond; errno == unix.ENOTEMPTY && pause < 50*time.Millisecond && f.remoteData && onlySilly(u.fd, name); pause *= 2 {
		// What has just been closed is told, and deleted, a moment later.
		time.Sleep(pause)
		errno = f.remove(h, &r, remove)
	}
	f.lostName(&v, h, dir, name, errno)
	if errno == 0 {
		f.fds.gone(dir)
	}
	return fuse.Status(errno)
}

// onlySilly reports whether a directory has no names but those that an NFS client
// gives to deleted files.
func onlySilly(dirfd int, name string) bool {
	fd, errno := sys.OpenAt(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		return false
	}
	defer unix.Close(fd)
	buf := direntBufs.Get().(*[direntBuf]byte)
	defer direntBufs.Put(buf)
	n, err := unix.Getdents(fd, buf[:])
	for rest := buf[:max(n, 0)]; len(rest) > 0; {
		e, size := parseDirent(rest)
		if size == 0 || e.Name != "." && e.Name != ".." && !strings.HasPrefix(e.Name, ".nfs") {
			return false
		}
		rest = rest[size:]
	}
	return err == nil
}

// Link implements fuse.RawFileSystem. A link has no owner of its own, yet a
// native mount refuses it to a caller whom the map does not have.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if !validName(name) {
		return fuse.Status(unix.EINVAL)
	}
	if f.own.unmapped(in.Owner) {
		return fuse.Status(unix.EOVERFLOW)
	}
	old, from := f.pathOf(in.Oldnodeid)
	if from.errno != 0 {
		return fuse.Status(from.errno)
	}
	defer from.done()
	dir, u := f.pathOf(in.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	a, errno := f.linker(&in.InHeader, old, from.fd, dir, u.fd)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer f.rewritten(dir)
	// By the entry in /proc that takes no CAP_DAC_READ_SEARCH.
	if errno := f.by(&a, func() unix.Errno { return sys.Link(from.fd, u.fd, name, a.kind == asServer) }); errno != 0 {
		return fuse.Status(errno)
	}
	return fuse.Status(f.entry(dir, u.fd, name, out))
}

// Rename implements fuse.RawFileSystem.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if !validName(oldName) || !validName(newName) {
		return fuse.Status(unix.EINVAL)
	}
	oldDir, from := f.pathOf(in.NodeId)
	if from.errno != 0 {
		return fuse.Status(from.errno)
	}
	defer from.done()
	newDir, to := f.pathOf(in.Newdir)
	if to.errno != 0 {
		return fuse.Status(to.errno)
	}
	defer to.done()
	r := remover{n: 2}
	r.places[0] = place{dir: oldDir, fd: from.fd, name: oldName}
	r.places[1] = place{dir: newDir, fd: to.fd, name: newName, new: in.Flags&unix.RENAME_NOREPLACE != 0}
	if errno := f.mayRemove(&in.InHeader, &r); errno != 0 {
		return fuse.Status(errno)
	}
	rename := func() unix.Errno {
		return f.remove(&in.InHeader, &r, func() unix.Errno {
			return sys.Errno(unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)))
		})
	}
	if f.own.unmapped(in.Owner) && in.Flags&unix.RENAME_EXCHANGE == 0 {
		// It makes a name that was not there, as a new file would.
		var st unix.Stat_t
		if in.Flags&unix.RENAME_WHITEOUT != 0 || sys.StatAt(to.fd, newName, &st) == unix.ENOENT {
			return fuse.Status(unix.EOVERFLOW)
		}
	}
	exchange := in.Flags&unix.RENAME_EXCHANGE != 0
	if f.mountOf(oldDir) == nil {
		// Until its new name is noted, no other request could find it.
		moving := f.knownVictim(from.fd, oldName)
		defer moving.done()
	}
	v := victim{use: use{fd: -1}}
	if !exchange || f.mountOf(newDir) == nil {
		v = f.victim(newDir, to.fd, newName, false)
	}
	defer f.rewritten(oldDir)
	defer f.rewritten(newDir)
	var errno unix.Errno
	if in.Flags&unix.RENAME_WHITEOUT != 0 {
		errno = f.renameWhiteout(in, &r, oldDir, from.fd, rename)
	} else {
		errno = rename()
	}
	if exchange {
		v.done()
	} else {
		f.lostName(&v, &in.InHeader, newDir, newName, errno)
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	f.moved(newDir, to.fd, newName)
	if exchange {
		f.moved(oldDir, from.fd, oldName)
	}
	return fuse.OK
}

// renameWhiteout is rename that leaves a new file of the caller's behind.
func (f *FS) renameWhiteout(in *fuse.RenameIn, r *remover, oldDir *node, dirfd int, rename func() unix.Errno) unix.Errno {
	if r.kind == asCaller {
		return rename()
	}
	r.actor = actor{}
	c, errno := f.creator(&in.InHeader, oldDir, dirfd, 0, 0)
	if errno != 0 {
		return errno
	}
	return f.as(&c, rename)
}

// Readlink implements fuse.RawFileSystem.
func (f *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	_, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return nil, fuse.Status(u.errno)
	}
	defer u.done()
	target, errno := sys.Readlink(u.fd)
	return target, fuse.Status(errno)
}
