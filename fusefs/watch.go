package fusefs

import (
	"hash/maphash"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

const (
	// watchPause is how long changes are collected after some have been dealt
	// with. Without it a busy writer would wake the watch for each write, and
	// pay for that itself.
	watchPause = time.Millisecond

	// ownPause is the same after changes that this server has made itself: it
	// makes many at a time, and to look at them again and again would slow it down.
	ownPause = 5 * time.Millisecond

	// watchTries is how often, with pauses that double, the kernel is told of a
	// change to a node that it does not know yet: our answer to its look-up may
	// still be on the way.
	watchTries = 8

	senders = 4

	// maxNotices is how many notices wait at most; as many as events in fanotify's
	// own queue, where no one has changed that.
	maxNotices = 16384
)

// watch has the kernel forget what others change at the source.
//
// An answer that was read before a change and sent after it would bring the
// old state back. So each event counts up a bucket of the file's identity
// before the kernel is told, and an answer whose bucket was counted up while it
// was read may not be kept.
//
// Changes get lost when there are more of them than fanotify's queue, or that of
// notices, has room for. Then the watch is behind, until all that the kernel may have
// kept has been invalidated and no more changes have been lost for a while (recover).
// Meanwhile nothing may be kept: so further losses cost nothing, and whatever the
// source does, the nodes are walked once in a bounded time.
//
// All methods are right on a nil watch, which sees nothing.
type watch struct {
	fs      *FS
	group   *watchGroup // nil until a mount is watched; guarded by groupMu
	groupMu sync.Mutex
	marks   atomic.Pointer[fileMarks] // nil until a file system of marks is known; written with groupMu held
	seed    maphash.Seed
	buckets [1 << 12]atomic.Uint32
	notices noticeQueue
	enabled atomic.Bool // the kernel may know something
	stop    chan struct{}
	running sync.WaitGroup

	behind atomic.Bool // changes were lost; written with lossMu held
	lossMu sync.Mutex
	lately time.Time     // the last one
	fell   chan struct{} // has a token when behind was set
	walked atomic.Int64  // nodes that were invalidated because changes were lost
}

// notice is what the kernel has to forget: a name in a directory, or the
// attributes of a node.
type notice struct {
	id    uint64
	name  string // "" is the node's attributes
	data  bool   // and what it has cached of the data
	attrs bool   // its owners or its mode may have changed
	tries int
}

// reading is the moment at which something began to be read.
type reading struct {
	bucket, count uint32
	marked        bool // by fileMarks; then what is read may be kept
}

// newWatch watches nothing yet.
func newWatch(f *FS) *watch {
	w := &watch{fs: f, seed: maphash.MakeSeed(), stop: make(chan struct{}), fell: make(chan struct{}, 1)}
	w.notices.ready.L = &w.notices.mu
	return w
}

// add begins to watch the file system of a mount.
func (w *watch) add(m *mount) error {
	if w == nil {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(m.fd, &st); err != nil {
		return &sys.Error{Op: "statfs", Path: m.dir.Name(), Err: err}
	}
	if !sys.SeesAllChanges(&st) {
		return ErrShared
	}
	w.groupMu.Lock()
	defer w.groupMu.Unlock()
	group := w.group
	if group == nil {
		var err error
		if group, err = acquireWatchGroup(); err != nil {
			return err
		}
	}
	m.watch, m.fsid = w, sys.FSID(&st)
	if err := group.add(m); err != nil {
		m.watch = nil
		if w.group == nil {
			group.release()
		}
		return err
	}
	w.group = group
	m.watched, m.group = true, w.group
	return nil
}

func (w *watch) bucket(key string) uint32 {
	return uint32(maphash.String(w.seed, key) % uint64(len(w.buckets)))
}

// begin notes that the file with an identity is about to be read.
func (w *watch) begin(key string) reading {
	if w == nil {
		return reading{}
	}
	i := w.bucket(key)
	return reading{bucket: i, count: w.buckets[i].Load()}
}

// undisturbed reports whether no change is known since.
func (w *watch) undisturbed(r reading) bool {
	return w == nil || w.buckets[r.bucket].Load() == r.count
}

// disturb is for changes of this server's own, which it is not told of: whoever
// reads n just now may have read what was before.
//
// Of what else the kernel knows n as, it has the attributes forgotten, which takes no
// lock that a request could hold. Names and data follow when the change is reported.
func (w *watch) disturb(n *node) {
	if w == nil {
		return
	}
	w.buckets[w.bucket(n.key)].Add(1)
	m := w.fs.mountOf(n)
	if m == nil || !m.watched {
		return
	}
	for _, other := range m.group.mountsOf(m.fsid) {
		if other == m {
			continue
		}
		if twin := other.watch.known(other, []byte(n.handle())); twin != nil {
			other.watch.fs.conn.InvalidateInode(twin.id, -1, 0)
		}
	}
}

// forget has the kernel forget the attributes of a node soon, and what it has
// cached of its content if data is set. It is for what the kernel may not keep at all:
// with a full queue it keeps that until it expires.
func (w *watch) forget(id uint64, data bool) {
	if w == nil {
		return
	}
	w.notices.put(notice{id: id, data: data})
}

// enable begins to collect notices. It comes before the kernel asks for anything.
func (w *watch) enable() {
	if w != nil {
		w.enabled.Store(true)
	}
}

// start begins to send notices.
func (w *watch) start() {
	if w == nil {
		return
	}
	w.running.Add(1 + senders)
	go w.recover()
	for range senders {
		go w.send()
	}
}

func (w *watch) close() {
	if w == nil {
		return
	}
	w.groupMu.Lock()
	group := w.group
	w.groupMu.Unlock()
	if group != nil {
		group.remove(w)
		group.release()
	}
	if marks := w.marks.Load(); marks != nil {
		marks.release(w)
	}
	close(w.stop)
	w.notices.close()
	w.running.Wait()
}

// changed deals with an event on the file system of m. It does not wait for anything.
func (w *watch) changed(m *mount, c *sys.Change) {
	var dir, file *node
	if c.Mask&nameMask != 0 && len(c.Name) > 0 {
		dir = w.known(m, c.Dir)
	} else if len(c.Name) > 0 {
		var room keyBuf
		dir = w.fs.nodes.find(room.ofHandle(m, c.Dir))
	}
	if c.Mask&(unix.FAN_DELETE|attrMask) != 0 && len(c.File) > 0 {
		file = w.known(m, c.File)
	}
	w.apply(c, dir, file)
}

// nameMask and attrMask are the events about names, and about attributes and data.
const (
	nameMask = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO
	attrMask = unix.FAN_ATTRIB | unix.FAN_MODIFY | unix.FAN_MOVE_SELF
)

// apply deals with an event about a name in dir, or about file; they are nil where the
// kernel knows no such node.
func (w *watch) apply(c *sys.Change, dir, file *node) {
	if c.Mask&nameMask != 0 && dir != nil && !w.isBehind() {
		w.tell(notice{id: dir.id, name: string(c.Name)})
	}
	if c.Mask&nameMask == unix.FAN_MOVED_TO && dir != nil && file != nil {
		w.fs.fds.movedTo(file, dir, string(c.Name))
	}
	if c.Mask&unix.FAN_DELETE != 0 && file != nil {
		w.fs.pruner.deleted(file, dir, string(c.Name))
	}
	if n := file; c.Mask&attrMask != 0 && n != nil {
		// Nothing is kept of a file that is written through the mount,
		// and each of those writes is an event.
		if c.Mask&(unix.FAN_ATTRIB|unix.FAN_MOVE_SELF) == 0 && n.written() && n.uses().unkept.Swap(true) {
			return
		}
		if c.Mask&unix.FAN_ATTRIB != 0 {
			w.fs.dropBacking(n) // it may have no name any more
			if n.isDir() && w.fs.unlinked(n) {
				w.fs.pruner.deleted(n, nil, "") // by rename(2) of another to its name
			}
		}
		if !w.isBehind() {
			w.tell(notice{id: n.id, data: c.Mask&unix.FAN_MODIFY != 0, attrs: c.Mask&unix.FAN_ATTRIB != 0})
			if c.Mask&unix.FAN_ATTRIB != 0 && dir != nil {
				// The name too: see expireDirectory.
				w.tell(notice{id: dir.id, name: string(c.Name), attrs: true})
			}
		}
	}
}

// known counts up the bucket of a file and returns its node, if there is one.
func (w *watch) known(m *mount, handle []byte) *node {
	var room keyBuf
	key := room.ofHandle(m, handle)
	w.buckets[w.bucket(string(key))].Add(1)
	if !w.enabled.Load() {
		return nil
	}
	return w.fs.nodes.find(key)
}

// tell queues a notice.
func (w *watch) tell(n notice) {
	if !w.notices.put(n) {
		w.lost(errBacklog)
	}
}

// Stale attributes are asked for where the kernel checks permissions. Where it checks
// for the owner, as in chmod(2), it goes by the owner that it has. So the name by which
// a file was changed expires too: whoever comes by it has it looked up, and the kernel
// then has the new owner.

// expireDirectory has the name of a directory looked up again, of which the event has none.
func (w *watch) expireDirectory(id uint64) {
	f := w.fs
	n := f.nodes.get(id)
	if n == nil || !n.isDir() || f.kernel.Flags&capExpireOnly == 0 {
		return
	}
	u := f.path(n)
	if u.errno != 0 {
		return
	}
	defer u.done()
	var st unix.Stat_t
	if sys.Stat(u.fd, &st) != 0 || n.attrs.is(n.fingerprint(st.Uid, st.Gid, st.Mode)) {
		return
	}
	path, err := sys.PathOf(u.fd)
	parent, errno := openPath(u.fd, "..")
	if err != nil || errno != 0 {
		return
	}
	defer unix.Close(parent)
	if dir := f.nodeOf(parent); dir != nil {
		f.conn.InvalidateEntry(dir.id, filepath.Base(path))
	}
}

func (w *watch) send() {
	defer w.running.Done()
	for {
		n, ok := w.notices.take()
		if !ok {
			return
		}
		w.notify(n)
	}
}

func (w *watch) notify(n notice) {
	if n.name != "" {
		// It takes the directory's lock, and so comes after a look-up there.
		if w.fs.kernel.Flags&capExpireOnly == 0 {
			return // no name is kept
		}
		if w.fs.conn.InvalidateEntry(n.id, n.name) == 0 || n.attrs {
			return
		}
		// It does not know the name, and leaves the directory as it was.
		n.data = true
	}
	off := int64(-1)
	if n.data {
		off = 0
	}
	if w.fs.conn.InvalidateInode(n.id, off, 0) != unix.ENOENT {
		if n.attrs {
			w.expireDirectory(n.id)
		}
		return
	}
	if n.tries++; n.tries < watchTries && w.fs.nodes.get(n.id) != nil {
		time.AfterFunc(time.Millisecond<<n.tries, func() { w.tell(n) })
	}
}
