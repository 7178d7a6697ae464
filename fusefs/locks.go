package fusefs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Locks of the mount's users are taken on the source as well, so that they hold
// against users of the source and of other mounts of it.
//
// A lock has an owner: for fcntl(2) the descriptor table of a process (POSIX)
// or an open file (OFD), for flock(2) an open file. flock is done on the open
// file that the server has for it. Each owner of record locks has an open file
// of its own in the server, whose OFD locks split, merge and convert as the
// owner's do natively.
//
// No thread waits for a lock: nothing but a signal ends F_OFD_SETLKW, and a
// program with many waiters would take all threads of this one. A request that
// waits is handled again, when a lock of the mount that is in its way goes (see
// queue), or, if it is one of the source's users, from time to time.
//
// # When locks go
//
// OFD and flock locks go with the open file, at RELEASE. POSIX locks go when
// their owner closes any descriptor of the file, which FLUSH says. It costs a
// request for each close(2), so only files on which somebody has taken a lock
// have it sent; the file that the first lock was taken through was opened
// before that. When all are closed, its RELEASE tells. When its owner is gone
// and others have inherited it, or when it was open twice and one of them is
// closed, only /proc can: see process.
type fileLocks struct {
	node *node
	sys  sync.Mutex // one call at a time, so that the books are right; before lockBooks.mu

	// Guarded by lockBooks.mu.
	owners  map[uint64]*lockOwner
	flocks  map[uint64]*flockHolder // by file handle
	flushed map[uint64]bool         // file handles whose close(2) is told by FLUSH

	waiters map[*lockWaiter]struct{}
	count   map[lockKey]int // waiters of an owner
	foreign queue           // for locks that are none of the mount's
	lobby   queue
	trying  int         // from the lobby
	last    *lockWaiter // has joined a queue
}

// flockHolder is an open file with a flock lock.
type flockHolder struct {
	typ uint32
	process
	queue // of those whose way it is in
}

func (h *flockHolder) blocks(r *lockRequest) bool {
	return r.flock && (h.typ == unix.F_WRLCK || r.typ == unix.F_WRLCK)
}

// lockRequest is what a lock request asks for.
type lockRequest struct {
	fh    uint64
	file  *openFile // of fh
	owner uint64
	flock bool
	span
	process
}

// lockBooks is what is known of all locks of the mount.
type lockBooks struct {
	mu      sync.Mutex
	files   map[*fileLocks]struct{}
	waiters map[uint64]*lockWaiter // by request
	waiting map[uint64]*lockWaiter // by owner: POSIX owners, for deadlocks
	resume  func(unique uint64)    // has a request handled again; nil without a mount
	woken   uint64                 // how often that was asked for
	watched bool
	closed  bool
}

const (
	// releaseGrace is how long a lock whose process has closed the file may
	// stay until its RELEASE is here. The kernel does not wait for that.
	releaseGrace = 50 * time.Millisecond
	releasePause = time.Millisecond // until it is tried again; twice as long each time
)

// fileLocks returns the state of the node's locks, nil if nobody has ever
// locked it.
func (n *node) fileLocks() *fileLocks {
	if u := n.usage.Load(); u != nil {
		return u.locks.Load()
	}
	return nil
}

// locksOf returns the state of a file's locks and makes it if there is none.
func (f *FS) locksOf(n *node) *fileLocks {
	if l := n.fileLocks(); l != nil {
		return l
	}
	l := newFileLocks(n)
	if !n.uses().locks.CompareAndSwap(nil, l) {
		return n.fileLocks()
	}
	return l
}

func newFileLocks(n *node) *fileLocks {
	return &fileLocks{
		node:    n,
		owners:  make(map[uint64]*lockOwner),
		flocks:  make(map[uint64]*flockHolder),
		flushed: make(map[uint64]bool),
		waiters: make(map[*lockWaiter]struct{}),
		count:   make(map[lockKey]int),
	}
}

// flushes reports whether the file that is being opened as fh should have FLUSH
// sent for the sake of its locks.
func (f *FS) flushes(n *node, fh uint64) bool {
	l := n.fileLocks()
	if l == nil {
		return false
	}
	f.locks.mu.Lock()
	l.flushed[fh] = true
	f.locks.mu.Unlock()
	return true
}

