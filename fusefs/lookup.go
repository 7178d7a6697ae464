package fusefs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// validName refuses what could leave the directory, whoever sends it.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// identify makes the file of an O_PATH descriptor known, counts a look-up and
// fills in the answer. It takes the descriptor over.
func (f *FS) identify(fd int, parent *node, name string, out *fuse.EntryOut) (*node, unix.Errno) {
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		unix.Close(fd)
		return nil, errno
	}
	fresh := &node{typ: st.Mode & unix.S_IFMT, tag: f.devices.tag(st.Dev), fd: -1}
	var buf [sys.MaxHandle]byte
	if size, mountID, errno := sys.HandleAt(fd, "", &buf); errno == 0 {
		if fresh.mount = f.mounts.get(mountID, fd, fresh.isDir()); fresh.mount != nil {
			fresh.key = keyOfHandle(fresh.mount, buf[:size])
		}
	}
	if fresh.mount == nil {
		fresh.key = keyOfInode(&st)
	}
	n := f.nodes.intern(fresh)
	if n == nil {
		unix.Close(fd)
		return nil, unix.ENFILE
	}
	if n.mount == nil || n.isDir() {
		f.fds.adopt(n, fd)
		f.fds.place(n, parent, name)
		f.fds.release(n)
	} else {
		unix.Close(fd)
	}
	out.NodeId = n.id
	out.Generation = 1
	f.own.attr(&st, n.tag, &out.Attr)
	return n, 0
}

// entry answers with the file name in dir.
func (f *FS) entry(dir *node, dirfd int, name string, out *fuse.EntryOut) unix.Errno {
	fd, errno := openPath(dirfd, name)
	if errno != 0 {
		return errno
	}
	_, errno = f.identify(fd, dir, name, out)
	return errno
}

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if !validName(name) {
		return fuse.Status(unix.ENOENT)
	}
	dir, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	return fuse.Status(f.entry(dir, u.fd, name, out))
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(id, count uint64) {
	if n := f.nodes.forget(id, count); n != nil {
		f.fds.drop(n)
	}
}

// victim makes sure that a file without a handle stays reachable when the name
// by which it would be found is about to go: other links or open files of it
// may remain.
func (f *FS) victim(dir *node, dirfd int, name string) {
	if dir.mount != nil {
		return
	}
	var st unix.Stat_t
	if sys.StatAt(dirfd, name, &st) != 0 {
		return
	}
	n := f.nodes.find(keyOfInode(&st))
	if n == nil {
		return
	}
	f.fds.pin(n)
	u := f.path(n)
	u.done()
}

// moved notes the new place of a file without a handle.
func (f *FS) moved(dir *node, dirfd int, name string) {
	if dir.mount != nil {
		return
	}
	var st unix.Stat_t
	if sys.StatAt(dirfd, name, &st) != 0 {
		return
	}
	if n := f.nodes.find(keyOfInode(&st)); n != nil {
		f.fds.place(n, dir, name)
	}
}
