package fusefs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Overlay in its usual form, ramfs and others have no file handles that open, so that
// fanotify refuses a mark on the file system (see watchGroup). It takes a mark on each
// inode, and names inodes in its events as AT_HANDLE_FID does (Linux 6.6 on overlay). So
// there a node is marked before anything of it is read that the kernel may keep: a
// directory for its names and attributes, any other file for its attributes and data.
//
// A mark on the inode itself reports every change of it: by whichever name, descriptor
// or mount of the same file system. Marks on directories alone (FAN_EVENT_ON_CHILD) would
// be fewer, but miss what comes by another hard link, by a file that was opened by one,
// or made with O_TMPFILE. An evictable mark would go with its inode while the kernel of
// the FUSE mount still has the attributes; so these are not, and pin their inodes.
//
// To remove a mark takes a descriptor of the file, and a node may have none. So marks
// also go a group at a time: when a group is full, a new one takes its place, and when
// nothing is valid any more that was read under marks of the old one, that is closed.

const (
	// usualRetirement is how long a group of marks stays when no answer goes by its marks any
	// more: until the answers have expired, and answers under way have arrived.
	usualRetirement = CoherentBound + 30*time.Second

	// fewMarks are those of a group if fs.fanotify.max_user_marks can't be read, and
	// mostMarks at most: each pins an inode, which with all that belongs to it on an
	// overlay takes about 3 KiB.
	fewMarks  = 4096
	mostMarks = 1 << 18
)

// fileMarks are the marks of this process on single files. There are two groups at most,
// as a user may have 128 (fs.fanotify.max_user_groups), for all that the process serves.
//
// Each group has as many marks as half of fs.fanotify.max_user_marks says, which the kernel
// sets by what memory there is. They do not count for that, and take nothing from others.
type fileMarks struct {
	users  int // guarded by sharedMarks
	limit  int // marks in a group
	self   int32
	number atomic.Uint32 // of current

	// dispatching is held while events are dispatched, so that a watch that has been
	// removed gets none.
	dispatching sync.Mutex

	mu         sync.Mutex
	retirement time.Duration // usualRetirement
	current    *markGroup
	retired    *markGroup  // nil if there is none
	retire     *time.Timer // closes it
	systems    map[uint64][]uint64
	watches    map[*watch]bool // and whether it was said that some files are not marked
	closed     bool
}

// markGroup is a fanotify group with marks on files.
type markGroup struct {
	number  uint32 // from 1
	changes *sys.Changes
	files   map[string][]markedNode // by fileKey; guarded by fileMarks.mu
	orphans int                     // marks that may be of no use any more; guarded by fileMarks.mu
	stop    chan struct{}
	running sync.WaitGroup
}

// markedNode is a node of a file, of one of the file systems that the process serves.
type markedNode struct {
	w  *watch
	id uint64
}

// markable is a file system whose files can be marked, as one mount shows it.
type markable struct {
	dev, fsid uint64
	dir       *os.File // on it: nobody else gets the mount's id
}

var sharedMarks struct {
	mu  sync.Mutex
	all *fileMarks // nil without users
}

// acquireMarks returns the marks of the process for a watch.
func acquireMarks(w *watch) (*fileMarks, error) {
	sharedMarks.mu.Lock()
	defer sharedMarks.mu.Unlock()
	m := sharedMarks.all
	if m == nil {
		m = &fileMarks{
			limit: marksPerGroup(), retirement: usualRetirement, self: int32(os.Getpid()),
			systems: make(map[uint64][]uint64), watches: make(map[*watch]bool),
		}
		group, err := m.newGroup()
		if err != nil {
			return nil, err
		}
		m.current = group
		m.number.Store(group.number)
		sharedMarks.all = m
	}
	m.users++
	m.mu.Lock()
	m.watches[w] = false
	m.mu.Unlock()
	return m, nil
}

func marksPerGroup() int {
	text, err := os.ReadFile("/proc/sys/fs/fanotify/max_user_marks")
	if err != nil {
		return fewMarks
	}
	limit, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return fewMarks
	}
	return min(limit/2, mostMarks)
}

// release ends the reports to a watch: none comes after it has returned. The last user
// closes the groups.
func (m *fileMarks) release(w *watch) {
	sharedMarks.mu.Lock()
	m.users--
	last := m.users == 0
	if last {
		sharedMarks.all = nil
	}
	sharedMarks.mu.Unlock()
	m.mu.Lock()
	delete(m.watches, w)
	var closing []*markGroup
	for _, g := range []*markGroup{m.current, m.retired} {
		switch {
		case g == nil:
		case last:
			closing = append(closing, g)
		default:
			g.orphan(w)
		}
	}
	if last {
		m.closed = true
		if m.retire != nil {
			m.retire.Stop()
		}
		m.retired = nil
	}
	m.mu.Unlock()
	for _, g := range closing {
		g.close()
	}
	m.dispatching.Lock() // the events under way are through then
	m.dispatching.Unlock()
}

