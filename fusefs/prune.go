package fusefs

import (
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// prunePause is how long nodes to be pruned are collected.
	prunePause = 2 * time.Millisecond

	// pruneGrace is how long the kernel is given to forget what it has been asked to.
	pruneGrace = 20 * time.Millisecond

	// sweepPeriod is how often descriptors are looked at for files that have been
	// deleted, where nobody reports that.
	sweepPeriod = 5 * time.Second

	// pruneAgain is how long no cold nodes are pruned after most turned out to be in use.
	pruneAgain = 250 * time.Millisecond

	maxDoomed  = 1 << 16 // nodes that wait to be pruned
	pruneBatch = 512     // nodes in a notification
)

// pruner has the kernel forget nodes that it does not use (FUSE_NOTIFY_PRUNE, Linux
// 6.18). It is for two things.
//
// What was deleted at the source keeps its space as long as this server has a
// descriptor of it: of each directory that is known, and without handles of each file.
// The kernel alone knows whether somebody still works there. It forgets the node if not,
// and with it goes the descriptor.
//
// Without handles, a node whose descriptor was closed to save descriptors is found again
// by its name alone. If it has been renamed at the source, it is ESTALE for who uses it.
// So nodes that nobody uses are pruned before descriptors run short.
//
// Notifications can wait for requests, so a goroutine of its own sends them.
type pruner struct {
	fs      *FS
	wake    chan struct{}
	stop    chan struct{}
	running sync.WaitGroup
	can     bool // the kernel has FUSE_NOTIFY_PRUNE; only the goroutine uses it

	mu     sync.Mutex
	doomed []doomed
	crowd  bool      // cold nodes are to be pruned
	vain   time.Time // not before, as most of those that were asked for last are in use
}

// doomed is a node that was deleted at the source. Of a directory it is known where.
type doomed struct {
	id, parent uint64
	name       string
}

// start begins to prune. It comes before the kernel asks for anything.
func (p *pruner) start(f *FS) {
	p.fs, p.can = f, true
	p.wake, p.stop = make(chan struct{}, 1), make(chan struct{})
	if f.mounts.root == nil {
		f.fds.mu.Lock()
		f.fds.crowding = p.crowded
		f.fds.mu.Unlock()
	}
	p.running.Go(p.run)
}

func (p *pruner) close() {
	if p.stop == nil {
		return // it was never started
	}
	close(p.stop)
	p.running.Wait()
}

// deleted has the kernel forget a node. parent may be nil. It does not wait.
func (p *pruner) deleted(n, parent *node, name string) {
	d := doomed{id: n.id}
	if n.isDir() && parent != nil {
		d.parent, d.name = parent.id, name
	}
	p.mu.Lock()
	if len(p.doomed) < maxDoomed { // else it stays until memory is short
		p.doomed = append(p.doomed, d)
	}
	p.mu.Unlock()
	p.signal()
}

// crowded has cold nodes pruned. It does not wait.
func (p *pruner) crowded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.crowd && time.Now().After(p.vain) {
		p.crowd = true
		p.signal()
	}
}

func (p *pruner) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// pause returns false at once if the pruner is closed.
func (p *pruner) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-p.stop:
		return false
	}
}

func (p *pruner) run() {
	var sweep <-chan time.Time
	if m := p.fs.mounts.root; !p.fs.remoteData && (m == nil || !m.watched) {
		t := time.NewTicker(sweepPeriod)
		defer t.Stop()
		sweep = t.C
	}
	for {
		select {
		case <-p.wake:
		case <-sweep:
			if p.can {
				p.fs.pruneDeleted()
			}
			continue
		case <-p.stop:
			return
		}
		if !p.pause(prunePause) {
			return
		}
		p.mu.Lock()
		all, crowd := p.doomed, p.crowd
		p.doomed, p.crowd = nil, false
		p.mu.Unlock()
		if len(all) > 0 && !p.bury(all) {
			return
		}
		if crowd && p.can && !p.pruneCold() {
			return
		}
	}
}

