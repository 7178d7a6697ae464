package fusefs

import (
	"errors"
	"hash/maphash"
	"os"
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
	backlog = 256
)

// watch has the kernel forget what others change at the source.
//
// An answer that was read before a change and sent after it would bring the
// old state back. So each event counts up a bucket of the file's identity
// before the kernel is told, and an answer whose bucket was counted up while it
// was read may not be kept.
//
// All methods are right on a nil watch, which sees nothing.
type watch struct {
	fs      *FS
	changes *sys.Changes
	self    int32
	seed    maphash.Seed
	buckets [1 << 12]atomic.Uint32
	notices chan notice
	stop    chan struct{}
	running sync.WaitGroup

	mu     sync.RWMutex
	mounts map[uint64][]*mount // by file system
}

// notice is what the kernel has to forget: a name in a directory, or the
// attributes of a node.
type notice struct {
	id    uint64
	name  string // "" is the node's attributes
	data  bool   // and what it has cached of the data
	tries int
}

// reading is the moment at which something began to be read.
type reading struct{ bucket, count uint32 }

// newWatch watches nothing yet.
func newWatch(f *FS) (*watch, error) {
	changes, err := sys.NewChanges()
	if err != nil {
		return nil, err
	}
	return &watch{
		fs:      f,
		changes: changes,
		self:    int32(os.Getpid()),
		seed:    maphash.MakeSeed(),
		notices: make(chan notice, backlog),
		stop:    make(chan struct{}),
		mounts:  make(map[uint64][]*mount),
	}, nil
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
	if !seesAllChanges(uint32(st.Type)) {
		return &sys.Error{Op: "fanotify_mark", Path: m.dir.Name(), Detail: "a file system that others may change", Err: unix.EOPNOTSUPP}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.changes.Add(m.dir); err != nil {
		return err
	}
	m.watched, m.fsid = true, sys.FSID(&st)
	others := w.mounts[m.fsid]
	w.mounts[m.fsid] = append(others, m)
	if !w.fs.ownMount {
		return nil
	}
	// What is written there is written by passthrough, which the kernel knows of:
	// without this each such write costs an event.
	var err error
	switch len(others) {
	case 0:
		err = w.changes.IgnoreWrites(m.dir)
	case 1:
		err = w.changes.HeedWrites(others[0].dir)
	}
	if err != nil {
		w.fs.log.Debug("which writes are reported stays as it was", "mount", m.dir.Name(), "cause", err)
	}
	return nil
}

// mountsOf returns the mounts of a file system. If there is more than one, the kernel
// knows some files as two, and what it asks to be done to one is news for the other.
func (w *watch) mountsOf(fsid uint64) []*mount {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.mounts[fsid]
}

// seesAllChanges reports whether every change to a file system of this type
// goes through this kernel and is reported: not so on a network's, where others
// make changes, nor on one that a process serves as it likes.
func seesAllChanges(magic uint32) bool {
	const bcachefs, jfs, zfs = 0xca451a4e, 0x3153464a, 0x2fc12fc1 // not in linux/magic.h
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC,
		unix.OVERLAYFS_SUPER_MAGIC, unix.REISERFS_SUPER_MAGIC, unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC,
		unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, unix.ISOFS_SUPER_MAGIC, bcachefs, jfs, zfs:
		return true
	}
	return false
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
	for _, other := range w.mountsOf(m.fsid) {
		if other == m {
			continue
		}
		if twin := w.known(other, []byte(n.handle())); twin != nil {
			w.fs.conn.InvalidateInode(twin.id, -1, 0)
		}
	}
}

// forget has the kernel forget the attributes of a node soon, and what it has
// cached of its content if data is set. A request must not wait for a
// notification, so this does not block: with a full backlog the kernel keeps
// them until they expire.
func (w *watch) forget(id uint64, data bool) {
	if w == nil {
		return
	}
	select {
	case w.notices <- notice{id: id, data: data}:
	default:
	}
}

// start begins to send notices.
func (w *watch) start() {
	if w == nil {
		return
	}
	w.running.Add(1 + senders)
	go w.read()
	for range senders {
		go w.send()
	}
}

func (w *watch) close() {
	if w == nil {
		return
	}
	close(w.stop)
	w.changes.Close()
	w.running.Wait()
}

func (w *watch) read() {
	defer w.running.Done()
	for {
		pause := ownPause
		err := w.changes.Read(func(c *sys.Change) {
			if c.Pid != w.self {
				pause = watchPause
			}
			w.changed(c)
		})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			// Whatever it was, it has hidden changes.
			w.fs.log.Error("watch the source", "source", w.fs.source.Name(), "cause", err)
			w.lost()
		}
		select {
		case <-time.After(pause):
		case <-w.stop:
			return
		}
	}
}

// changed deals with an event. Of what the server has done itself the kernel knows.
func (w *watch) changed(c *sys.Change) {
	if c.Mask&unix.FAN_Q_OVERFLOW != 0 {
		w.fs.log.Info("too many changes at once, all that is cached is forgotten", "source", w.fs.source.Name())
		w.lost()
		return
	}
	mounts := w.mountsOf(c.FSID)
	if c.Pid == w.self && len(mounts) < 2 {
		return
	}
	const names = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO
	for _, m := range mounts {
		if c.Mask&names != 0 && len(c.Name) > 0 {
			if n := w.known(m, c.Dir); n != nil {
				w.tell(notice{id: n.id, name: string(c.Name)})
			}
		}
		if c.Mask&^names != 0 && len(c.File) > 0 {
			n := w.known(m, c.File)
			// Nothing is kept of a file that is written through the mount,
			// and each of those writes is an event.
			if n == nil || c.Mask&(unix.FAN_ATTRIB|unix.FAN_MOVE_SELF) == 0 && n.written() && n.uses().unkept.Swap(true) {
				continue
			}
			if c.Mask&unix.FAN_ATTRIB != 0 {
				w.fs.dropBacking(n) // it may have no name any more
			}
			w.tell(notice{id: n.id, data: c.Mask&unix.FAN_MODIFY != 0})
		}
	}
}

// known counts up the bucket of a file and returns its node, if there is one.
func (w *watch) known(m *mount, handle []byte) *node {
	var room keyBuf
	key := room.ofHandle(m, handle)
	w.buckets[w.bucket(string(key))].Add(1)
	return w.fs.nodes.find(key)
}

func (w *watch) tell(n notice) {
	select {
	case w.notices <- n:
	case <-w.stop:
	}
}

func (w *watch) send() {
	defer w.running.Done()
	for {
		select {
		case n := <-w.notices:
			w.notify(n)
		case <-w.stop:
			return
		}
	}
}

func (w *watch) notify(n notice) {
	if n.name != "" {
		// It takes the directory's lock, and so comes after a look-up there.
		if w.fs.kernel.Flags&capExpireOnly == 0 {
			return // no name is kept
		}
		if w.fs.conn.InvalidateEntry(n.id, n.name) == 0 {
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
		return
	}
	if n.tries++; n.tries < watchTries && w.fs.nodes.get(n.id) != nil {
		time.AfterFunc(time.Millisecond<<n.tries, func() { w.tell(n) })
	}
}

// lost is for changes that nobody knows of: the kernel forgets everything.
// Before Linux 6.16 it can't forget names, which then expire.
func (w *watch) lost() {
	for i := range w.buckets {
		w.buckets[i].Add(1)
	}
	w.fs.conn.IncreaseEpoch()
	w.fs.nodes.each(func(n *node) { w.tell(notice{id: n.id, data: true}) })
}