// orphan leaves the marks of a watch's nodes to themselves.
func (g *markGroup) orphan(w *watch) {
	for key, nodes := range g.files {
		nodes = slices.DeleteFunc(nodes, func(n markedNode) bool { return n.w == w })
		if len(nodes) == 0 {
			g.orphans++
		}
		g.files[key] = nodes
	}
}

// newGroup makes a group. Nobody else does so at a time.
func (m *fileMarks) newGroup() (*markGroup, error) {
	changes, err := sys.NewFileChanges()
	if err != nil {
		return nil, err
	}
	g := &markGroup{
		number: m.number.Load() + 1, changes: changes,
		files: make(map[string][]markedNode), stop: make(chan struct{}),
	}
	g.running.Add(1)
	go m.read(g)
	return g, nil
}

func (g *markGroup) close() {
	close(g.stop)
	g.changes.Close()
	g.running.Wait()
}

// makeRoom has a new group take the place of the current one. mu is held.
func (m *fileMarks) makeRoom() bool {
	if m.retired != nil || m.closed {
		return false
	}
	fresh, err := m.newGroup()
	if err != nil {
		return false
	}
	m.retired, m.current = m.current, fresh
	m.number.Store(fresh.number)
	m.retire = time.AfterFunc(m.retirement, func() {
		m.mu.Lock()
		old := m.retired
		m.retired = nil
		m.mu.Unlock()
		if old != nil {
			old.close()
		}
	})
	return true
}

// fileKey identifies a file on all file systems: the id of one alone is not unique, nor is
// the fsid of two overlays on the same file system.
type fileKey [8 + sys.MaxHandle]byte

func (k *fileKey) of(dev uint64, id []byte) []byte {
	binary.NativeEndian.PutUint64(k[:], dev)
	return k[:8+copy(k[8:], id)]
}

// add marks the file with an id for a node, unless it is marked. It returns the number of
// the group, 0 if there is no mark.
func (m *fileMarks) add(w *watch, n *node, fd int, on *markable, id []byte) uint32 {
	var room fileKey
	key := room.of(on.dev, id)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0
	}
	nodes, marked := m.current.files[string(key)]
	if !marked {
		if full := len(m.current.files) >= m.limit; full || m.current.orphans > m.limit/4 {
			if !m.makeRoom() && full {
				m.refuse(w)
				return 0
			}
		}
		if m.current.changes.AddFile(fd, n.isDir()) != 0 {
			return 0
		}
	}
	g := m.current
	if marked && len(nodes) == 0 {
		g.orphans--
	}
	for i, known := range nodes {
		if known.w != w {
			continue
		}
		if known.id == n.id {
			return g.number
		}
		if w.fs.nodes.get(known.id) == nil {
			nodes[i].id = n.id
			g.orphans = max(g.orphans-1, 0) // see leave
			return g.number
		}
	}
	g.files[string(key)] = append(nodes, markedNode{w, n.id})
	return g.number
}

// refuse says, once, that not all files are marked. mu is held.
func (m *fileMarks) refuse(w *watch) {
	if said, ok := m.watches[w]; !ok || said {
		return
	}
	m.watches[w] = true
	w.fs.log.Warn("more files are in use than can be marked: what does not fit is not cached",
		"source", w.fs.source.Name(), "marks", m.limit, "set by", "half of fs.fanotify.max_user_marks")
}

// remove removes the mark of a node that the kernel has forgotten. fd is a descriptor of
// the file.
func (m *fileMarks) remove(w *watch, n *node, fd int, on *markable, id []byte) {
	var room fileKey
	key := room.of(on.dev, id)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	for _, g := range []*markGroup{m.current, m.retired} {
		if g == nil {
			continue
		}
		nodes, marked := g.files[string(key)]
		if !marked {
			continue
		}
		rest := slices.DeleteFunc(nodes, func(known markedNode) bool { return known == markedNode{w, n.id} })
		if len(rest) > 0 {
			g.files[string(key)] = rest
			continue
		}
		if len(nodes) == 0 {
			g.orphans--
		}
		delete(g.files, string(key))
		g.changes.RemoveFile(fd, n.isDir()) // it fails if the file has been deleted, and the mark with it
	}
}

// leave notes that a mark stays, as there was no descriptor to remove it by.
func (m *fileMarks) leave() {
	m.mu.Lock()
	m.current.orphans++
	m.mu.Unlock()
}

