package fusefs

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// stream is a directory that is being read.
type stream struct {
	mu   sync.Mutex
	fd   int
	node *node
	next uint64 // the offset that the entries of rest begin at
	buf  []byte
	full int     // of buf
	rest []byte  // what of buf[:full] has not been sent
	turn uint64  // of streams, when buf was read
	read reading // and the directory's
	end  bool    // nothing follows

	known int  // names, of those not sent yet, that the kernel has been told already
	plain bool // nothing more is said of the entries of buf than their names

	flags   int           // that it is opened with
	charged bool          // uid is charged for fd, which is not closed before RELEASEDIR
	uid     uint32        //
	idle    *list.Element // of streams.idle; guarded by streams.mu
}

func (d *stream) close() {
	d.mu.Lock()
	d.shut()
	d.mu.Unlock()
}

// shut closes the descriptor. What has been read by it and not sent is read again.
func (d *stream) shut() {
	if d.fd >= 0 {
		unix.Close(d.fd)
	}
	d.fd = -1
	if d.buf != nil {
		direntBufs.Put((*[direntBuf]byte)(d.buf))
		d.buf, d.rest = nil, nil
	}
}

const direntBuf = 32 << 10

var direntBufs = sync.Pool{New: func() any { return new([direntBuf]byte) }}

// streams are the directories that are being read: by handle where the kernel
// opens directories, and otherwise those that have been read in part, to be
// taken up again by whoever goes on from there.
//
// They have a budget of descriptors. Of those that the kernel opens, the ones that were
// used last have one, and the others get one again when they are read. What can't be
// opened again is charged to its user.
type streams struct {
	mu     sync.Mutex
	budget int
	last   uint64
	turn   atomic.Uint64 // counts the changes that the server has made to directories
	open   map[uint64]*stream
	idle   list.List // of open: those that can be closed; *stream, the one used longest ago first
	parked []*stream // the longest parked first
}

func (s *streams) add(d *stream) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.open[s.last] = d
	return s.last
}

func (s *streams) get(fh uint64) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[fh]
}

func (s *streams) remove(fh uint64) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.open[fh]
	delete(s.open, fh)
	s.wake(d)
	return d
}

// rest notes that nobody reads a stream. It returns those that are to be closed.
func (s *streams) rest(d *stream) (closing []*stream) {
	if d.charged {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake(d)
	d.idle = s.idle.PushBack(d)
	return s.evict(s.budget)
}

// evict takes idle streams out of the list until there are no more than left.
func (s *streams) evict(left int) (closing []*stream) {
	for s.idle.Len() > left {
		d := s.idle.Front().Value.(*stream)
		s.wake(d)
		closing = append(closing, d)
	}
	return closing
}

// wake takes a stream out of the list of idle ones, if it is there.
func (s *streams) wake(d *stream) {
	if d != nil && d.idle != nil {
		s.idle.Remove(d.idle)
		d.idle = nil
	}
}

// park keeps a stream for whoever reads on from there.
func (s *streams) park(d *stream) {
	s.mu.Lock()
	s.parked = append(s.parked, d)
	var old *stream
	if len(s.parked) > s.budget {
		old = s.parked[0]
		s.parked = append(s.parked[:0], s.parked[1:]...)
	}
	s.mu.Unlock()
	if old != nil {
		old.close()
	}
}

// unpark returns the stream of n that goes on at an offset, if there is one.
func (s *streams) unpark(n *node, offset uint64) *stream {
	if offset == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.parked {
		if d.node == n && d.next == offset {
			s.parked = append(s.parked[:i], s.parked[i+1:]...)
			return d
		}
	}
	return nil
}

// drop closes what is parked of n, or everything if n is nil.
func (s *streams) drop(n *node) {
	s.mu.Lock()
	var closing []*stream
	kept := s.parked[:0]
	for _, d := range s.parked {
		if n == nil || d.node == n {
			closing = append(closing, d)
		} else {
			kept = append(kept, d)
		}
	}
	clear(s.parked[len(kept):])
	s.parked = kept
	if n == nil {
		for _, d := range s.open {
			closing = append(closing, d)
		}
		clear(s.open)
		s.idle.Init()
	}
	s.mu.Unlock()
	for _, d := range closing {
		d.close()
	}
}

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.keepDirs {
		// Then the kernel asks no more, and keeps what it reads of directories
		// until they change.
		return fuse.ENOSYS
	}
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	// Positions that move, and callers that may be others later, forbid to open it again.
	keep, uid := f.movingPlaces || f.asCallers, in.Uid
	if keep {
		if uid = f.payer(&in.InHeader, f.files.crowded); !f.files.charge(uid) {
			return fuse.Status(unix.ENFILE)
		}
	}
	d, errno := f.newStream(n, int(in.Flags&unix.O_NOATIME))
	if errno != 0 {
		if keep {
			f.files.uncharge(uid)
		}
		return fuse.Status(errno)
	}
	if errno := f.mayOpen(n, d.fd, in); errno != 0 {
		d.close()
		if keep {
			f.files.uncharge(uid)
		}
		return fuse.Status(errno)
	}
	d.charged, d.uid = keep, uid
	out.OpenFlags |= f.keepsListing(n)
	out.Fh = f.streams.add(d)
	closeStreams(f.streams.rest(d))
	return fuse.OK
}

