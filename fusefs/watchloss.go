package fusefs

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// leastQuiet is how long no change must have been lost before anything is kept
	// again.
	leastQuiet = time.Second

	// quietPerWalk is the same as a multiple of the time that the last walk over all
	// nodes took. So walks take a tenth of one processor's time at most.
	quietPerWalk = 10

	// walkPortion is how many nodes are invalidated between two pauses.
	walkPortion = 4096
)

var errBacklog = errors.New("the kernel takes notifications more slowly than the source changes")

// isBehind reports whether changes were lost, so that nothing may be kept.
func (w *watch) isBehind() bool { return w != nil && w.behind.Load() }

// lost notes that there were changes which nobody knows of. It does not wait.
func (w *watch) lost(cause error) {
	w.lossMu.Lock()
	defer w.lossMu.Unlock()
	w.lately = time.Now()
	if w.behind.Swap(true) {
		return
	}
	w.fs.log.Warn("changes at the source were lost: nothing is cached until there are fewer", "source", w.fs.source.Name(), "cause", cause)
	select {
	case w.fell <- struct{}{}:
	default:
	}
}

// recover invalidates all that the kernel may have kept, each time that changes were
// lost, and then ends the time during which nothing is kept.
//
// It walks the nodes once for any number of losses meanwhile, since nothing is kept
// of what is read after the first.
func (w *watch) recover() {
	defer w.running.Done()
	for {
		select {
		case <-w.fell:
		case <-w.stop:
			return
		}
		began := time.Now()
		// Before Linux 6.16 the kernel can't forget all names: they expire.
		if !w.fs.carriers.any.Load() {
			// It also takes away what is mounted on a name (fuse_dentry_revalidate).
			w.fs.conn.IncreaseEpoch()
		}
		if !w.walk() {
			return
		}
		took := time.Since(began)
		if !w.catchUp(min(max(leastQuiet, quietPerWalk*took), CoherentBound)) {
			return
		}
		w.fs.pruneDeleted() // what was deleted meanwhile
		w.fs.log.Info("changes at the source are followed again", "source", w.fs.source.Name(), "invalidated in", took, "after", time.Since(began))
	}
}

// walk invalidates the attributes and the data of all nodes, with pauses as long as the
// work. It returns false if the watch was closed meanwhile.
func (w *watch) walk() bool {
	var absent []uint64 // the answer that makes them known may be on its way
	began, n := time.Now(), 0
	ok := true
	w.fs.nodes.each(func(node *node) {
		if !ok {
			return
		}
		if w.fs.conn.InvalidateInode(node.id, 0, 0) == unix.ENOENT {
			absent = append(absent, node.id)
		}
		w.walked.Add(1)
		if n++; n%walkPortion == 0 {
			ok = w.pause(time.Since(began))
			began = time.Now()
		}
	})
	for try := range watchTries {
		if !ok || len(absent) == 0 {
			return ok
		}
		ok = w.pause(time.Millisecond << try)
		left := absent[:0]
		for _, id := range absent {
			if w.fs.nodes.get(id) != nil && w.fs.conn.InvalidateInode(id, 0, 0) == unix.ENOENT {
				left = append(left, id)
			}
		}
		absent = left
	}
	return ok
}

// catchUp waits until no change has been lost for a time, and then lets answers be kept
// again. It returns false if the watch was closed meanwhile.
func (w *watch) catchUp(quiet time.Duration) bool {
	for {
		w.lossMu.Lock()
		left := quiet - time.Since(w.lately)
		if left <= 0 {
			// What began to be read before may have been read before a change that
			// was lost.
			for i := range w.buckets {
				w.buckets[i].Add(1)
			}
			w.behind.Store(false)
			w.lossMu.Unlock()
			return true
		}
		w.lossMu.Unlock()
		if !w.pause(left) {
			return false
		}
	}
}

// pause returns false at once if the watch is closed.
func (w *watch) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.stop:
		return false
	}
}

// noticeQueue is a queue of at most maxNotices. Its memory goes back when it is empty.
type noticeQueue struct {
	mu     sync.Mutex
	ready  sync.Cond
	items  []notice
	head   int // items before are taken
	closed bool
}

// put returns false if the queue is full.
func (q *noticeQueue) put(n notice) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true // nobody is left to be told
	}
	if len(q.items)-q.head >= maxNotices {
		return false
	}
	if q.head > 0 && len(q.items) == cap(q.items) {
		q.items = q.items[:copy(q.items, q.items[q.head:])]
		q.head = 0
	}
	q.items = append(q.items, n)
	q.ready.Signal()
	return true
}

// take waits for a notice; false when the queue is closed.
func (q *noticeQueue) take() (notice, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == len(q.items) {
		if q.closed {
			return notice{}, false
		}
		q.ready.Wait()
	}
	n := q.items[q.head]
	q.items[q.head] = notice{}
	if q.head++; q.head == len(q.items) {
		q.head = 0
		if q.items = q.items[:0]; cap(q.items) > keptNotices {
			q.items = nil
		}
	}
	return n, true
}

// keptNotices is the room that an empty queue keeps.
const keptNotices = 256

func (q *noticeQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.items, q.head = true, nil, 0
	q.ready.Broadcast()
}
