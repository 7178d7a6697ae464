package fusefs

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// openState is how the open files of a node reach their data. The kernel
// demands that all that are open at a time do it the same way.
type openState struct {
	mu       sync.Mutex
	count    int32
	backing  int32   // the kernel's id of the passthrough file; 0: by requests
	since    uint32  // of backings, when the last one was closed
	looked   reading // when it was last looked at for set-id bits
	again    bool    // it has been open before
	kept     bool    // backing stays when nothing is open, for a while
	listed   bool    // in backings
	last     bool    // it lost its last name while it was open, at a server
	nameless bool    // it may have lost its last name while it was open
	opener   uint32  // thread that has opened it last
	fresh    bool    // opener has not truncated it since
}

// backings are the nodes that have a passthrough file though none is open. To make
// it and to take it back are half of what an OPEN and a RELEASE cost, so that of a file
// which is opened to be read, or for the second time, stays.
//
// It is made of an O_PATH descriptor, which nobody at the source can tell from
// none: leases, and programs that may not be written to, look at open files. Yet
// it keeps a deleted file from being freed. So it goes when the kernel forgets
// the node, which it does of one without names; when the source has changed the
// file's attributes, of which the number of names is one; and after a while.
type backings struct {
	mu    sync.Mutex
	nodes []*node // the first to be looked at first
	turn  uint32  // counts the times that they were looked at
	timer *time.Timer
	ended bool
}

const (
	maxBackings   = 8192
	backingPeriod = time.Second // one stays unused for two of them at most
)

// begin settles how the first open file of a node and those to come reach their
// data. fd is that file, or an O_PATH descriptor if the server does not open it.
func (f *FS) begin(n *node, o *openState, fd int, path bool) {
	var st unix.Stat_t
	o.looked = f.watch.begin(n.key)
	if f.passOff.Load() || sys.Stat(fd, &st) != 0 || st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		f.takeBack(n, o)
		return
	}
	if o.backing != 0 {
		return
	}
	if o.kept = o.again || path; o.kept && !path {
		p := f.path(n)
		if p.errno != 0 {
			return
		}
		defer p.done()
		fd = p.fd
	}
	o.again = true
	o.backing = f.register(fd)
}

// idle is called when the last open file of a node is closed.
func (f *FS) idle(n *node, o *openState) {
	if o.backing == 0 {
		return
	}
	if !o.kept {
		f.takeBack(n, o)
		return
	}
	b := &f.backings
	b.mu.Lock()
	defer b.mu.Unlock()
	o.since = b.turn
	if o.listed {
		return
	}
	if b.ended || len(b.nodes) >= maxBackings {
		f.takeBack(n, o)
		return
	}
	o.listed = true
	b.nodes = append(b.nodes, n)
	if b.timer == nil {
		b.timer = time.AfterFunc(backingPeriod, f.sweepBackings)
	}
}

// takeBack takes the passthrough file back, which nothing is open through, and the
// descriptor that came with it.
func (f *FS) takeBack(n *node, o *openState) {
	if o.backing == 0 {
		return
	}
	f.conn.UnregisterBacking(o.backing)
	o.backing = 0
	if o.kept {
		f.fds.ease(n)
	}
}

// sweepBackings takes those back that have not been used for a while.
func (f *FS) sweepBackings() {
	b := &f.backings
	b.mu.Lock()
	nodes := b.nodes
	b.nodes = nil
	b.turn++
	turn := b.turn
	b.mu.Unlock()

	var stay []*node
	for _, n := range nodes {
		o := &n.uses().open
		o.mu.Lock()
		switch {
		case o.count == 0 && o.backing != 0 && turn-o.since < 2:
			stay = append(stay, n)
		case o.count == 0:
			f.takeBack(n, o)
			fallthrough
		default: // the one who closes it will see to it
			o.listed = false
		}
		o.mu.Unlock()
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = append(stay, b.nodes...)
	b.timer = nil
	if len(b.nodes) > 0 && !b.ended {
		b.timer = time.AfterFunc(backingPeriod, f.sweepBackings)
	}
}

// dropBacking is for a node that the kernel has forgotten, or is about to.
func (f *FS) dropBacking(n *node) {
	u := n.usage.Load()
	if u == nil {
		return
	}
	u.open.mu.Lock()
	defer u.open.mu.Unlock()
	if u.open.count == 0 {
		f.takeBack(n, &u.open)
	}
}

// close is for the end of the connection, with which all of them go.
func (b *backings) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.nodes = nil
	if b.timer != nil {
		b.timer.Stop()
	}
}

// register makes a passthrough file of fd; 0 if the kernel can't.
//
// What is written through it is written with the rights of the thread that
// registers it: without CAP_FSETID the source clears S_ISUID and S_ISGID, as it
// has to for most writers. A file that has them already is left to this server,
// which knows who may keep them. Nor do they have root's claims to space: one
// passthrough file serves all who have the file open.
func (f *FS) register(fd int) int32 {
	var id int32
	errno := f.writer().Run(f.base, f.permitted, func() (errno unix.Errno) {
		id, errno = f.conn.RegisterBacking(fd)
		return errno
	})
	if errno == 0 {
		return id
	}
	// ELOOP: file systems are stacked too deep here. EPERM: no CAP_SYS_ADMIN.
	// Both stay so for this source.
	if errno == unix.ELOOP || errno == unix.EPERM || errno == unix.EOPNOTSUPP {
		if !f.passOff.Swap(true) {
			f.log.Info("reads and writes go through the server", "source", f.source.Name(), "cause", errno)
		}
	}
	return 0
}
