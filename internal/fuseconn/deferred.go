package fuseconn

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A handler must not block for as long as another process likes: it would keep
// its thread, of which there are maxThreads. It tries without blocking, and
// answers with one of these in place of an errno if the request has to wait. The
// request is then handled again, from the start, until it has another answer.
//
// Both are beyond MAX_ERRNO, so no system call returns them.
const (
	// Deferred has the request handled again after a while.
	Deferred unix.Errno = 5001
	// Suspended has it handled again after Resume.
	Suspended unix.Errno = 5002
)

const (
	// A deferred request is tried again after deferMost, and sooner while it has
	// not waited for deferShare times that long. Where more than deferGroups
	// different ones wait, deferMost is as many times longer, so that the tries
	// cost a bounded share of a processor.
	deferFirst  = time.Millisecond
	deferMost   = 50 * time.Millisecond
	deferShare  = 16
	deferGroups = 256

	// maxTries is how many waiting requests are tried at a time.
	maxTries = 64

	// maxOwnAnswer is enough for each answer that may be waited for: the longest
	// is struct fuse_attr_out.
	maxOwnAnswer = 512
)

// deferral is a request that waits. It has no thread; all it needs is here.
type deferral struct {
	unique  uint64
	message []byte
	channel *channel    // where the answer goes
	thread  chan bool   // instead, of a ring: true has its thread try, false says that there is an answer
	errno   unix.Errno  // this one
	since   time.Time   // the request came
	state   deferState  // guarded, as all below, by deferrals.mu
	marks   flightMarks // while it is tried

	group   *group
	inGroup *list.Element
	inOrder *list.Element
}

type deferState uint8

const (
	deferWaits deferState = iota
	deferReady            // is to be tried
	deferTried            // is being tried
	deferGone             // has its answer
)

// group is the deferred requests that ask for the same. If the first one has to wait,
// so do the others, and only that one is tried.
type group struct {
	key   string
	queue list.List // of *deferral
	since time.Time // nothing has gone forward
	timer *time.Timer
}

// deferrals are the requests of a connection that wait.
type deferrals struct {
	mu      sync.Mutex
	all     map[uint64]*deferral // by unique
	groups  map[string]*group
	order   list.List // of *deferral, the oldest first
	expiry  *time.Timer
	ready   []*deferral
	workers int
	tries   uint64 // so far
}

// Resume has a suspended request handled again. If the request is just being
// handled, and is about to be suspended, that is remembered.
func (c *Conn) Resume(unique uint64) {
	d := &c.deferrals
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r := d.all[unique]; {
	case r == nil:
		c.flights.mark(unique, markResumed)
	case r.state == deferTried:
		r.marks |= markResumed
	case r.state == deferWaits && r.group == nil:
		c.makeReady(r)
	}
}

// interruptDeferred answers a request that waits EINTR, and reports whether it has,
// or will have when it is found to wait.
func (c *Conn) interruptDeferred(unique uint64) bool {
	d := &c.deferrals
	d.mu.Lock()
	r := d.all[unique]
	if r == nil {
		c.flights.mark(unique, markInterrupted)
		d.mu.Unlock()
		return false
	}
	if r.state == deferTried {
		r.marks |= markInterrupted
		d.mu.Unlock()
		return true
	}
	c.drop(r)
	d.mu.Unlock()
	c.answerDropped(r, unix.EINTR)
	return true
}

// deferRequest notes that a request, which a thread is handling, has to wait. It is
// answered on ch, or, over io_uring, by the thread that waits for a word on thread.
func (c *Conn) deferRequest(w *flight, wait unix.Errno, message []byte, ch *channel, thread chan bool) *deferral {
	r := &deferral{unique: w.unique.Load(), message: message, channel: ch, thread: thread, since: time.Now(), state: deferTried}
	d := &c.deferrals
	d.mu.Lock()
	if ch != nil {
		c.useChannel(ch)
	}
	if d.all == nil {
		d.all, d.groups = make(map[uint64]*deferral), make(map[string]*group)
	}
	d.all[r.unique] = r
	r.inOrder = d.order.PushBack(r)
	if d.order.Len() == 1 {
		c.awaitExpiry(c.Limit)
	}
	r.marks = w.marksOf(r.unique)
	d.mu.Unlock()
	c.settle(r, wait)
	return r
}

// settle notes what came of a try: wait is 0 if the request has been answered.
func (c *Conn) settle(r *deferral, wait unix.Errno) {
	d := &c.deferrals
	d.mu.Lock()
	if r.state != deferTried { // the connection has ended
		d.mu.Unlock()
		return
	}
	marks := r.marks
	r.marks = 0
	switch {
	case wait == 0:
		c.drop(r)
	case c.flights.ended.Load(), marks&markInterrupted != 0:
		c.drop(r)
		d.mu.Unlock()
		c.answerDropped(r, unix.EINTR)
		return
	case wait == Suspended:
		c.leaveGroup(r)
		r.state = deferWaits
		if marks&markResumed != 0 {
			c.makeReady(r)
		}
	default:
		r.state = deferWaits
		c.joinGroup(r)
	}
	d.mu.Unlock()
	if wait == 0 && r.channel != nil {
		c.releaseChannel(r.channel)
	}
}

// drop takes a request out of all lists. mu is held.
func (c *Conn) drop(r *deferral) {
	d := &c.deferrals
	r.state = deferGone
	delete(d.all, r.unique)
	d.order.Remove(r.inOrder)
	c.leaveGroup(r)
}

