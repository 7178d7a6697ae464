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
	return f.remove(h, name, 0)
}

// Rmdir implements fuse.RawFileSystem.
func (f *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(h, name, unix.AT_REMOVEDIR)
}

func (f *FS) remove(h *fuse.InHeader, name string, flags int) fuse.Status {
	if !validName(name) {
		return fuse.Status(unix.EINVAL)
	}
	dir, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	v := f.victim(dir, u.fd, name, flags&unix.AT_REMOVEDIR != 0)
	defer f.rewritten(dir)
	errno := sys.Unlink(u.fd, name, flags)
	for pause := time.Millisecond; errno == unix.ENOTEMPTY && pause < 50*time.Millisecond && f.remoteData && onlySilly(u.fd, name); pause *= 2 {
		// What has just been closed is told, and deleted, a moment later.
		time.Sleep(pause)
		errno = sys.Unlink(u.fd, name, flags)
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
	_, from := f.pathOf(in.Oldnodeid)
	if from.errno != 0 {
		return fuse.Status(from.errno)
	}
	defer from.done()
	dir, u := f.pathOf(in.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	defer f.rewritten(dir)
	if err := unix.Linkat(from.fd, "", u.fd, name, unix.AT_EMPTY_PATH); err != nil {
		return fuse.Status(sys.Errno(err))
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
	rename := func() unix.Errno {
		return sys.Errno(unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)))
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
		// The whiteout that stays behind is a new file of the caller's.
		var c creator
		if c, errno = f.creator(&in.InHeader, from.fd, 0, 0); errno == 0 {
			errno = f.as(c, rename)
		}
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
