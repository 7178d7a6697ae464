package fusefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// stream is an open directory.
type stream struct {
	mu   sync.Mutex
	fd   int
	tag  uint16
	next uint64 // the offset that the entries of rest begin at
	buf  []byte
	rest []byte // what of buf has not been sent
}

// streams are the open directories.
type streams struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*stream
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
	return d
}

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, u := f.pathOf(in.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	fd, errno := openat(u.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|int(in.Flags&unix.O_NOATIME), 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	out.Fh = f.streams.add(&stream{fd: fd, tag: n.tag})
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) {
	if d := f.streams.remove(in.Fh); d != nil {
		d.mu.Lock()
		unix.Close(d.fd)
		d.fd = -1
		d.mu.Unlock()
	}
}

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d := f.streams.get(in.Fh)
	if d == nil {
		return fuse.Status(unix.EBADF)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Another offset than where the last answer ended is seekdir(3); 0 is
	// rewinddir(3), which also has to show what has changed since.
	if in.Offset != d.next || in.Offset == 0 {
		if _, err := unix.Seek(d.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
			return fuse.Status(sys.Errno(err))
		}
		d.next, d.rest = in.Offset, nil
	}
	for sent := false; ; sent = true {
		if len(d.rest) == 0 {
			if sent && len(out.Bytes()) > 0 {
				return fuse.OK
			}
			if d.buf == nil {
				d.buf = make([]byte, 32<<10)
			}
			n, err := unix.Getdents(d.fd, d.buf)
			if err != nil {
				return fuse.Status(sys.Errno(err))
			}
			if n == 0 {
				return fuse.OK
			}
			d.rest = d.buf[:n]
		}
		var entry fuse.DirEntry
		size := entry.Parse(d.rest)
		if size == 0 {
			return fuse.Status(unix.EIO)
		}
		entry.Ino = taggedIno(entry.Ino, d.tag)
		if !out.AddDirEntry(entry) {
			return fuse.OK
		}
		d.rest = d.rest[size:]
		d.next = entry.Off
	}
}

// FsyncDir implements fuse.RawFileSystem.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d := f.streams.get(in.Fh)
	if d == nil {
		return fuse.Status(unix.EBADF)
	}
	return fsync(d.fd, in.FsyncFlags)
}
