package fusefs

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// openFile is an open file of the mount's users.
//
// The kernel reads and writes a passthrough file by itself, and its open file keeps the
// inode. This server needs a descriptor for hardly anything: locks, SEEK_DATA, ioctls.
// So it may be closed, and is opened again by the node's handle when it is needed.
// A file that is read and written by requests, as it has set-id bits, may be closed as
// well: it is registered with the kernel as a passthrough file is, which keeps it open,
// and no OPEN is answered with that.
//
// Where that can't be, the descriptor is kept until RELEASE and charged to a user.
type openFile struct {
	table  *openFiles
	node   *node
	handle uint64
	flags  int // that it is opened with at the source

	// Guarded by openFiles.mu.
	fd           int  // -1 if it is closed
	users        int  // requests that use fd
	keeps        int  // reasons to keep fd
	stays        bool // fd is kept until RELEASE
	uid          uint32
	charged      bool      // uid is charged for fd
	alone        bool      // nothing but fd keeps the file open: it takes an anchor to close it
	anchor       int32     // id of the registered file; 0 if there is none
	turn         uint32    // counts the open files that have had this handle
	newer, older *openFile // in openFiles.idle
	next, prev   *openFile // of the same node
}

// openFiles are the open files. What the kernel has of one, its handle, is an index.
//
// They have a budget of descriptors. Some can be closed: of those, the ones that were
// used last stay. All others are charged to users. A user is refused (ENFILE) who has
// as many already as are left: so whatever one user has, another gets some.
type openFiles struct {
	mu      sync.Mutex
	anchors anchors
	files   []*openFile // by handle; those that are free have no node
	free    []uint64
	idle    openFile // the ends of the list of those that can be closed: newer is the oldest
	closing int      // descriptors that can be closed, those in use included
	budget  int
	charged int
	users   map[uint32]int // what is charged, by uid
}

// anchors are files that the kernel keeps open without a descriptor. A failure is 0.
type anchors interface {
	register(fd int) int32
	unregister(id int32)
}

func newOpenFiles(budget int, a anchors) *openFiles {
	t := &openFiles{anchors: a, budget: budget, files: make([]*openFile, 1), users: make(map[uint32]int)} // 0 is no handle
	t.idle.newer, t.idle.older = &t.idle, &t.idle
	return t
}

// add makes an open file of n known, which fd has open, or -1. If it is to be kept open,
// its user is to be charged before, or not at all. alone says that nothing else keeps
// the file open.
func (t *openFiles) add(n *node, fd, flags int, uid uint32, keep, charged, alone bool) *openFile {
	u := n.uses()
	t.mu.Lock()
	var o *openFile
	if last := len(t.free) - 1; last >= 0 {
		o = t.files[t.free[last]]
		t.free = t.free[:last]
	} else {
		o = &openFile{table: t, handle: uint64(len(t.files))}
		t.files = append(t.files, o)
	}
	o.node, o.fd, o.flags, o.uid, o.charged, o.alone = n, fd, flags, uid, charged, alone
	if o.stays = keep; keep {
		o.keeps = 1
	} else if fd >= 0 {
		t.closing++
		t.rest(o)
	}
	if o.next = u.files; o.next != nil {
		o.next.prev = o
	}
	u.files = o
	closing := t.evict(t.budget)
	t.mu.Unlock()
	t.close(closing)
	return o
}

// get returns the open file of a handle, nil if there is none.
func (t *openFiles) get(handle uint64) *openFile {
	t.mu.Lock()
	defer t.mu.Unlock()
	if handle == 0 || handle >= uint64(len(t.files)) || t.files[handle].node == nil {
		return nil
	}
	return t.files[handle]
}