func (f *FS) lockRequest(in *fuse.LkIn) (*fileLocks, lockRequest, unix.Errno) {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return nil, lockRequest{}, unix.ESTALE
	}
	r := lockRequest{
		fh:      in.Fh,
		owner:   in.Owner,
		flock:   in.LkFlags&fuse.LK_FLOCK != 0,
		span:    span{start: in.Lk.Start, end: in.Lk.End, typ: in.Lk.Typ},
		process: process{pid: in.Lk.Pid},
	}
	if r.typ > unix.F_UNLCK || r.start > r.end || r.end > offsetMax {
		return nil, lockRequest{}, unix.EINVAL
	}
	if r.file = f.files.get(r.fh); r.file == nil {
		return nil, lockRequest{}, unix.EBADF
	}
	return f.locksOf(n), r, 0
}

// SetLk implements fuse.RawFileSystem: F_SETLK, F_OFD_SETLK and flock(2) with
// LOCK_NB, and every unlock.
func (f *FS) SetLk(x <-chan struct{}, in *fuse.LkIn) fuse.Status {
	l, r, errno := f.lockRequest(in)
	if errno != 0 {
		return fuse.Status(errno)
	}
	if errno := f.tryLock(l, &r, in); errno != unix.EAGAIN {
		return fuse.Status(errno)
	}
	end := time.Now().Add(releaseGrace)
	for pause := releasePause; ; pause *= 2 {
		released := f.releasing(l, &r)
		errno := f.tryLock(l, &r, in)
		if errno != unix.EAGAIN || !released || time.Now().After(end) {
			return fuse.Status(errno)
		}
		// It is held by a file that is closed, whose RELEASE is on its way.
		select {
		case <-x:
			return fuse.Status(unix.EINTR)
		case <-time.After(pause):
		}
	}
}

// SetLkw implements fuse.RawFileSystem: the waiting kind. It does not wait here, but is
// called again.
func (f *FS) SetLkw(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	l, r, errno := f.lockRequest(in)
	var u use
	if errno == 0 {
		u = f.descriptor(r.file)
		errno = u.errno
	}
	if errno != 0 {
		f.locks.interrupted(in.Unique) // if it has waited
		return fuse.Status(errno)
	}
	defer u.done()
	l.sys.Lock()
	defer l.sys.Unlock()
	f.locks.mu.Lock()
	w := f.locks.waiters[in.Unique]
	if w != nil {
		w.leave() // it is not in its own way
	}
	f.locks.mu.Unlock()
	errno = f.tryLockHeld(l, &r, u.fd, in)
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	if errno == unix.EAGAIN {
		if w == nil {
			w = f.locks.enter(l, in.Unique, r)
		}
		if errno = f.locks.wait(w); errno != unix.EDEADLK {
			return fuse.Status(errno)
		}
	}
	if w != nil {
		f.locks.finish(w, l.held(&r, errno))
	}
	return fuse.Status(errno)
}

// held returns the queue of the lock that a request has got.
func (l *fileLocks) held(r *lockRequest, errno unix.Errno) *queue {
	if errno != 0 {
		return nil
	}
	if r.flock {
		if h := l.flocks[r.fh]; h != nil {
			return &h.queue
		}
	} else if o := l.owners[r.owner]; o != nil {
		return &o.queue
	}
	return nil
}

// GetLk implements fuse.RawFileSystem: the first lock that is in the way. One
// that the mount knows as its own is told with its process; the source says of
// it only that it is an open file's.
func (f *FS) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	l, r, errno := f.lockRequest(in)
	if errno != 0 {
		return fuse.Status(errno)
	}
	u := f.descriptor(r.file)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	l.sys.Lock()
	defer l.sys.Unlock()
	f.locks.mu.Lock()
	fd := u.fd
	if o := l.owners[r.owner]; o != nil {
		fd = o.fd // its own locks are not in its way
	}
	f.locks.mu.Unlock()
	lock := r.flockT()
	if errno := fcntlLock(fd, unix.F_OFD_GETLK, &lock); errno != 0 {
		return fuse.Status(errno)
	}
	found := spanOf(&lock)
	out.Lk = fuse.FileLock{Start: found.start, End: found.end, Typ: found.typ}
	if found.typ == unix.F_UNLCK {
		return fuse.OK
	}
	if lock.Pid > 0 {
		out.Lk.Pid = uint32(lock.Pid)
		return fuse.OK
	}
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	for id, o := range l.owners {
		if id != r.owner && o.posix && o.overlaps(found) {
			out.Lk.Pid = o.pid
		}
	}
	return fuse.OK
}