func closeStreams(closing []*stream) {
	for _, d := range closing {
		d.close()
	}
}

func (f *FS) newStream(n *node, flags int) (*stream, unix.Errno) {
	u := f.path(n)
	if u.errno != 0 {
		return nil, u.errno
	}
	defer u.done()
	fd, errno := f.list(u.fd, flags)
	if errno != 0 {
		return nil, errno
	}
	return &stream{fd: fd, node: n, flags: flags}, 0
}

// openAgain gives a stream a descriptor that has been closed since.
func (f *FS) openAgain(d *stream) unix.Errno {
	if d.fd >= 0 {
		return 0
	}
	fresh, errno := f.newStream(d.node, d.flags)
	if errno != 0 {
		return errno
	}
	d.fd = fresh.fd
	return d.rewind(d.next)
}

// list opens a directory to read it. By the name "." that takes the right to
// search it too, which a caller who may list it need not have.
func (f *FS) list(fd, flags int) (int, unix.Errno) {
	flags |= unix.O_RDONLY | unix.O_DIRECTORY
	if f.asCallers {
		return sys.Reopen(fd, flags)
	}
	return sys.OpenAt(fd, ".", flags, 0)
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) {
	if d := f.streams.remove(in.Fh); d != nil {
		d.close()
		if d.charged {
			f.files.uncharge(d.uid)
		}
	}
}

// stream returns the directory stream of a request, at the request's offset,
// and what to call when it is done with.
func (f *FS) stream(in *fuse.ReadIn) (*stream, func(), unix.Errno) {
	if !f.keepDirs {
		d := f.streams.get(in.Fh)
		if d == nil {
			return nil, nil, unix.EBADF
		}
		d.mu.Lock()
		f.streams.mu.Lock()
		f.streams.wake(d)
		f.streams.mu.Unlock()
		done := func() {
			closing := f.streams.rest(d)
			d.mu.Unlock()
			closeStreams(closing)
		}
		if errno := f.openAgain(d); errno != 0 {
			return nil, done, errno
		}
		if f.movingPlaces && d.goBack(in.Offset) {
			return d, done, 0
		}
		return d, done, d.seek(in.Offset)
	}
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return nil, nil, unix.ESTALE
	}
	d := f.streams.unpark(n, in.Offset)
	if d != nil && (d.turn != f.streams.turn.Load() || !f.watch.undisturbed(d.read)) {
		// Who reads now may have begun after the change.
		if errno := d.rewind(in.Offset); errno != 0 {
			d.close()
			return nil, nil, errno
		}
	}
	if d == nil {
		var errno unix.Errno
		if d, errno = f.newStream(n, 0); errno != 0 {
			return nil, nil, errno
		}
		if errno := d.seek(in.Offset); errno != 0 {
			d.close()
			return nil, nil, errno
		}
	}
	done := func() {
		if d.end {
			d.close()
		} else {
			f.streams.park(d)
		}
		if f.watch != nil && f.kept(n, d.read) == 0 {
			f.watch.forget(n.id, true) // the kernel keeps it, and nobody would tell it
		}
	}
	return d, done, 0
}

// seek goes to an offset. Another than where the last answer ended is
// seekdir(3); 0 is rewinddir(3), which also has to show what has changed since.
func (d *stream) seek(offset uint64) unix.Errno {
	if offset == d.next && offset != 0 {
		return 0
	}
	return d.rewind(offset)
}

// goBack goes to an offset among the entries that were read last, where the kernel
// had no room for more of an answer. On ramfs, places are numbers of entries, and to
// go to one would leave out an entry for each that is gone meanwhile.
func (d *stream) goBack(offset uint64) bool {
	if offset == 0 || d.buf == nil {
		return false
	}
	for rest := d.buf[:d.full]; ; {
		entry, size := parseDirent(rest)
		if size == 0 {
			return false
		}
		if rest = rest[size:]; entry.Off == offset {
			d.next, d.rest, d.end = offset, rest, false
			return true
		}
	}
}

// rewind goes to an offset, and reads anew what follows.
func (d *stream) rewind(offset uint64) unix.Errno {
	if _, err := unix.Seek(d.fd, int64(offset), unix.SEEK_SET); err != nil {
		return sys.Errno(err)
	}
	d.next, d.rest, d.end = offset, nil, false
	return 0
}

// rewritten notes that the server has changed a directory.
func (f *FS) rewritten(dir *node) {
	f.watch.disturb(dir)
	f.streams.turn.Add(1)
}

