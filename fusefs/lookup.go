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

// identify makes the file of a descriptor known, counts a look-up and fills in
// the answer. It takes an O_PATH descriptor over; any other stays the caller's.
func (f *FS) identify(fd int, path bool, parent *node, name string, out *fuse.EntryOut) (*node, unix.Errno) {
	n, errno := f.intern(fd, parent, name, out)
	if errno == 0 && (n.isDir() || f.mountOf(n) == nil) {
		if path {
			f.keep(n, fd, parent, name)
			return n, 0
		}
		var own int
		if own, errno = sys.Reopen(fd, unix.O_PATH); errno == 0 {
			f.keep(n, own, parent, name)
		} else {
			f.Forget(n.id, 1)
		}
	}
	if path {
		unix.Close(fd)
	}
	return n, errno
}

// keep gives a node an O_PATH descriptor.
func (f *FS) keep(n *node, fd int, parent *node, name string) {
	f.fds.adopt(n, fd, pathOnly)
	f.fds.place(n, parent, name)
	f.fds.release(n)
}

// intern makes the file of a descriptor known, counts a look-up and fills in
// the answer. The name is where the file was found.
func (f *FS) intern(fd int, parent *node, name string, out *fuse.EntryOut) (*node, unix.Errno) {
	var (
		buf   [sys.MaxHandle]byte
		room  keyBuf
		key   []byte
		m     *mount
		began reading
	)
	size, mountID, noHandle := sys.HandleAt(fd, "", &buf)
	// The identity first: what happens to the file from here on is noticed.
	seen := false
	if noHandle == 0 {
		if m, seen = f.mounts.known(mountID); m != nil {
			key = room.ofHandle(m, buf[:size])
			began = f.watch.begin(string(key))
		}
	}
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		return nil, errno
	}
	if noHandle == 0 && !seen {
		var errno unix.Errno
		if m, errno = f.mounts.get(mountID, fd, st.Mode&unix.S_IFMT == unix.S_IFDIR); errno != 0 {
			return nil, errno
		}
		if m != nil {
			key = room.ofHandle(m, buf[:size])
		}
	}
	if m == nil {
		key = room.ofInode(&st)
	}
	n := f.nodes.lookup(key)
	if n == nil {
		n = f.nodes.intern(f.newNode(key, &st))
	} else if m == nil && f.lost(n, &st, parent, name) {
		id := n.id
		n = f.nodes.supersede(n, f.newNode(key, &st))
		f.Forget(id, 1)
	}
	if n == nil {
		return nil, unix.ENFILE
	}
	if m == nil {
		// The mark comes before what may be kept is read.
		if began = f.reading(n, fd); began.marked {
			began.marked = sys.Stat(fd, &st) == 0
		}
	}
	f.describe(n, &st, out)
	if noHandle != 0 || seen || began.marked {
		out.SetAttrTimeout(f.attrValidity(n, st.Mode, uint64(st.Nlink), began))
	}
	return n, 0
}

// describe fills in the answer to a look-up.
func (f *FS) describe(n *node, st *unix.Stat_t, out *fuse.EntryOut) {
	out.NodeId = n.id
	out.Generation = 1
	n.shown(st)
	f.own.attr(st, n.tag, &out.Attr)
}

// internName is intern, by its name alone, for a file of which no descriptor is
// needed: its handle says which inode it is of, so that what is said of the name
// afterwards is known to be of the same one. It returns EAGAIN for any other.
//
// A file that has got the inode of one deleted in between has another handle than
// this one, which is stale from then on.
func (f *FS) internName(dirfd int, name string, out *fuse.EntryOut) unix.Errno {
	var (
		buf  [sys.MaxHandle]byte
		room keyBuf
		st   unix.Stat_t
	)
	if f.mounts.root == nil || f.remoteData {
		return unix.EAGAIN // no handles, or those of a server
	}
	size, mountID, errno := sys.HandleAt(dirfd, name, &buf)
	if errno == unix.ENOENT {
		return errno
	}
	if errno != 0 {
		return unix.EAGAIN
	}
	m, _ := f.mounts.known(mountID)
	ino, ok := sys.HandleInode(buf[:size])
	if m == nil || !ok {
		return unix.EAGAIN
	}
	key := room.ofHandle(m, buf[:size])
	began := f.watch.begin(string(key))
	if sys.StatAt(dirfd, name, &st) != 0 || st.Ino != ino || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EAGAIN
	}
	n := f.nodes.lookup(key)
	if n == nil {
		if n = f.nodes.intern(f.newNode(key, &st)); n == nil {
			return unix.ENFILE
		}
	}
	f.describe(n, &st, out)
	out.SetAttrTimeout(f.attrValidity(n, st.Mode, uint64(st.Nlink), began))
	return 0
}