// pruneCold has the kernel forget nodes that have not been used for the longest. It
// returns false if the pruner was closed meanwhile.
func (p *pruner) pruneCold() bool {
	ids := p.fs.fds.cold()
	p.prune(ids)
	if !p.pause(pruneGrace) {
		return false
	}
	used := 0
	for _, id := range ids {
		if p.fs.nodes.get(id) != nil {
			used++
		}
	}
	if used > len(ids)/2 {
		p.mu.Lock()
		p.vain = time.Now().Add(pruneAgain)
		p.mu.Unlock()
	}
	return true
}

// prune has the kernel forget what it does not use of the nodes.
func (p *pruner) prune(ids []uint64) {
	for batch := range slices.Chunk(ids, pruneBatch) {
		if p.can && p.fs.conn.Prune(batch) == unix.ENOSYS {
			p.can = false
		}
	}
}

// bury has the kernel forget what was deleted: files, and directories after what was in
// them, which is the order in which they were deleted. It returns false if the pruner
// was closed meanwhile.
//
// A directory stays known as long as names in it are, among them those of which it is
// known that they don't exist, and those that have moved elsewhere. These go when the
// directory's own name does. That name may be another's by now, so the source is asked
// right before; in between, who enters a new directory of the name, gets ENOENT from
// getcwd(2) until it is looked up again.
func (p *pruner) bury(all []doomed) bool {
	ids := make([]uint64, 0, len(all))
	dirs := all[:0]
	for _, d := range all {
		ids = append(ids, d.id)
		if d.name != "" {
			dirs = append(dirs, d)
		}
	}
	p.prune(ids)
	if len(dirs) == 0 {
		return true
	}
	if !p.pause(pruneGrace) {
		return false
	}
	for _, d := range dirs {
		if p.fs.nodes.get(d.id) != nil && p.fs.nameIsGone(d.parent, d.name) {
			p.fs.conn.DropEntry(d.parent, d.name)
		}
	}
	return true
}

// nameIsGone reports whether a directory of the source has no such name.
func (f *FS) nameIsGone(dir uint64, name string) bool {
	_, u := f.pathOf(dir)
	if u.errno != 0 {
		return u.errno == unix.ESTALE // the directory is gone, too
	}
	defer u.done()
	var st unix.Stat_t
	return errors.Is(unix.Fstatat(u.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW), unix.ENOENT)
}

// unlinked reports whether a node that has a descriptor has lost its last name.
func (f *FS) unlinked(n *node) bool {
	fd, ok := f.fds.borrow(n)
	if !ok {
		return false
	}
	defer f.fds.release(n)
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Nlink == 0
}

// pruneDeleted looks for nodes that have a descriptor of a deleted file, and has them
// pruned.
func (f *FS) pruneDeleted() {
	f.fds.mu.Lock()
	nodes := slices.Clone(f.fds.ring)
	f.fds.mu.Unlock()
	for _, n := range nodes {
		if n != f.root && f.unlinked(n) {
			f.pruner.deleted(n, nil, "")
		}
	}
}

// borrow is acquire without making the node a recently used one.
func (c *fdCache) borrow(n *node) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := n.held
	if h == nil || h.fd < 0 {
		return -1, false
	}
	h.users++
	return h.fd, true
}

// prunedTo is how many nodes have descriptors before cold ones are pruned.
func (c *fdCache) prunedTo() int { return c.budget - c.budget/4 }

// cold returns nodes of which a descriptor has not been needed for the longest, so many
// that a quarter of the budget is left without them and those that the kernel does not
// forget are no reason to begin again at once.
func (c *fdCache) cold() (ids []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := len(c.ring) - c.prunedTo() + c.budget/8
	for turns := 2 * len(c.ring); len(ids) < want && turns > 0; turns-- {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		n := c.ring[c.hand]
		c.hand++
		h := n.held
		if h.users > 0 || h.pin != nil || h.recent || n.id == rootID {
			h.recent = false
			continue
		}
		h.recent = true // if it is still there afterwards, somebody uses it
		ids = append(ids, n.id)
	}
	return ids
}
