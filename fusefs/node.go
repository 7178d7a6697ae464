package fusefs

import (
	"container/list"
	"encoding/binary"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// node is a file that the kernel knows. There may be millions, so it is small, and
// fills its size class: one field more would make it a quarter larger.
type node struct {
	id  uint64
	key string // identity: see keyBuf

	held  *held // nil if it never had a descriptor; guarded by fdCache.mu
	usage atomic.Pointer[usage]

	attrs, acl kernelCopy // of the owners and the mode, and of the access ACL

	refs uint32 // the kernel's look-ups; guarded by shard.mu
	tag  uint16 // of its device, for inode numbers
	typ  uint16 // S_IFMT bits
}

// manyRefs look-ups are no longer counted: such a node stays.
const manyRefs = 1<<32 - 1

// held is the part of fdCache in a node. Most have none.
type held struct {
	fd        int // descriptor, -1 if none
	grade     grade
	users     int
	recent    bool
	mark      uint32        // group of the mark on the file of fd; see fileMarks
	unwanted  bool          // closed as soon as nobody uses it
	forgotten bool          // by the kernel
	pin       *list.Element // of fdCache.pins; nil if not pinned
	pinner    uint32        // uid of who it is pinned for
	slot      int           // index in the cache's ring
	parent    *node         // where to find it again if there is no handle
	name      string        // there
	told      told
}

// holds returns the part of fdCache, and makes it if there is none.
func (n *node) holds() *held {
	if n.held == nil {
		n.held = &held{fd: -1}
	}
	return n.held
}

// usage is what a node needs that has been opened.
type usage struct {
	open    openState
	writers atomic.Int32              // open files that write past this server, by passthrough
	unkept  atomic.Bool               // the kernel has been told so; see watch.changed
	locks   atomic.Pointer[fileLocks] // nil if nobody has ever locked it
	mark    uint32                    // see keepsData; guarded by open.mu
	files   *openFile                 // those that are open; guarded by openFiles.mu
}

// uses returns the usage, and makes it if there is none.
func (n *node) uses() *usage {
	if u := n.usage.Load(); u != nil {
		return u
	}
	u := new(usage)
	if !n.usage.CompareAndSwap(nil, u) {
		return n.usage.Load()
	}
	return u
}

// openAsItGoes reports whether a file whose last name is about to go is open, and if
// so notes it.
func (n *node) openAsItGoes() bool {
	u := n.usage.Load()
	if u == nil {
		return false
	}
	u.open.mu.Lock()
	defer u.open.mu.Unlock()
	u.open.last = u.open.count > 0
	return u.open.last
}

// losesName reports whether a file whose last name has gone, or may have, is open, and
// if so notes it.
func (n *node) losesName() bool {
	u := n.usage.Load()
	if u == nil {
		return false
	}
	u.open.mu.Lock()
	defer u.open.mu.Unlock()
	u.open.nameless = u.open.count > 0
	return u.open.nameless
}

// openedBy notes who has opened the file last.
func (n *node) openedBy(pid uint32) {
	u := n.uses()
	u.open.mu.Lock()
	u.open.opener, u.open.fresh = pid, true
	u.open.mu.Unlock()
}

// justOpened reports, once, whether a thread is who has opened the file last.
func (n *node) justOpened(pid uint32) bool {
	u := n.usage.Load()
	if u == nil {
		return false
	}
	u.open.mu.Lock()
	defer u.open.mu.Unlock()
	just := u.open.count > 0 && u.open.fresh && u.open.opener == pid
	if just {
		u.open.fresh = false
	}
	return just
}

// written reports whether the file is open for writing past this server.
func (n *node) written() bool {
	u := n.usage.Load()
	return u != nil && u.writers.Load() > 0
}

// is reports whether a file of this mode can be the one that the node was made for.
// A server may have given its inode number, or its path where the client goes by that,
// to another; and the kernel gives up for good a node that changes its type.
func (n *node) is(mode uint32) bool { return n.typ == uint16(mode&unix.S_IFMT) }

func (n *node) isDir() bool     { return n.typ == unix.S_IFDIR }
func (n *node) isRegular() bool { return n.typ == unix.S_IFREG }
func (n *node) handle() string  { return n.key[4:] }

// mount is one mount below the source whose files open by handle.
type mount struct {
	index   uint32
	dir     *os.File // on it, not O_PATH
	fd      int      // of dir
	watched bool     // what others change there is reported; then the following are set
	fsid    uint64   // of its file system
	watch   *watch   // whom it is reported to
	group   *watchGroup
	blind   error // if it is not watched: why

	ignoresWrites bool // see watchGroup.setIgnoredWrites; guarded by its mu
}

// keyBuf has room for every key.
type keyBuf [4 + sys.MaxHandle]byte

// ofHandle returns the key of a file with a handle.
func (b *keyBuf) ofHandle(m *mount, handle []byte) []byte {
	binary.LittleEndian.PutUint32(b[:], m.index)
	return b[:4+copy(b[4:], handle)]
}

// noMount stands in place of a mount's index.
const noMount = ^uint32(0)

// ofInode returns the key of a file that a descriptor keeps from being deleted,
// unless that is done at a server: see FS.lost.
func (b *keyBuf) ofInode(st *unix.Stat_t) []byte {
	binary.LittleEndian.PutUint32(b[:], noMount)
	binary.NativeEndian.PutUint64(b[4:], st.Dev)
	binary.NativeEndian.PutUint64(b[12:], st.Ino)
	return b[:20]
}

// mountIndex is that of the mount where the handle in the key opens, or noMount.
func (n *node) mountIndex() uint32 {
	return uint32(n.key[0]) | uint32(n.key[1])<<8 | uint32(n.key[2])<<16 | uint32(n.key[3])<<24
}

// mountOf returns the mount where the handle of n opens, nil if it has none.
func (f *FS) mountOf(n *node) *mount { return f.mounts.at(n.mountIndex()) }

// grade is what a descriptor can do.
type grade uint8

const (
	pathOnly grade = iota // O_PATH
	readable
	writable
)

// fdCache keeps descriptors of nodes up to a budget, the least recently
// used closed first (by the clock algorithm). Nodes in use are never closed,
// so the budget can be exceeded by as many as there are requests at a time.
// Pinned nodes are not closed either; there are never more than half of the budget.
type fdCache struct {
	mu     sync.Mutex
	ring   []*node
	hand   int
	budget int
	pins   pins
	grown  bool // there is room for half of the budget

	crowding func() // called with mu held when a node without a handle is added; see pruner
}

// fewDescriptors are as many as a process has room for from the start, with what
// else it has.
const fewDescriptors = 16

// use is a descriptor of a node for one operation.
type use struct {
	fd     int
	n      *node // nil: the descriptor is this operation's own
	errno  unix.Errno
	lent   bool // or somebody's who keeps it open
	shared *fdCache
	file   *openFile // whose descriptor is borrowed
}

func (u *use) done() {
	if u.n != nil {
		u.shared.release(u.n)
	} else if u.file != nil {
		u.file.table.giveBack(u.file)
	} else if u.fd >= 0 && !u.lent {
		unix.Close(u.fd)
	}
	u.fd = -1
	u.n, u.file = nil, nil
}

// acquire returns the node's descriptor if it has one of the grade or better.
func (c *fdCache) acquire(n *node, least grade) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold(n, least)
}

