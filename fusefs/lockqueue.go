package fusefs

import (
	"container/list"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/fuseconn"
)

// Who waits for a lock waits in a queue: that of the owner whose lock is in the way,
// that of the source's users (foreign), or that of another waiter. The last is for one who
// can't have the lock before the other: whatever is in the other's way is in its way too.
// So a lock that goes wakes one of many that want the same, as the kernel does with
// flc_blocked_requests.
//
// A waiter whose obstacle is gone goes to the lobby. From there those that are not in each
// other's way try again; the next ones do when these have tried, and are not in the way of
// the rest. All of this is guarded by lockBooks.mu.

// queue is waiters, in the order in which they came.
type queue struct{ list list.List }

// lockWaiter is a SETLKW that waits.
type lockWaiter struct {
	queue         // of those who wait behind it
	unique uint64 // of the request
	file   *fileLocks
	req    lockRequest
	in     *queue // where it waits; nil while it tries
	place  *list.Element
	trying bool // it has come from the lobby
}

const (
	maxTrying  = 64  // of a file leave the lobby at a time
	maxSkipped = 256 // are looked at to find those
)

// lockKey says whose a lock is.
type lockKey struct {
	flock bool
	id    uint64
}

func (r *lockRequest) key() lockKey {
	if r.flock {
		return lockKey{true, r.fh}
	}
	return lockKey{false, r.owner}
}

func (r *lockRequest) conflicts(o *lockRequest) bool {
	return r.flock == o.flock && r.key() != o.key() && r.span.conflicts(o.span)
}

// covers reports whether each lock that is in o's way is in the way of r, too, unless it
// is r's own.
func (r *lockRequest) covers(o *lockRequest) bool {
	return r.start <= o.start && o.end <= r.end && (r.typ == unix.F_WRLCK || o.typ == unix.F_RDLCK)
}

// follows reports whether w can wait behind other. An owner that has locks, or waits twice,
// can't: its own locks are in others' way, and not in its own.
func (w *lockWaiter) follows(other *lockWaiter) bool {
	return w.req.conflicts(&other.req) && w.req.covers(&other.req) && !w.file.busy(w)
}

// busy reports whether a waiter's owner has locks of the file, or waits for another one.
func (l *fileLocks) busy(w *lockWaiter) bool {
	key := w.req.key()
	if l.count[key] > 1 {
		return true
	}
	if key.flock {
		return l.flocks[key.id] != nil
	}
	return l.owners[key.id] != nil
}

// add has a waiter wait in a queue, or behind one who waits there.
func (q *queue) add(w *lockWaiter) {
	l := w.file
	// The last one saves the way to the end. Whatever is in its way is in w's. Those
	// who wait behind w it may be itself.
	if last := l.last; last != nil && last.in != nil && w.list.Len() == 0 && w.follows(last) {
		q = &last.queue
	}
	for e := q.list.Front(); e != nil; {
		if other := e.Value.(*lockWaiter); w.follows(other) {
			q = &other.queue
			e = q.list.Front()
		} else {
			e = e.Next()
		}
	}
	q.push(w)
	if w.list.Len() == 0 {
		l.last = w
	}
}

// push has a waiter wait in a queue, behind nobody. Those who move from one queue to another
// do not follow each other already.
func (q *queue) push(w *lockWaiter) { w.in, w.place = q, q.list.PushBack(w) }

// leave takes a waiter, and those behind it, out of its queue.
func (w *lockWaiter) leave() {
	if w.in != nil {
		w.in.list.Remove(w.place)
		w.in, w.place = nil, nil
	}
}

// each calls fn for those in a queue, which may take them out.
func (q *queue) each(fn func(w *lockWaiter)) {
	for e := q.list.Front(); e != nil; {
		w := e.Value.(*lockWaiter)
		e = e.Next()
		fn(w)
	}
}

// enter notes a new waiter.
func (b *lockBooks) enter(l *fileLocks, unique uint64, r lockRequest) *lockWaiter {
	w := &lockWaiter{unique: unique, file: l, req: r}
	if b.waiters == nil {
		b.waiters = make(map[uint64]*lockWaiter)
	}
	b.waiters[unique] = w
	l.waiters[w] = struct{}{}
	if l.count[r.key()]++; l.count[r.key()] > 1 {
		b.unfollow(l, r.key())
	}
	return w
}

// unfollow sends the waiters of an owner that has become busy to the lobby.
func (b *lockBooks) unfollow(l *fileLocks, key lockKey) {
	if l.count[key] == 0 {
		return
	}
	for w := range l.waiters {
		if w.req.key() == key && w.in != nil && w.in != &l.lobby && w.in != &l.foreign {
			w.leave()
			l.lobby.push(w)
		}
	}
	b.admit(l)
}