func (m *fileMarks) read(g *markGroup) {
	defer g.running.Done()
	for {
		pause := ownPause
		err := g.changes.Read(func(c *sys.Change) {
			if c.Pid != m.self {
				pause = watchPause
			}
			m.dispatch(g, c)
		})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			m.lost(err) // whatever it was, it has hidden changes
		}
		select {
		case <-time.After(pause):
		case <-g.stop:
			return
		}
	}
}

// dispatch passes an event on to all who know its file or directory as a node. Of what the
// server has done itself the kernel knows, if that has only one.
func (m *fileMarks) dispatch(g *markGroup, c *sys.Change) {
	if c.Mask&unix.FAN_Q_OVERFLOW != 0 {
		m.lost(errOverflow)
		return
	}
	m.dispatching.Lock()
	defer m.dispatching.Unlock()
	own := c.Pid == m.self
	var dirs []markedNode
	if len(c.Name) > 0 {
		dirs = m.nodesOf(g, c.FSID, c.Dir, own)
	}
	files := m.nodesOf(g, c.FSID, c.File, own)
	var told []*watch
	for _, n := range slices.Concat(dirs, files) {
		if slices.Contains(told, n.w) {
			continue
		}
		told = append(told, n.w)
		for _, dir := range nodesFor(n.w, dirs, c.Mask&nameMask != 0) {
			for _, file := range nodesFor(n.w, files, true) {
				n.w.apply(c, dir, file)
			}
		}
	}
}

// nodesOf returns the nodes of a file that an event names. own is whether the server has
// caused it.
func (m *fileMarks) nodesOf(g *markGroup, fsid uint64, id []byte, own bool) (all []markedNode) {
	if len(id) == 0 {
		return nil
	}
	var room fileKey
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, dev := range m.systems[fsid] {
		nodes := g.files[string(room.of(dev, id))]
		if own && len(nodes) < 2 {
			continue
		}
		all = append(all, nodes...)
	}
	return all
}

// nodesFor returns those nodes that are a watch's, nil alone if there are none. It counts
// up their buckets if they have changed.
func nodesFor(w *watch, nodes []markedNode, changed bool) (all []*node) {
	for _, n := range nodes {
		if n.w != w {
			continue
		}
		if known := w.fs.nodes.get(n.id); known != nil {
			if changed {
				w.buckets[w.bucket(known.key)].Add(1)
			}
			all = append(all, known)
		}
	}
	if all == nil {
		all = []*node{nil}
	}
	return all
}

// lost is for changes that nobody knows of, of any file that is marked.
func (m *fileMarks) lost(cause error) {
	m.dispatching.Lock()
	defer m.dispatching.Unlock()
	m.mu.Lock()
	watches := make([]*watch, 0, len(m.watches))
	for w := range m.watches {
		watches = append(watches, w)
	}
	m.mu.Unlock()
	for _, w := range watches {
		w.lost(cause)
	}
}

// admit has the files of the file system of dir marked from now on, if that works there.
func (w *watch) admit(dir *os.File) (*markable, error) {
	var (
		fs unix.Statfs_t
		st unix.Stat_t
	)
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return nil, &sys.Error{Op: "statfs", Path: dir.Name(), Err: err}
	}
	if !sys.SeesAllChanges(&fs) {
		return nil, ErrShared
	}
	if errno := sys.Stat(int(dir.Fd()), &st); errno != 0 {
		return nil, &sys.Error{Op: "stat", Path: dir.Name(), Err: errno}
	}
	if err := sys.ReportsFileIDs(dir); err != nil {
		if noHandles(err) && !errors.Is(err, unix.EPERM) {
			err = ErrNoHandles
		}
		return nil, err
	}
	m := w.marks.Load()
	if m == nil {
		w.groupMu.Lock()
		defer w.groupMu.Unlock()
		if m = w.marks.Load(); m == nil {
			var err error
			if m, err = acquireMarks(w); err != nil {
				return nil, err
			}
			w.marks.Store(m)
		}
	}
	on := &markable{dev: st.Dev, fsid: sys.FSID(&fs), dir: dir}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.systems[on.fsid], on.dev) {
		m.systems[on.fsid] = append(m.systems[on.fsid], on.dev)
	}
	return on, nil
}

// mark has changes of a node reported from now on, if its file can be marked. fd is a
// descriptor of it, or -1.
func (f *FS) mark(n *node, fd int) bool {
	m := f.watch.marks.Load()
	if m == nil || n.mountIndex() != noMount {
		return false
	}
	if f.fds.markOf(n) == m.number.Load() {
		return true
	}
	if fd < 0 {
		return false
	}
	var buf [sys.MaxHandle]byte
	size, mountID, errno := sys.FileID(fd, &buf)
	if errno != 0 {
		return false
	}
	on := f.mounts.markableAt(mountID, n, fd)
	if on == nil {
		return false
	}
	number := m.add(f.watch, n, fd, on, buf[:size])
	if number != 0 {
		f.fds.setMark(n, number)
	}
	return number != 0
}