// hold is acquire with mu held.
func (c *fdCache) hold(n *node, least grade) (int, bool) {
	h := n.held
	if h == nil || h.fd < 0 || h.grade < least {
		return -1, false
	}
	h.users++
	h.recent = true
	return h.fd, true
}

// adopt gives the node a descriptor unless it has one as good, and acquires
// it. It returns -1, and fd stays the caller's, if the node has a worse one that
// is in use.
func (c *fdCache) adopt(n *node, fd int, g grade) int {
	var closing []int
	c.mu.Lock()
	h := n.holds()
	switch {
	case h.fd >= 0 && h.grade >= g:
		closing = append(closing, fd)
	case h.fd >= 0 && h.users > 0:
		c.mu.Unlock()
		return -1
	case h.fd >= 0:
		closing = append(closing, h.fd)
		h.fd, h.grade = fd, g
	default:
		h.fd, h.grade, h.mark = fd, g, 0
		h.slot = len(c.ring)
		c.ring = append(c.ring, n)
		h.unwanted = h.forgotten
		if len(c.ring) > fewDescriptors && !c.grown {
			c.grown = true
			go sys.GrowDescriptors(c.ring[0].held.fd, c.budget/2) // the root's, which stays
		}
	}
	h.users++
	h.recent = true
	fd = h.fd
	closing = c.evict(c.budget, closing)
	if c.crowding != nil && n.mountIndex() == noMount && len(c.ring) > c.prunedTo() {
		c.crowding()
	}
	c.mu.Unlock()
	for _, fd := range closing {
		unix.Close(fd)
	}
	return fd
}