// wait has w, which has tried in vain, wait for what is in its way. If that is no lock of
// the mount, there is nobody to tell when it goes: Deferred, but for the first of many.
func (b *lockBooks) wait(w *lockWaiter) unix.Errno {
	l := w.file
	defer b.tried(w)
	if !w.req.flock {
		if b.waiting == nil {
			b.waiting = make(map[uint64]*lockWaiter)
		}
		b.waiting[w.req.owner] = w
		if b.deadlock(w) {
			return unix.EDEADLK
		}
	}
	if q := l.obstacle(&w.req); q != nil {
		q.add(w)
		return fuseconn.Suspended
	}
	if l.foreign.add(w); w.in != &l.foreign {
		return fuseconn.Suspended
	}
	return fuseconn.Deferred
}

// obstacle returns the queue of a lock of the mount that is in the way.
func (l *fileLocks) obstacle(r *lockRequest) *queue {
	if r.flock {
		for fh, h := range l.flocks {
			if fh != r.fh && (h.typ == unix.F_WRLCK || r.typ == unix.F_WRLCK) {
				return &h.queue
			}
		}
		return nil
	}
	for id, o := range l.owners {
		if id != r.owner && o.blocks(r) {
			return &o.queue
		}
	}
	return nil
}

func (o *lockOwner) blocks(r *lockRequest) bool {
	return !r.flock && slices.ContainsFunc(o.spans, r.span.conflicts)
}

// tried notes that a waiter from the lobby has tried.
func (b *lockBooks) tried(w *lockWaiter) {
	if w.trying {
		w.trying = false
		w.file.trying--
		b.admit(w.file)
	}
}

// finish notes that w waits no longer. got is the queue of the lock that it has now, if it
// has one: that is in the way of those behind w, and of others in the lobby.
func (b *lockBooks) finish(w *lockWaiter, got *queue) {
	l := w.file
	delete(b.waiters, w.unique)
	delete(l.waiters, w)
	if key := w.req.key(); l.count[key] > 1 {
		l.count[key]--
	} else {
		delete(l.count, key)
	}
	if b.waiting[w.req.owner] == w {
		delete(b.waiting, w.req.owner)
	}
	next := &l.lobby
	switch {
	case got != nil:
		next = got
	case w.in != nil && w.in != &l.foreign:
		next = w.in
	}
	w.leave()
	w.each(func(behind *lockWaiter) {
		behind.leave()
		next.push(behind)
	})
	if got != nil {
		l.lobby.each(func(other *lockWaiter) {
			if other.req.conflicts(&w.req) {
				other.leave()
				got.push(other)
			}
		})
	}
	b.tried(w)
	b.admit(l)
}

// release has those in a queue try again for whom the lock that it belongs to is not in
// the way any more.
func (b *lockBooks) release(l *fileLocks, q *queue, blocks func(*lockRequest) bool) {
	q.each(func(w *lockWaiter) {
		if !blocks(&w.req) {
			w.leave()
			l.lobby.push(w)
		}
	})
	b.admit(l)
}

// admit has those in the lobby try again that are not in each other's way.
func (b *lockBooks) admit(l *fileLocks) {
	if l.trying > 0 {
		return
	}
	var chosen []*lockWaiter
	skipped := 0
	for e := l.lobby.list.Front(); e != nil && len(chosen) < maxTrying && skipped < maxSkipped; e = e.Next() {
		w := e.Value.(*lockWaiter)
		if slices.ContainsFunc(chosen, func(c *lockWaiter) bool { return w.req.conflicts(&c.req) }) {
			skipped++
			continue
		}
		chosen = append(chosen, w)
	}
	for _, w := range chosen {
		w.leave()
		w.trying = true
		l.trying++
		b.woken++
		if b.resume != nil {
			b.resume(w.unique)
		}
	}
}

// maxDeadlock is how many owners are asked whom they wait for. The kernel asks ten.
const maxDeadlock = 1000

// deadlock reports whether w waits for somebody who waits, over however many others, for a
// lock of w's owner. As natively, that is for POSIX locks: an open file can be shared by
// processes, one of which may unlock what another waits for.
func (b *lockBooks) deadlock(w *lockWaiter) bool {
	seen := make(map[uint64]bool)
	for ask := []*lockWaiter{w}; len(ask) > 0 && len(seen) < maxDeadlock; ask = ask[1:] {
		l, r := ask[0].file, &ask[0].req
		for id, o := range l.owners {
			switch {
			case id == r.owner || seen[id] || !o.posix || !o.blocks(r):
			case id == w.req.owner:
				return true
			default:
				seen[id] = true
				if next := b.waiting[id]; next != nil {
					ask = append(ask, next)
				}
			}
		}
	}
	return false
}

// interrupted is told of a request that was answered while it waited.
func (b *lockBooks) interrupted(unique uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.waiters[unique]; w != nil {
		b.finish(w, nil)
	}
}