// parseDirent reads the first entry of what getdents64(2) has written, and returns
// its length, 0 if it makes no sense. The name is a part of buf.
func parseDirent(buf []byte) (e fuse.DirEntry, size int) {
	const nameAt = 19 // struct linux_dirent64
	if len(buf) < nameAt {
		return e, 0
	}
	size = int(binary.NativeEndian.Uint16(buf[16:]))
	if size <= nameAt || size > len(buf) {
		return e, 0
	}
	name := buf[nameAt:size]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	return fuse.DirEntry{
		Ino:  binary.NativeEndian.Uint64(buf),
		Off:  binary.NativeEndian.Uint64(buf[8:]),
		Mode: uint32(buf[18]) << 12,
		Name: unsafe.String(unsafe.SliceData(name), len(name)),
	}, size
}

// each calls add for the entries of d from here on, until one does not fit. Their
// names are good until add returns.
func (f *FS) each(d *stream, add func(e fuse.DirEntry) bool) unix.Errno {
	for sent := false; ; {
		if len(d.rest) == 0 {
			if sent && f.movingPlaces {
				return 0 // the kernel may come back to any of what it has been sent
			}
			if d.buf == nil {
				d.buf = direntBufs.Get().(*[direntBuf]byte)[:]
			}
			d.turn, d.read = f.streams.turn.Load(), f.reading(d.node, d.fd)
			n, err := unix.Getdents(d.fd, d.buf)
			if err != nil {
				if sent {
					return 0 // the next request meets it again
				}
				return sys.Errno(err)
			}
			if n == 0 {
				d.end = true
				return 0
			}
			d.full, d.rest = n, d.buf[:n]
			d.expect()
		}
		entry, size := parseDirent(d.rest)
		if size == 0 {
			return unix.EIO
		}
		entry.Ino = taggedIno(entry.Ino, d.node.tag)
		if !add(entry) {
			return 0
		}
		sent = true
		d.rest = d.rest[size:]
		d.next = entry.Off
	}
}

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d, done, errno := f.stream(in)
	if done != nil {
		defer done()
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	return fuse.Status(f.each(d, out.AddDirEntry))
}

// ReadDirPlus implements fuse.RawFileSystem: the entries with what a look-up of
// each would say, unless the kernel has just been told of most: an entry without a
// node is a name and nothing more.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d, done, errno := f.stream(in)
	if done != nil {
		defer done()
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	if in.Offset == 0 {
		d.known = f.fds.takeTold(d.node)
	}
	return fuse.Status(f.each(d, func(e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if d.plain || e.Name == "." || e.Name == ".." {
			return true
		}
		if f.find(d.node, d.fd, e.Name, entry) != 0 {
			*entry = fuse.EntryOut{} // gone: no node, and the name is looked up if need be
		}
		return true
	}))
}

// told is how many names of a directory the kernel has been told one by one since it
// was last listed. Who goes through a list of files, as git does, asks for those
// first, and then for what else there is; and what was made a moment ago is known too.
type told struct {
	names int
	since time.Time // the first of them
}

// toldFor is how long they count: that long the kernel keeps what it was told, unless
// memory is short.
const toldFor = 5 * time.Second

// tell notes that the kernel has been told a name of a directory.
func (c *fdCache) tell(dir *node) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	h := dir.held
	if h == nil {
		return
	}
	if h.told.names == 0 || now.Sub(h.told.since) > toldFor {
		h.told = told{since: now}
	}
	h.told.names++
}

// gone notes that there is a name less.
func (c *fdCache) gone(dir *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := dir.held; h != nil && h.told.names > 0 {
		h.told.names--
	}
}

// takeTold returns how many names the kernel has been told of late, and counts anew.
func (c *fdCache) takeTold(dir *node) (names int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := dir.held
	if h == nil {
		return 0
	}
	if time.Since(h.told.since) <= toldFor {
		names = h.told.names
	}
	h.told.names = 0
	return names
}

// expect decides, for entries just read, whether the kernel knows most of them.
func (d *stream) expect() {
	entries := 0
	for rest := d.rest; ; entries++ {
		_, size := parseDirent(rest)
		if size == 0 {
			break
		}
		rest = rest[size:]
	}
	d.plain = 2*d.known > entries
	d.known -= entries
}

// FsyncDir implements fuse.RawFileSystem.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	u := f.dir(in.NodeId, in.Fh)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	return fsync(u.fd, in.FsyncFlags)
}

// dir returns a descriptor of a directory that the kernel has open, by the
// handle fh if it has one.
func (f *FS) dir(id, fh uint64) use {
	if !f.keepDirs {
		d := f.streams.get(fh)
		if d == nil {
			return use{fd: -1, errno: unix.EBADF}
		}
		if d.charged {
			return use{fd: d.fd, lent: true}
		}
	}
	_, u := f.pathOf(id)
	if u.errno != 0 {
		return u
	}
	defer u.done()
	fd, errno := f.list(u.fd, 0)
	return use{fd: fd, errno: errno}
}