// evict takes nodes out of the ring until there are at most as many as left, if they
// may go, and appends their descriptors to closing. mu is held.
func (c *fdCache) evict(left int, closing []int) []int {
	for turns := 2 * len(c.ring); len(c.ring) > left && turns > 0; turns-- {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		h := c.ring[c.hand].held
		if h.users > 0 || h.pin != nil || h.recent {
			h.recent = false
			c.hand++
			continue
		}
		closing = append(closing, c.remove(c.ring[c.hand]))
	}
	return closing
}

// remove takes a node out of the ring and returns the descriptor to close.
func (c *fdCache) remove(n *node) int {
	last := len(c.ring) - 1
	moved := c.ring[last]
	c.ring[n.held.slot] = moved
	moved.held.slot = n.held.slot
	c.ring[last] = nil
	c.ring = c.ring[:last]
	fd := n.held.fd
	n.held.fd = -1
	return fd
}

// spare is remove of a descriptor that nobody uses, -1 if there is none.
func (c *fdCache) spare(n *node) int {
	if h := n.held; h == nil || h.users > 0 || h.fd < 0 {
		return -1
	}
	return c.remove(n)
}

func (c *fdCache) release(n *node) {
	fd := -1
	c.mu.Lock()
	h := n.held
	h.users--
	if h.unwanted && h.pin == nil {
		fd = c.spare(n)
	}
	c.mu.Unlock()
	if fd >= 0 {
		unix.Close(fd)
	}
}

// drop closes the descriptor of a node that the kernel has forgotten.
func (c *fdCache) drop(n *node) {
	c.mu.Lock()
	if h := n.held; h != nil {
		h.unwanted, h.forgotten = true, true
		c.unpin(h)
		h.parent = nil
	}
	fd := c.spare(n)
	c.mu.Unlock()
	if fd >= 0 {
		unix.Close(fd)
	}
}

// leave closes the descriptor of a node, unless it is in use.
func (c *fdCache) leave(n *node) {
	c.mu.Lock()
	fd := c.spare(n)
	if fd >= 0 {
		c.unpin(n.held)
	}
	c.mu.Unlock()
	if fd >= 0 {
		unix.Close(fd)
	}
}

// lend gives a node the descriptor of an operation, if that is its own.
func (c *fdCache) lend(n *node, u use) use {
	if u.n != nil {
		return u
	}
	return use{fd: c.adopt(n, u.fd, pathOnly), n: n, shared: c}
}

// ease closes the descriptor of a node as soon as nobody uses it, unless it is
// pinned, or how the node is known.
func (c *fdCache) ease(n *node) {
	if n.mountIndex() == noMount {
		return
	}
	fd := -1
	c.mu.Lock()
	switch h := n.held; {
	case h == nil || h.pin != nil:
	case h.users > 0:
		h.unwanted = true
	default:
		fd = c.spare(n)
		n.held = nil
	}
	c.mu.Unlock()
	if fd >= 0 {
		unix.Close(fd)
	}
}

// place notes where a node without a handle is found. If it was pinned, as it could
// not be found again, it need not be any more.
func (c *fdCache) place(n, parent *node, name string) {
	if n.mountIndex() != noMount {
		return
	}
	c.mu.Lock()
	h := n.holds()
	h.parent, h.name = parent, strings.Clone(name) // it may lie in a buffer
	if parent != nil {
		c.unpin(h)
	}
	c.mu.Unlock()
}