// remove is the end of an open file, which no request uses any more.
func (t *openFiles) remove(o *openFile) {
	u := o.node.uses()
	t.mu.Lock()
	fd := o.fd
	if fd >= 0 && o.keeps == 0 {
		t.closing--
		t.wake(o)
	}
	if o.charged {
		t.refund(o.uid)
	}
	if o.next != nil {
		o.next.prev = o.prev
	}
	if o.prev != nil {
		o.prev.next = o.next
	} else {
		u.files = o.next
	}
	anchor := o.anchor
	*o = openFile{table: t, handle: o.handle, fd: -1, turn: o.turn + 1}
	t.free = append(t.free, o.handle)
	t.mu.Unlock()
	if fd >= 0 {
		unix.Close(fd)
	}
	if anchor != 0 {
		t.anchors.unregister(anchor)
	}
}

// borrow returns the descriptor of an open file if it has one. It stays open until
// giveBack.
func (t *openFiles) borrow(o *openFile) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.fd < 0 {
		return -1, false
	}
	t.wake(o)
	o.users++
	return o.fd, true
}

func (t *openFiles) giveBack(o *openFile) {
	t.mu.Lock()
	if o.users--; o.users == 0 && o.keeps == 0 {
		t.rest(o)
	}
	closing := t.evict(t.budget)
	t.mu.Unlock()
	t.close(closing)
}

// offer gives an open file that is closed a descriptor, and borrows it. If it has been
// given one meanwhile, it is that one.
func (t *openFiles) offer(o *openFile, fd int) int {
	spare := -1
	t.mu.Lock()
	if o.fd >= 0 {
		spare = fd
		t.wake(o)
	} else {
		o.fd = fd
		if o.keeps == 0 {
			t.closing++
		}
	}
	o.users++
	fd = o.fd
	t.mu.Unlock()
	if spare >= 0 {
		unix.Close(spare)
	}
	return fd
}

// keep has a descriptor that is borrowed stay open, and charges the user of h for it;
// false if that one has too many.
func (t *openFiles) keep(o *openFile, uid uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !o.charged && o.keeps == 0 {
		if !t.mayCharge(uid) {
			return false
		}
		t.pay(uid)
		o.uid, o.charged = uid, true
	}
	if o.keeps++; o.keeps == 1 {
		t.closing--
	}
	return true
}

// let is the end of a keep.
func (t *openFiles) let(o *openFile) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.keeps--; o.keeps == 0 {
		t.closing++
		if o.users == 0 {
			t.rest(o)
		}
		if o.charged {
			t.refund(o.uid)
			o.charged = false
		}
	}
}

// staysOpen reports whether the descriptor of an open file is kept until RELEASE. With
// a flock it is kept as well, but anybody who has the file may unlock it at any time.
func (t *openFiles) staysOpen(o *openFile) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return o.stays
}

// anyOf returns a duplicate of a descriptor of an open file of n, ESTALE if there is none.
func (t *openFiles) anyOf(n *node) (int, unix.Errno) {
	u := n.usage.Load()
	if u == nil {
		return -1, unix.ESTALE
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for o := u.files; o != nil; o = o.next {
		if o.fd >= 0 {
			fd, err := unix.FcntlInt(uintptr(o.fd), unix.F_DUPFD_CLOEXEC, 0)
			return fd, sys.Errno(err)
		}
	}
	return -1, unix.ESTALE
}

// charge charges a user for a descriptor; false if that one has too many.
func (t *openFiles) charge(uid uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.mayCharge(uid) {
		return false
	}
	t.pay(uid)
	return true
}

// uncharge takes a charge back.
func (t *openFiles) uncharge(uid uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refund(uid)
}

// mayCharge is the rule. Root may have all that is left. mu is held, as for the
// functions below.
func (t *openFiles) mayCharge(uid uint32) bool {
	left := t.budget - t.charged
	return left > 0 && (uid == 0 || t.charged < t.budget/4 || t.users[uid] < left)
}

func (t *openFiles) pay(uid uint32) {
	t.charged++
	t.users[uid]++
}

func (t *openFiles) refund(uid uint32) {
	t.charged--
	if t.users[uid]--; t.users[uid] <= 0 {
		delete(t.users, uid)
	}
}

// crowded reports whether it matters who opens a file.
func (t *openFiles) crowded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.charged >= t.budget/4
}

