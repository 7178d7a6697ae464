package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// process is who has taken a lock, as far as /proc tells. The request has the
// process, and not whether the lock is its (POSIX) or the open file's (OFD,
// flock): that is read from the system call that it is in.
type process struct {
	pid   uint32 // 0 if it is in no pid namespace of ours
	posix bool   // the lock is known to go when the process closes the file
	fd    int    // its descriptor, -1 if unknown

	// others are all its descriptors of the file, if some may be closed without a
	// FLUSH although the lock was not taken through them. See FS.untold.
	others []int
}

// identify looks at the fcntl(2) or flock(2) that a thread waits in, which is
// the call that is being answered. If it can't be read, it may be an OFD lock:
// to keep one too long does less harm than to lose it.
func (p *process) identify(thread uint32) {
	p.fd = -1
	var fields [][]byte
	for try := 0; len(fields) < 4; try++ {
		text, err := sys.ReadFile(fmt.Sprintf("/proc/%d/syscall", thread))
		if err != nil || try == 5 {
			return
		}
		if fields = bytes.Fields(text); len(fields) < 4 { // number, arguments, stack, instruction
			time.Sleep(50 * time.Microsecond) // "running": on its way to sleep
		}
	}
	fd, err1 := strconv.ParseUint(string(fields[1]), 0, 64)
	cmd, err2 := strconv.ParseUint(string(fields[2]), 0, 64)
	if err1 != nil || err2 != nil || fd > 1<<31 {
		return
	}
	p.fd = int(fd)
	switch cmd {
	case unix.F_SETLK, unix.F_SETLKW, 13, 14: // the last ones are F_SETLK64 of 32-bit programs
		// flock(2) has no such operations: LOCK_SH, EX, NB and UN are 1, 2, 4, 8;
		// LOCK_EX|LOCK_NB is 6 as well, but it does not come here.
		p.posix = true
	}
}

// hasOpen reports whether a process has a file open: whether the descriptor that
// it locked through, or any other, has the inode number that the mount shows.
// Another file with the same number makes it err on the side of yes.
func (p *process) hasOpen(ino uint64) bool {
	dir := fmt.Sprintf("/proc/%d/fdinfo", p.pid)
	if p.fd >= 0 && fdinfoIno(fmt.Sprintf("%s/%d", dir, p.fd)) == ino {
		return true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return !isGone(err) && processRuns(p.pid)
	}
	for _, e := range entries {
		text, err := sys.ReadFile(dir + "/" + e.Name())
		if err != nil && !isGone(err) || parseIno(text) == ino {
			return true
		}
	}
	return false
}

// isGone reports whether an error says that a process, or its descriptor, is no more.
// Any other, such as EMFILE, says nothing.
func isGone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// note remembers the descriptors that the process has of the file.
func (p *process) note(ino uint64) {
	p.others = nil
	dir := fmt.Sprintf("/proc/%d/fdinfo", p.pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fdinfoIno(dir+"/"+e.Name()) == ino {
			p.others = append(p.others, fd)
		}
	}
}

// closedOne reports whether the process has closed one of the descriptors that
// were noted. What can't be read, or is another of the same file by now, counts
// as open.
func (p *process) closedOne(ino uint64) bool {
	for _, fd := range p.others {
		text, err := sys.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", p.pid, fd))
		if isGone(err) {
			return true
		}
		if now := parseIno(text); now != 0 && now != ino {
			return true
		}
	}
	return false
}

func processRuns(pid uint32) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// fdinfoIno reads the inode number of an open file (Linux 5.14; FOPEN_NOFLUSH,
// for whose sake it is needed, is younger), 0 if there is none.
func fdinfoIno(path string) uint64 {
	text, err := sys.ReadFile(path)
	if err != nil {
		return 0
	}
	return parseIno(text)
}

func parseIno(text []byte) uint64 {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("ino:")); ok {
			ino, _ := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 64)
			return ino
		}
	}
	return 0
}

// shownIno is the inode number that the mount shows of a file.
func (f *FS) shownIno(l *fileLocks, fd int) uint64 {
	var st unix.Stat_t
	if sys.Stat(fd, &st) != 0 {
		return 0
	}
	return taggedIno(st.Ino, l.node.tag)
}

// releasing reports whether what is in the way of a request belongs to a
// process that has closed the file. The locks of a POSIX owner go right here;
// an open file may have been inherited, and if not, its RELEASE is on its way.
func (f *FS) releasing(l *fileLocks, r *lockRequest) bool {
	u := f.descriptor(r.file)
	if u.errno != 0 {
		return false
	}
	defer u.done()
	ino := f.shownIno(l, u.fd)
	if ino == 0 {
		return false
	}
	type holder struct {
		id uint64
		process
	}
	var holders []holder
	f.locks.mu.Lock()
	if r.flock {
		for _, p := range l.flockers(r) {
			holders = append(holders, holder{0, p})
		}
	} else {
		for _, id := range l.blockers(r) {
			holders = append(holders, holder{id, l.owners[id].process})
		}
	}
	f.locks.mu.Unlock()
	gone := false
	for _, h := range holders {
		if h.pid == 0 || h.hasOpen(ino) && !h.closedOne(ino) {
			continue
		}
		gone = true
		if h.posix && !r.flock {
			l.sys.Lock()
			f.dropOwner(l, h.id)
			l.sys.Unlock()
		}
	}
	return gone
}

// lockWatchEach is how often owners are looked after whose close(2) nothing tells.
const lockWatchEach = 250 * time.Millisecond

// untold reports whether the file is open, besides as fh, in ways of which no FLUSH
// tells that somebody closes them.
func (f *FS) untold(l *fileLocks, fh uint64) bool {
	if f.remoteData {
		return false // FLUSH is always sent
	}
	u := l.node.uses()
	u.open.mu.Lock()
	open := u.open.count
	u.open.mu.Unlock()
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	if !l.flushed[fh] {
		open--
	}
	return int(open) > len(l.flushed)
}

// watchLocks starts a look-out for owners of POSIX locks who have closed a file
// that others have inherited, or a second one of their own, if there is none. It ends with the last of them.
// lockBooks.mu is held.
func (f *FS) watchLocks(needed bool) {
	if !needed || f.locks.watched || f.locks.closed {
		return
	}
	f.locks.watched = true
	go func() {
		for {
			time.Sleep(lockWatchEach)
			if !f.lookAfterLocks() {
				return
			}
		}
	}()
}

// lookAfterLocks drops the locks of owners that have closed their file, and
// reports whether others remain.
func (f *FS) lookAfterLocks() bool {
	type candidate struct {
		l  *fileLocks
		id uint64
		o  *lockOwner
		process
	}
	var all []candidate
	f.locks.mu.Lock()
	for l := range f.locks.files {
		for id, o := range l.owners {
			if o.watched {
				all = append(all, candidate{l, id, o, o.process})
			}
		}
	}
	if len(all) == 0 || f.locks.closed {
		f.locks.watched = false
		f.locks.mu.Unlock()
		return false
	}
	f.locks.mu.Unlock()
	for _, c := range all {
		c.l.sys.Lock() // keeps the descriptor from being closed
		f.locks.mu.Lock()
		same := c.l.owners[c.id] == c.o
		f.locks.mu.Unlock()
		if same {
			if ino := f.shownIno(c.l, c.o.fd); ino != 0 && (!c.hasOpen(ino) || c.closedOne(ino)) {
				f.dropOwner(c.l, c.id)
			}
		}
		c.l.sys.Unlock()
	}
	return true
}