func (f *FS) newNode(key []byte, st *unix.Stat_t) *node {
	return &node{key: string(key), tag: f.devices.tag(st.Dev), typ: uint16(st.Mode & unix.S_IFMT)}
}

// lost reports whether the descriptor that a node is known by leads nowhere any
// more. It keeps no file of a server from being deleted there, after which
// another may have the inode number. What a client has cached of a file may still
// answer then; under the name that the file was found by last, an ESTALE will
// tell, and under another the server is asked. One of another type, which is what
// found says, is another for sure.
func (f *FS) lost(n *node, found *unix.Stat_t, parent *node, name string) bool {
	if !n.is(found.Mode) {
		return true
	}
	fd, ok := f.fds.acquire(n, pathOnly)
	if !ok {
		return false
	}
	defer f.fds.release(n)
	if f.remoteData {
		place, last := f.fds.placeOf(n)
		if place != parent || last != name || f.suspicion.roused() {
			return sys.Revalidate(fd, "") != 0
		}
	}
	var st unix.Stat_t
	return sys.Stat(fd, &st) != 0
}

// entry is find for a name that the kernel asks for.
func (f *FS) entry(dir *node, dirfd int, name string, out *fuse.EntryOut) unix.Errno {
	errno := f.find(dir, dirfd, name, out)
	if errno == 0 && out.EntryTimeout() > 0 {
		f.fds.tell(dir)
	}
	return errno
}

// find answers with the file name in dir, if it exists.
func (f *FS) find(dir *node, dirfd int, name string, out *fuse.EntryOut) unix.Errno {
	began := f.reading(dir, dirfd)
	f.doubt(dirfd, name)
	var errno unix.Errno
	if f.lateFinds.active() {
		errno = f.findLate(dir, dirfd, name, out)
	} else {
		errno = f.internName(dirfd, name, out)
	}
	if errno == unix.EAGAIN {
		var fd int
		if fd, errno = openPath(dirfd, name); errno == 0 {
			_, errno = f.identify(fd, true, dir, name, out)
		}
	}
	// That there is none may be kept as well.
	out.SetEntryTimeout(f.entryValidity(dir, began))
	return errno
}

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if !validName(name) {
		return fuse.Status(unix.ENOENT)
	}
	if f.rerooting.Load() {
		return fuse.Status(f.lookupPrivate(h.NodeId, name, out))
	}
	errno := f.lookup(h.NodeId, name, out)
	if errno == unix.ENOENT && out.EntryTimeout() > 0 {
		out.NodeId = 0 // there is none, and the kernel may keep that
		return fuse.OK
	}
	if errno != 0 {
		errno = f.carriers.failure(h.NodeId, name, errno)
	}
	return fuse.Status(errno)
}

func (f *FS) lookup(id uint64, name string, out *fuse.EntryOut) unix.Errno {
	dir, u := f.pathOf(id)
	if u.errno != 0 {
		return u.errno
	}
	defer u.done()
	return f.entry(dir, u.fd, name, out)
}