// rest puts an open file whose descriptor nobody uses at the end of the list.
func (t *openFiles) rest(o *openFile) {
	o.newer, o.older = &t.idle, t.idle.older
	o.older.newer, t.idle.older = o, o
}

// wake takes an open file out of the list, if it is there.
func (t *openFiles) wake(o *openFile) {
	if o.newer == nil {
		return
	}
	o.newer.older, o.older.newer = o.older, o.newer
	o.newer, o.older = nil, nil
}

// evicted is a descriptor that an open file has lost.
type evicted struct {
	fd    int
	o     *openFile
	turn  uint32
	alone bool
}

// evict takes the descriptors that were used longest ago from their open files until
// there are no more than left, if it can. The caller closes them without mu.
func (t *openFiles) evict(left int) (closing []evicted) {
	for t.charged+t.closing > left && t.idle.newer != &t.idle {
		o := t.idle.newer
		t.wake(o)
		closing = append(closing, evicted{o.fd, o, o.turn, o.alone && o.anchor == 0})
		o.fd = -1
		t.closing--
	}
	return closing
}

// close closes what has been evicted.
func (t *openFiles) close(closing []evicted) {
	for _, e := range closing {
		if !e.alone || t.drop(e) {
			unix.Close(e.fd)
		}
	}
}

// drop registers the file of a descriptor, which then may be closed. If that can't be,
// the open file gets it back, and keeps it.
func (t *openFiles) drop(e evicted) bool {
	id := t.anchors.register(e.fd)
	t.mu.Lock()
	o, unneeded := e.o, int32(0)
	keep := false
	switch {
	case o.turn != e.turn || o.anchor != 0: // it has been released, or evicted once more, meanwhile
		unneeded = id
	case id != 0:
		o.anchor = id
	case o.fd < 0:
		o.fd = e.fd
		o.keeps++
		o.stays, keep = true, true
	}
	t.mu.Unlock()
	if unneeded != 0 {
		t.anchors.unregister(unneeded)
	}
	return !keep
}

// shut is for the end of the connection, with which what is registered goes.
func (t *openFiles) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.files[1:] {
		if o.node != nil && o.fd >= 0 {
			unix.Close(o.fd)
		}
	}
	t.files, t.free, t.closing = t.files[:1], nil, 0
	t.idle.newer, t.idle.older = &t.idle, &t.idle
}

// keptOf reports whether an open file of n has a descriptor that is kept.
func (t *openFiles) keptOf(n *node) bool {
	u := n.usage.Load()
	if u == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for o := u.files; o != nil; o = o.next {
		if o.keeps > 0 && o.fd >= 0 {
			return true
		}
	}
	return false
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// needsDescriptor reports whether the descriptors of all open files of n are kept until
// RELEASE.
func (f *FS) needsDescriptor(n *node) bool {
	return f.remoteData || f.asCallers || f.mountOf(n) == nil || f.passOff.Load()
}

// backingAnchors registers files as passthrough files are.
type backingAnchors struct{ f *FS }

func (a backingAnchors) register(fd int) int32 {
	id, errno := a.f.conn.RegisterBacking(fd)
	if errno != 0 {
		return 0
	}
	return id
}

func (a backingAnchors) unregister(id int32) { a.f.conn.UnregisterBacking(id) }

// descriptor borrows a descriptor of an open file, and opens it if it has none.
func (f *FS) descriptor(o *openFile) use {
	if fd, ok := f.files.borrow(o); ok {
		return use{fd: fd, file: o}
	}
	// The kernel has it open, so nothing can make this wait.
	fd, errno := f.reopen(o.node, o.flags|unix.O_NONBLOCK)
	if errno != 0 {
		return use{fd: -1, errno: errno}
	}
	return use{fd: f.files.offer(o, fd), file: o}
}
