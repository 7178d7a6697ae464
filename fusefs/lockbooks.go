package fusefs

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

const offsetMax = 1<<63 - 1 // OFFSET_MAX of the kernel: to the end of the file, wherever it is

// span is a locked range, both ends included, of unix.F_RDLCK or F_WRLCK.
type span struct {
	start, end uint64
	typ        uint32
}

func (s span) flockT() unix.Flock_t {
	lock := unix.Flock_t{Type: int16(s.typ), Start: int64(s.start)}
	if s.end < offsetMax {
		lock.Len = int64(s.end - s.start + 1)
	}
	return lock
}

func spanOf(lock *unix.Flock_t) span {
	s := span{start: uint64(lock.Start), end: offsetMax, typ: uint32(lock.Type)}
	if lock.Len > 0 {
		s.end = s.start + uint64(lock.Len) - 1
	}
	return s
}

func (s span) overlaps(o span) bool { return s.start <= o.end && o.start <= s.end }

func (s span) conflicts(o span) bool {
	return s.overlaps(o) && (s.typ == unix.F_WRLCK || o.typ == unix.F_WRLCK)
}

// lockOwner has record locks on one file.
type lockOwner struct {
	process
	queue              // of those whose way its locks are in
	fd          int    // open file of the source with the locks
	uid         uint32 // who is charged for it
	read, write bool
	handles     map[uint64]struct{} // through which it has locked
	spans       []span              // in order, and do not overlap
	watched     bool                // no FLUSH says when it closes the file
}

// set notes a lock that has been taken, or given up. As in the kernel, it becomes one
// with those of its type beside it.
func (o *lockOwner) set(s span) {
	first, _ := slices.BinarySearchFunc(o.spans, s.start, func(have span, start uint64) int {
		if have.end+1 < start {
			return -1
		}
		return 1
	})
	last := first
	whole := s
	var before, after []span
	for ; last < len(o.spans) && o.spans[last].start <= s.end+1; last++ {
		have := o.spans[last]
		if have.typ == s.typ {
			whole.start, whole.end = min(whole.start, have.start), max(whole.end, have.end)
			continue
		}
		if have.start < s.start {
			before = append(before, span{have.start, min(have.end, s.start-1), have.typ})
		}
		if have.end > s.end {
			after = append(after, span{max(have.start, s.end+1), have.end, have.typ})
		}
	}
	if s.typ != unix.F_UNLCK {
		before = append(before, whole)
	}
	o.spans = slices.Replace(o.spans, first, last, append(before, after...)...)
}

func (o *lockOwner) overlaps(s span) bool { return slices.ContainsFunc(o.spans, s.overlaps) }

// blockers are the other owners of the mount that are in the way.
func (l *fileLocks) blockers(r *lockRequest) []uint64 {
	var out []uint64
	for id, o := range l.owners {
		if id != r.owner && slices.ContainsFunc(o.spans, r.span.conflicts) {
			out = append(out, id)
		}
	}
	return out
}

// flockers are the processes whose flock locks are in the way.
func (l *fileLocks) flockers(r *lockRequest) []process {
	var out []process
	for fh, h := range l.flocks {
		if fh != r.fh && (h.typ == unix.F_WRLCK || r.typ == unix.F_WRLCK) {
			out = append(out, h.process)
		}
	}
	return out
}

// know and forget keep the list of files with locks. mu is held.
func (b *lockBooks) know(l *fileLocks) {
	if b.files == nil {
		b.files = make(map[*fileLocks]struct{})
	}
	b.files[l] = struct{}{}
}

func (b *lockBooks) forget(l *fileLocks) {
	if len(l.owners) == 0 && len(l.flocks) == 0 {
		delete(b.files, l)
	}
}

// close gives all locks up: the mount is gone, maybe by force.
func (b *lockBooks) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for l := range b.files {
		for _, o := range l.owners {
			unix.Close(o.fd)
		}
		clear(l.owners)
		clear(l.waiters)
	}
	clear(b.waiters)
	clear(b.files)
}

func fcntlLock(fd, cmd int, lock *unix.Flock_t) unix.Errno {
	for {
		err := unix.FcntlFlock(uintptr(fd), cmd, lock)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EACCES { // POSIX allows either
			return unix.EAGAIN
		}
		return sys.Errno(err)
	}
}
