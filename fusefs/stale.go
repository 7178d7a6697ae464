package fusefs

import (
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// suspicion is for sources whose files can be replaced at a server. The client
// there goes by what it has cached, and learns from ESTALE that it was wrong.
// For a path, the kernel then asks for each name of it again (LOOKUP_REVAL). Our
// kernel does so too when we answer ESTALE, but its LOOKUP does not say why it
// comes; so after an ESTALE the source is asked for names in a way that has it
// ask its server.
type suspicion struct{ last atomic.Int64 }

// suspicionTime is far longer than the kernel takes to look again, and what is
// asked for meanwhile costs a question to the server more.
const suspicionTime = 2 * time.Second

func (s *suspicion) roused() bool {
	last := s.last.Load()
	return last != 0 && time.Since(started).Nanoseconds()-last < suspicionTime.Nanoseconds()
}

// started is when the monotonic clock of suspicion began, a little ago.
var started = time.Now().Add(-time.Nanosecond)

// stale is a file system that notes where it is answered ESTALE for a path.
type stale struct {
	fuse.RawFileSystem
	s *suspicion
}

func (s *stale) note(status fuse.Status) fuse.Status {
	if status == fuse.Status(unix.ESTALE) {
		s.s.last.Store(time.Since(started).Nanoseconds())
	}
	return status
}

// doubt makes the source ask its server about a name if there is reason to.
func (f *FS) doubt(dirfd int, name string) {
	if f.suspicion.roused() {
		_ = sys.Revalidate(dirfd, name)
	}
}

func (s *stale) Lookup(x cancel, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return s.note(s.RawFileSystem.Lookup(x, h, name, out))
}

func (s *stale) GetAttr(x cancel, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return s.note(s.RawFileSystem.GetAttr(x, in, out))
}

func (s *stale) Statx(x cancel, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	return s.note(s.RawFileSystem.Statx(x, in, out))
}

func (s *stale) SetAttr(x cancel, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return s.note(s.RawFileSystem.SetAttr(x, in, out))
}

func (s *stale) Readlink(x cancel, h *fuse.InHeader) (target []byte, status fuse.Status) {
	target, status = s.RawFileSystem.Readlink(x, h)
	return target, s.note(status)
}

func (s *stale) Symlink(x cancel, h *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	return s.note(s.RawFileSystem.Symlink(x, h, to, name, out))
}

func (s *stale) Mknod(x cancel, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.note(s.RawFileSystem.Mknod(x, in, name, out))
}

func (s *stale) Mkdir(x cancel, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.note(s.RawFileSystem.Mkdir(x, in, name, out))
}

func (s *stale) Unlink(x cancel, h *fuse.InHeader, name string) fuse.Status {
	return s.note(s.RawFileSystem.Unlink(x, h, name))
}

func (s *stale) Rmdir(x cancel, h *fuse.InHeader, name string) fuse.Status {
	return s.note(s.RawFileSystem.Rmdir(x, h, name))
}

func (s *stale) Rename(x cancel, in *fuse.RenameIn, from, to string) fuse.Status {
	return s.note(s.RawFileSystem.Rename(x, in, from, to))
}

func (s *stale) Link(x cancel, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.note(s.RawFileSystem.Link(x, in, name, out))
}

func (s *stale) Access(x cancel, in *fuse.AccessIn) fuse.Status {
	return s.note(s.RawFileSystem.Access(x, in))
}

func (s *stale) Open(x cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return s.note(s.RawFileSystem.Open(x, in, out))
}

func (s *stale) Create(x cancel, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return s.note(s.RawFileSystem.Create(x, in, name, out))
}

func (s *stale) Tmpfile(x cancel, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return s.note(s.RawFileSystem.Tmpfile(x, in, out))
}

func (s *stale) OpenDir(x cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return s.note(s.RawFileSystem.OpenDir(x, in, out))
}

func (s *stale) StatFs(x cancel, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	return s.note(s.RawFileSystem.StatFs(x, h, out))
}

func (s *stale) GetXAttr(x cancel, h *fuse.InHeader, name string, dest []byte) (size uint32, status fuse.Status) {
	size, status = s.RawFileSystem.GetXAttr(x, h, name, dest)
	return size, s.note(status)
}

func (s *stale) ListXAttr(x cancel, h *fuse.InHeader, dest []byte) (size uint32, status fuse.Status) {
	size, status = s.RawFileSystem.ListXAttr(x, h, dest)
	return size, s.note(status)
}

func (s *stale) SetXAttr(x cancel, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	return s.note(s.RawFileSystem.SetXAttr(x, in, name, value))
}

func (s *stale) RemoveXAttr(x cancel, h *fuse.InHeader, name string) fuse.Status {
	return s.note(s.RawFileSystem.RemoveXAttr(x, h, name))
}