// movedTo notes where somebody else has moved a node without a handle, unless it is kept
// for want of a place.
func (c *fdCache) movedTo(n, parent *node, name string) {
	if n.mountIndex() != noMount {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := n.held; h != nil && h.pin == nil && !h.forgotten {
		h.parent, h.name = parent, name
	}
}

func (c *fdCache) placeOf(n *node) (*node, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.held == nil {
		return nil, ""
	}
	return n.held.parent, n.held.name
}

// path returns a descriptor of n that may be O_PATH.
func (f *FS) path(n *node) use {
	if fd, ok := f.fds.acquire(n, pathOnly); ok {
		return use{fd: fd, n: n, shared: &f.fds}
	}
	if m := f.mountOf(n); m != nil {
		fd, errno := f.openHandle(m, n, unix.O_PATH|unix.O_NOFOLLOW)
		if errno != 0 {
			return use{fd: -1, errno: errno}
		}
		if !n.isDir() {
			return use{fd: fd}
		}
		return use{fd: f.fds.adopt(n, fd, pathOnly), n: n, shared: &f.fds}
	}
	return f.walk(n)
}

// file returns a descriptor of n: that of the open file fh if the kernel named
// one that has a descriptor, and otherwise one that may be O_PATH.
func (f *FS) file(n *node, fh uint64, named bool) use {
	if named && n.isRegular() {
		if o := f.files.get(fh); o != nil {
			if fd, ok := f.files.borrow(o); ok {
				return use{fd: fd, file: o}
			}
		}
	}
	return f.path(n)
}

// data returns a descriptor of a regular file's data: that of the open file
// fh, or, if opens are not the server's business, one that it keeps itself.
func (f *FS) data(id, fh uint64, least grade) use {
	if f.cache.Mode != CacheExclusive {
		o := f.files.get(fh)
		if o == nil {
			return use{fd: -1, errno: unix.EBADF}
		}
		u := f.descriptor(o)
		if u.errno == unix.EPERM && least == readable { // chattr +i, +a
			u.fd, u.errno = f.reopen(o.node, unix.O_RDONLY|unix.O_NONBLOCK)
		}
		return u
	}
	n := f.nodes.get(id)
	if n == nil {
		return use{fd: -1, errno: unix.ESTALE}
	}
	if fd, ok := f.fds.acquire(n, least); ok {
		return use{fd: fd, n: n, shared: &f.fds}
	}
	flags, got := unix.O_RDONLY, readable
	if least == writable {
		flags, got = unix.O_RDWR, writable
	}
	u := f.path(n) // an unlinked file has no more than this
	if u.errno != 0 {
		return u
	}
	fd, errno := sys.Reopen(u.fd, flags|unix.O_NONBLOCK)
	if errno == unix.EPERM && least == writable {
		fd, errno = sys.Reopen(u.fd, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK) // chattr +a
		u.done()
		return use{fd: fd, errno: errno}
	}
	u.done()
	if errno != 0 {
		return use{fd: -1, errno: errno}
	}
	if kept := f.fds.adopt(n, fd, got); kept >= 0 {
		return use{fd: kept, n: n, shared: &f.fds}
	}
	return use{fd: fd}
}

// pathOf is path of the node with an id.
func (f *FS) pathOf(id uint64) (*node, use) {
	n := f.nodes.get(id)
	if n == nil {
		return nil, use{fd: -1, errno: unix.ESTALE}
	}
	return n, f.path(n)
}

// reopen opens n for input, output or both.
func (f *FS) reopen(n *node, flags int) (int, unix.Errno) {
	if m := f.mountOf(n); m != nil {
		return f.openHandle(m, n, flags)
	}
	u := f.path(n)
	if u.errno != 0 {
		return -1, u.errno
	}
	defer u.done()
	return sys.Reopen(u.fd, flags)
}

func openPath(dirfd int, name string) (int, unix.Errno) {
	return sys.OpenAt(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
}