// answerDropped answers a request that has been dropped without a further try.
func (c *Conn) answerDropped(r *deferral, errno unix.Errno) {
	if c.Dropped != nil {
		c.Dropped(r.unique)
	}
	if r.thread != nil {
		r.errno = errno
		r.thread <- false
		return
	}
	var out [outHeaderSize]byte
	putError(out[:], r.unique, errno)
	c.write(r.channel.fd, out[:])
	c.releaseChannel(r.channel)
}

// joinGroup has a deferred request wait with others that ask for the same. mu is held.
func (c *Conn) joinGroup(r *deferral) {
	d := &c.deferrals
	if g := r.group; g != nil { // it was tried for all of them
		g.timer.Reset(d.pause(g))
		return
	}
	key := askedFor(r.message)
	g := d.groups[key]
	if g == nil {
		g = &group{key: key, since: time.Now()}
		d.groups[key] = g
		g.timer = time.AfterFunc(deferFirst, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			c.tryGroup(g)
		})
	}
	r.group, r.inGroup = g, g.queue.PushBack(r)
}

// tryGroup has the first request of a group tried. mu is held.
func (c *Conn) tryGroup(g *group) {
	if first := g.queue.Front(); first != nil {
		if r := first.Value.(*deferral); r.state == deferWaits {
			c.makeReady(r)
		}
	}
}

// leaveGroup is for a request that waits no longer, or for something else. The next one
// of its group is tried at once if it was the first. mu is held.
func (c *Conn) leaveGroup(r *deferral) {
	g := r.group
	if g == nil {
		return
	}
	first := g.queue.Front() == r.inGroup
	g.queue.Remove(r.inGroup)
	r.group, r.inGroup = nil, nil
	switch {
	case g.queue.Len() == 0:
		g.timer.Stop()
		delete(c.deferrals.groups, g.key)
	case first:
		g.since = time.Now()
		c.tryGroup(g)
	}
}

// pause is how long the group waits until it is tried again. mu is held.
func (d *deferrals) pause(g *group) time.Duration {
	most := deferMost * time.Duration(1+len(d.groups)/deferGroups)
	return min(max(time.Since(g.since)/deferShare, deferFirst), most)
}

// askedFor is the same for messages that ask for the same, whoever sends them.
func askedFor(message []byte) string {
	const body = 64
	key := make([]byte, 0, 12+body)
	key = append(key, message[4:8]...)   // opcode
	key = append(key, message[16:24]...) // node
	return string(append(key, message[inHeaderSize:min(len(message), inHeaderSize+body)]...))
}

// makeReady has a request tried as soon as possible. mu is held.
func (c *Conn) makeReady(r *deferral) {
	d := &c.deferrals
	r.state = deferReady
	d.ready = append(d.ready, r)
	if d.workers < maxTries && !c.flights.ended.Load() {
		d.workers++
		c.others.Go(c.tryReady)
	}
}

// tryReady tries requests while there are some.
func (c *Conn) tryReady() {
	d := &c.deferrals
	w := new(flight)
	c.flights.add(w)
	defer c.flights.remove(w)
	out := make([]byte, maxOwnAnswer)
	for {
		d.mu.Lock()
		var r *deferral
		for r == nil && len(d.ready) > 0 {
			if d.ready[0].state == deferReady {
				r = d.ready[0]
			}
			d.ready = d.ready[1:]
		}
		if r == nil {
			d.ready = nil
			d.workers--
			d.mu.Unlock()
			return
		}
		r.state = deferTried
		d.tries++
		d.mu.Unlock()
		if r.thread != nil {
			r.thread <- true
			continue
		}
		n, wait := c.handle(w, [][]byte{r.message}, [][]byte{out})
		if wait == 0 && n > 0 {
			c.write(r.channel.fd, out[:n])
		}
		c.settle(r, wait)
		w.land()
	}
}

// awaitExpiry has the requests looked at whose time is up, when the oldest one's is. mu
// is held.
func (c *Conn) awaitExpiry(in time.Duration) {
	d := &c.deferrals
	switch {
	case c.Limit <= 0:
	case d.expiry == nil:
		d.expiry = time.AfterFunc(in, c.expire)
	default:
		d.expiry.Reset(in)
	}
}

// expire answers the requests that have waited for Limit.
func (c *Conn) expire() {
	const again = 100 * time.Millisecond // for one that is being tried
	var expired []*deferral
	d := &c.deferrals
	d.mu.Lock()
	for e := d.order.Front(); e != nil; {
		r := e.Value.(*deferral)
		e = e.Next()
		if left := c.Limit - time.Since(r.since); left > 0 {
			c.awaitExpiry(left)
			break
		}
		if r.state == deferTried {
			c.awaitExpiry(again)
			break
		}
		c.drop(r)
		expired = append(expired, r)
	}
	d.mu.Unlock()
	for _, r := range expired {
		c.answerDropped(r, expiredErrno(r.message))
	}
}

// expiredErrno is the answer to a request that has waited for Limit. Callers that
// know EINTR ask again, and so wait on. The kernel makes of an interrupted SETLKW the
// restart of a system call, which without a signal is errno 512 for the caller.
func expiredErrno(message []byte) unix.Errno {
	if opcodeOf(message) == opSetlkw {
		return unix.EAGAIN
	}
	return unix.EINTR
}

// endDeferrals gives up the requests that wait, as the connection has ended.
func (c *Conn) endDeferrals() {
	d := &c.deferrals
	d.mu.Lock()
	var all []*deferral
	for _, r := range d.all {
		if r.state != deferTried {
			c.drop(r)
			all = append(all, r)
		}
	}
	if d.expiry != nil {
		d.expiry.Stop()
	}
	d.mu.Unlock()
	for _, r := range all {
		c.answerDropped(r, unix.EINTR)
	}
}