// tryLock sets or removes a lock if nothing is in the way, else it is EAGAIN.
func (f *FS) tryLock(l *fileLocks, r *lockRequest, in *fuse.LkIn) unix.Errno {
	u := f.descriptor(r.file)
	if u.errno != 0 {
		return u.errno
	}
	defer u.done()
	l.sys.Lock()
	defer l.sys.Unlock()
	return f.tryLockHeld(l, r, u.fd, in)
}

// tryLockHeld is tryLock with l.sys held, and a descriptor of the open file.
func (f *FS) tryLockHeld(l *fileLocks, r *lockRequest, fd int, in *fuse.LkIn) unix.Errno {
	if r.flock {
		return f.tryFlock(l, r, fd, in)
	}
	f.locks.mu.Lock()
	o := l.owners[r.owner]
	f.locks.mu.Unlock()
	if o != nil && len(o.others) > 0 {
		if ino := f.shownIno(l, o.fd); ino != 0 && o.closedOne(ino) {
			f.dropOwner(l, r.owner) // what it had until it closed the other
			o = nil
		}
	}
	if r.typ == unix.F_UNLCK {
		if o == nil {
			return 0
		}
		lock := r.flockT()
		if errno := fcntlLock(o.fd, unix.F_OFD_SETLK, &lock); errno != 0 {
			return errno
		}
		f.locks.mu.Lock()
		o.set(r.span)
		empty := len(o.spans) == 0
		f.locks.release(l, &o.queue, o.blocks)
		f.locks.mu.Unlock()
		if empty {
			f.dropOwner(l, r.owner)
		}
		return 0
	}
	fresh := o == nil
	if fresh {
		o = &lockOwner{fd: -1, handles: make(map[uint64]struct{}), process: r.process}
		o.identify(in.Pid)
	}
	errno := unix.Errno(0)
	if fresh {
		if o.uid = f.payer(&in.InHeader, f.files.crowded); !f.files.charge(o.uid) {
			return unix.ENOLCK
		}
	}
	errno = f.lockFile(o, r, fd, in)
	if errno == 0 {
		lock := r.flockT()
		errno = fcntlLock(o.fd, unix.F_OFD_SETLK, &lock)
	}
	if errno != 0 {
		if fresh {
			f.closeLockFile(o)
		}
		return errno
	}
	noted := o.process
	if noted.posix && noted.pid != 0 && f.untold(l, r.fh) {
		if ino := f.shownIno(l, o.fd); ino != 0 {
			noted.note(ino)
		}
	}
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	o.process = noted
	o.set(r.span)
	o.handles[r.fh] = struct{}{}
	if fresh {
		l.owners[r.owner] = o
		f.locks.know(l)
		f.locks.unfollow(l, r.key())
	}
	if !l.flushed[r.fh] || len(o.others) > 0 {
		o.watched = o.posix && o.pid != 0
		f.watchLocks(o.watched)
	}
	f.locks.release(l, &o.queue, o.blocks) // a write lock may have become one for reading
	return 0
}

// lockFile opens the file that has the owner's locks, if there is none that can
// have this one. It is open for reading alone if the owner's is: a file that
// somebody has open for writing can't be run.
func (f *FS) lockFile(o *lockOwner, r *lockRequest, opened int, in *fuse.LkIn) unix.Errno {
	if o.fd >= 0 && (r.typ == unix.F_RDLCK && o.read || r.typ == unix.F_WRLCK && o.write) {
		return 0
	}
	flags, err := unix.FcntlInt(uintptr(opened), unix.F_GETFL, 0)
	if err != nil {
		return sys.Errno(err)
	}
	access := flags & unix.O_ACCMODE
	var modes []int
	if access != unix.O_RDONLY {
		modes = append(modes, unix.O_RDWR)
	}
	fd, errno := -1, unix.EBADF
	for _, mode := range append(modes, access) {
		errno = f.asCaller(&in.InHeader, func() (errno unix.Errno) {
			fd, errno = sys.Reopen(opened, mode|flags&unix.O_APPEND|unix.O_NONBLOCK)
			return errno
		})
		if errno == 0 {
			access = mode
			break
		}
	}
	if errno != 0 {
		return errno
	}
	// The locks so far move along. An owner that comes here has read locks only,
	// which two files can have at a time.
	for _, s := range o.spans {
		lock := s.flockT()
		if errno := fcntlLock(fd, unix.F_OFD_SETLK, &lock); errno != 0 {
			unix.Close(fd)
			return unix.ENOLCK
		}
	}
	if o.fd >= 0 {
		unix.Close(o.fd)
	}
	o.fd, o.read, o.write = fd, access != unix.O_WRONLY, access != unix.O_RDONLY
	return 0
}

