package fusefs

import (
	"slices"

	"golang.org/x/sys/unix"
)

// budget divides the descriptors that a process may have. What is in none of its parts
// is for what the server needs itself, and for requests under way, which take up to four
// each.
type budget struct {
	nodes   int // fdCache
	marked  int // fdCache, if the source's files are marked
	files   int // openFiles
	dirs    int // streams
	readers int // of the connection, each with a descriptor of its own
}

// ownDescriptors are as many as a server has that does nothing.
const ownDescriptors = 24

// newBudget is for one of the file systems that share a process, which may have limit
// descriptors. Many are enough for what can be closed: 8192 nodes, 64 directories.
// Of files that are marked (fileMarks) more is kept, which takes their descriptors: without
// these they are pruned. Their marks pin the inodes anyway.
func newBudget(limit uint64, shares int) budget {
	spare := max((int(min(limit, 1<<30))-ownDescriptors)/shares, 16)
	dirs := max(min(spare/16, 64), 2)
	return budget{
		nodes:   min(spare*5/16, 8192),
		marked:  min(spare*5/16, 1<<16),
		files:   spare * 5 / 16,
		dirs:    dirs,
		readers: max(spare/16, 2),
	}
}

// processBudget is the budget of one of the file systems that share this process.
func processBudget(shares int) budget {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 256
	}
	return newBudget(limit.Cur, shares)
}

// reclaimed is how many descriptors of each kind are closed when there are none left.
const reclaimed = 4

// reclaim closes descriptors that can be opened again, and reports whether there were
// any. It is called while requests wait that may have any lock but those of the tables.
func (f *FS) reclaim() bool {
	f.files.mu.Lock()
	files := f.files.evict(f.files.charged + f.files.closing - reclaimed)
	f.files.mu.Unlock()
	f.files.close(files)

	f.fds.mu.Lock()
	nodes := f.fds.evict(len(f.fds.ring)-reclaimed, nil)
	f.fds.mu.Unlock()
	closeAll(nodes)

	// Nobody reads one that is parked, so nobody has its lock.
	f.streams.mu.Lock()
	n := min(len(f.streams.parked), reclaimed)
	parked := slices.Clone(f.streams.parked[:n])
	f.streams.parked = append(f.streams.parked[:0], f.streams.parked[n:]...)
	f.streams.mu.Unlock()
	closeStreams(parked)
	return len(files)+len(nodes)+len(parked) > 0
}