// lookupPrivate is lookup while nobody sees the mount but who makes it.
func (f *FS) lookupPrivate(id uint64, name string, out *fuse.EntryOut) unix.Errno {
	view, errno := false, unix.ENOENT
	if id == rootID {
		errno = f.inner(name, out)
		view = errno == 0
	}
	if errno == unix.ENOENT {
		errno = f.lookup(id, name, out)
	}
	if errno == 0 && f.assembling.Load() {
		if !view {
			f.carriers.add(id, name)
		}
		disguise(&out.Attr)
		out.SetAttrTimeout(0)
		out.SetEntryTimeout(0)
	}
	return errno
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(id, count uint64) {
	if n := f.nodes.forget(id, count); n != nil {
		f.unmark(n)
		f.fds.drop(n)
		f.dropBacking(n)
		if n.isDir() {
			f.streams.drop(n)
		}
	}
}

// victim is a file that is about to lose a name, and a descriptor of it for that time.
// It may have to stay reachable: one without a handle was found by this name, and other
// links or open files of it may remain. One with a handle is gone with its last name
// unless it is open, which only the kernel knows of what it opens by itself: by O_PATH,
// FIFOs, sockets, devices, and with CacheExclusive everything.
type victim struct {
	n *node // nil if the kernel does not know it
	use
}

// victim returns the file of a name that is about to go. The caller calls lostName.
//
// An NFS client that is told to remove a file of which somebody has a descriptor
// gives it another name, .nfs and a number, until that is closed; its directory can't
// be removed before. So there is none of a file that nobody has open, and of others
// none for longer (see Release). A FUSE server is told of open files alone, and an
// O_PATH descriptor is none.
func (f *FS) victim(dir *node, dirfd int, name string, directory bool) victim {
	none := victim{use: use{fd: -1}}
	if f.renames && !directory && f.leaveVictim(dirfd, name) {
		return none
	}
	if f.mountOf(dir) == nil {
		return f.knownVictim(dirfd, name)
	}
	if directory { // most that are known have a descriptor
		if n := f.withHandle(dirfd, name); n == nil {
			return none
		} else if fd, ok := f.fds.acquire(n, pathOnly); ok {
			return victim{n, use{fd: fd, n: n, shared: &f.fds}}
		}
	}
	fd, errno := openPath(dirfd, name)
	if errno != 0 {
		return none
	}
	n := f.withHandle(fd, "")
	if n == nil {
		unix.Close(fd)
		return none
	}
	return victim{n, use{fd: fd}}
}

// knownVictim is victim for a file without a handle.
func (f *FS) knownVictim(dirfd int, name string) victim {
	var st unix.Stat_t
	if sys.StatAt(dirfd, name, &st) == 0 {
		var key keyBuf
		if n := f.nodes.find(key.ofInode(&st)); n != nil {
			if u := f.path(n); u.errno == 0 {
				return victim{n, u}
			}
		}
	}
	return victim{use: use{fd: -1}}
}

// lostName ends the use of a victim, after the call of h. If it succeeded, and the
// file could not be found again, its descriptor is pinned.
func (f *FS) lostName(v *victim, h *fuse.InHeader, dir *node, name string, errno unix.Errno) {
	defer v.done()
	if v.n == nil || errno != 0 {
		return
	}
	var st unix.Stat_t
	if !v.n.isDir() && sys.Stat(v.fd, &st) == 0 && st.Nlink > 0 {
		parent, last := f.fds.placeOf(v.n)
		if v.n.mountIndex() != noMount || parent != dir || last != name {
			return
		}
	}
	if v.n.losesName() && (v.n.mountIndex() != noMount || f.files.keptOf(v.n)) {
		return // what keeps an open file keeps it reachable
	}
	v.use = f.fds.lend(v.n, v.use)
	f.fds.pin(v.n, f.payer(h, f.fds.crowded))
}

// leaveVictim closes the descriptor and the passthrough file of a file that nobody has
// open, if this is its last name. It is for sources that might rename the file otherwise.
func (f *FS) leaveVictim(dirfd int, name string) bool {
	var st unix.Stat_t
	if f.cache.Mode == CacheExclusive || sys.StatAt(dirfd, name, &st) != 0 || st.Nlink > 1 {
		return false
	}
	n := f.withHandle(dirfd, name)
	if n == nil {
		var key keyBuf
		n = f.nodes.find(key.ofInode(&st))
	}
	if n == nil || !n.isRegular() || n.openAsItGoes() {
		return false
	}
	f.dropBacking(n)
	f.fds.leave(n)
	return true
}

// withHandle returns the node of a name below dirfd, or of dirfd itself, that is
// known by its handle, nil if there is none.
func (f *FS) withHandle(dirfd int, name string) *node {
	var buf [sys.MaxHandle]byte
	size, mountID, errno := sys.HandleAt(dirfd, name, &buf)
	if errno != 0 {
		return nil
	}
	m, _ := f.mounts.known(mountID)
	if m == nil {
		return nil
	}
	var key keyBuf
	return f.nodes.find(key.ofHandle(m, buf[:size]))
}

// nodeOf returns the node of the file that fd is a descriptor of, nil if there is none.
func (f *FS) nodeOf(fd int) *node {
	if n := f.withHandle(fd, ""); n != nil {
		return n
	}
	var st unix.Stat_t
	if sys.Stat(fd, &st) != 0 {
		return nil
	}
	var key keyBuf
	return f.nodes.find(key.ofInode(&st))
}

// moved notes the new place of a file without a handle.
func (f *FS) moved(dir *node, dirfd int, name string) {
	if f.mountOf(dir) != nil {
		return
	}
	var st unix.Stat_t
	if sys.StatAt(dirfd, name, &st) != 0 {
		return
	}
	var key keyBuf
	if n := f.nodes.find(key.ofInode(&st)); n != nil {
		f.fds.place(n, dir, name)
	}
}