// unmark removes the mark of a node that the kernel has forgotten.
func (f *FS) unmark(n *node) {
	if f.watch == nil || n.mountIndex() != noMount {
		return
	}
	m := f.watch.marks.Load()
	if m == nil {
		return
	}
	fd, ok := f.fds.borrow(n)
	if !ok {
		m.leave()
		return
	}
	defer f.fds.release(n)
	var buf [sys.MaxHandle]byte
	size, mountID, errno := sys.FileID(fd, &buf)
	if errno != 0 {
		return
	}
	if on := f.mounts.markableAt(mountID, nil, -1); on != nil {
		m.remove(f.watch, n, fd, on, buf[:size])
	}
}

// markOf returns the group of the mark on the file that a node has a descriptor of. The
// descriptor pins the file: so it is the one that was marked.
func (c *fdCache) markOf(n *node) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := n.held; h != nil && h.fd >= 0 {
		return h.mark
	}
	return 0
}

func (c *fdCache) setMark(n *node, number uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := n.held; h != nil && h.fd >= 0 {
		h.mark = number
	}
}

// markableAt returns the file system of a mount whose files don't open by handle, nil if
// they can't be marked. A mount that is not known yet is tried by a directory on it, if n
// is one.
func (m *mounts) markableAt(id int32, n *node, fd int) *markable {
	m.mu.RLock()
	on, known := m.markables[id]
	m.mu.RUnlock()
	if known || n == nil || !n.isDir() {
		return on
	}
	opened, errno := openDir(fd, ".")
	if errno != 0 {
		return nil
	}
	dir := os.NewFile(uintptr(opened), "below the source")
	on, err := m.watch.admit(dir)
	if err != nil {
		m.log.Info("nothing is cached", "mount", dir.Name(), "cause", err)
		dir.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if earlier, known := m.markables[id]; known || m.markables == nil {
		if on != nil {
			dir.Close()
		}
		return earlier
	}
	m.markables[id] = on
	return on
}

// admitRoot finds out whether files of the source can be marked. They don't open by handle.
// It closes dir if not.
func (m *mounts) admitRoot(dir *os.File) {
	var (
		buf [sys.MaxHandle]byte
		on  *markable
	)
	_, id, errno := sys.FileID(int(dir.Fd()), &buf)
	if errno == 0 && m.watch != nil {
		on, m.blind = m.watch.admit(dir)
		m.markables[id] = on
	}
	if on == nil {
		dir.Close()
	}
}

// reading begins to read what a node is or has in it. fd is a descriptor of it, or -1.
func (f *FS) reading(n *node, fd int) reading {
	if f.watch == nil {
		return reading{}
	}
	marked := f.mark(n, fd)
	r := f.watch.begin(n.key)
	r.marked = marked
	return r
}

// keepsListing returns the flags of a directory that is being opened: whether the kernel
// may cache what it reads of it, and keep what it has. See keepDirs for ramfs.
func (f *FS) keepsListing(n *node) (flags uint32) {
	if f.watch == nil || f.movingPlaces || n.mountIndex() != noMount {
		return 0
	}
	u := n.uses()
	u.open.mu.Lock()
	defer u.open.mu.Unlock()
	same := f.keepsData(n, u)
	if u.mark != 0 {
		flags |= fuse.FOPEN_CACHE_DIR
	}
	if same {
		flags |= fuse.FOPEN_KEEP_CACHE
	}
	return flags
}

// keepsData reports whether the kernel may keep what it has cached of the data of a file
// that is being opened. u.open.mu is held.
//
// A marked file must have been marked by the same group since the kernel last dropped
// what it had, which it did at the open before.
func (f *FS) keepsData(n *node, u *usage) bool {
	before := u.mark
	u.mark = 0
	if f.cache.Mode != CacheCoherent || f.watch.isBehind() {
		return false
	}
	if m := f.mountOf(n); m != nil {
		return f.validity(m) > 0
	}
	m := f.watch.marks.Load()
	if m == nil || f.kernel.Flags&capExpireOnly == 0 {
		return false
	}
	fd, ok := f.fds.borrow(n)
	if !ok {
		return false
	}
	defer f.fds.release(n)
	var st unix.Stat_t
	if !f.mark(n, fd) || !n.isDir() && (sys.Stat(fd, &st) != 0 || st.Nlink != 1) {
		return false
	}
	u.mark = f.fds.markOf(n)
	return u.mark != 0 && u.mark == before
}