// closeLockFile closes the file with the locks of an owner, and takes the charge back.
func (f *FS) closeLockFile(o *lockOwner) {
	if o.fd >= 0 {
		unix.Close(o.fd)
	}
	f.files.uncharge(o.uid)
}

// tryFlock sets or removes a lock on the open file itself, of which fd is borrowed. With
// a lock it can't be closed.
func (f *FS) tryFlock(l *fileLocks, r *lockRequest, fd int, in *fuse.LkIn) unix.Errno {
	how := map[uint32]int{unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[r.typ]
	if r.typ != unix.F_UNLCK && !f.files.keep(r.file, f.payer(&in.InHeader, f.files.crowded)) {
		return unix.ENOLCK
	}
	errno := sys.Errno(unix.Flock(fd, how|unix.LOCK_NB))
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	h := l.flocks[r.fh]
	// A conversion that is refused has lost the former lock, natively too.
	if errno != 0 || r.typ == unix.F_UNLCK {
		if r.typ != unix.F_UNLCK {
			f.files.let(r.file)
		}
		f.dropFlock(l, r.fh)
		return errno
	}
	if h == nil {
		h = new(flockHolder)
		l.flocks[r.fh] = h
		f.locks.know(l)
		f.locks.unfollow(l, r.key())
	} else {
		f.files.let(r.file) // it is kept already
	}
	h.typ, h.process = r.typ, r.process
	h.identify(in.Pid)
	f.locks.release(l, &h.queue, h.blocks)
	return 0
}

// dropFlock notes that an open file has no flock lock any more. lockBooks.mu is held.
func (f *FS) dropFlock(l *fileLocks, fh uint64) {
	if h := l.flocks[fh]; h != nil {
		delete(l.flocks, fh)
		if o := f.files.get(fh); o != nil {
			f.files.let(o)
		}
		f.locks.release(l, &h.queue, nothingBlocks)
		f.locks.forget(l)
	}
}

func nothingBlocks(*lockRequest) bool { return false }

// flushLocks is close(2) of one descriptor by an owner of POSIX locks.
func (f *FS) flushLocks(n *node, owner uint64) {
	if l := n.fileLocks(); l != nil {
		l.sys.Lock()
		f.dropOwner(l, owner)
		l.sys.Unlock()
	}
}

// releaseLocks is the end of an open file.
func (f *FS) releaseLocks(n *node, fh uint64) {
	l := n.fileLocks()
	if l == nil {
		return
	}
	l.sys.Lock()
	defer l.sys.Unlock()
	f.locks.mu.Lock()
	delete(l.flushed, fh)
	_, flocked := l.flocks[fh]
	var owners []uint64
	for id, o := range l.owners {
		// Whoever has locked through it has closed it.
		if _, ok := o.handles[fh]; ok {
			owners = append(owners, id)
		}
	}
	f.locks.mu.Unlock()
	if flocked {
		// The kernel may have the file open still, for passthrough.
		if o := f.files.get(fh); o != nil {
			if u := f.descriptor(o); u.errno == 0 {
				_ = unix.Flock(u.fd, unix.LOCK_UN)
				u.done()
			}
		}
		f.locks.mu.Lock()
		f.dropFlock(l, fh)
		f.locks.mu.Unlock()
	}
	for _, id := range owners {
		f.dropOwner(l, id)
	}
}

// dropOwner gives up all locks of an owner. l.sys is held.
func (f *FS) dropOwner(l *fileLocks, id uint64) {
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	o := l.owners[id]
	if o == nil {
		return
	}
	f.closeLockFile(o)
	delete(l.owners, id)
	f.locks.release(l, &o.queue, nothingBlocks)
	f.locks.forget(l)
}

// asCaller opens files as the one who asks where the source judges by that.
func (f *FS) asCaller(h *fuse.InHeader, fn func() unix.Errno) unix.Errno {
	if !f.asCallers {
		return fn()
	}
	c := callers{f: f}
	return c.onDisk(&h.Caller).Run(f.base, f.permitted, fn)
}
