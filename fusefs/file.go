package fusefs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/fuseconn"
	"github.com/idmount/idmount/internal/sys"
)

// diskOpenFlags are the flags that an open file of the source gets. What the
// kernel has done itself (O_CREAT, O_EXCL, O_TRUNC) is not done again, and
// O_DIRECT would make demands on the server's buffers.
func diskOpenFlags(flags uint32) int {
	const drop = unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_DIRECT | unix.O_NOCTTY | fasync
	return int(flags)&^drop | unix.O_NOFOLLOW
}

// fasync is FASYNC, which is a matter between the caller and the kernel.
const fasync = unix.O_ASYNC

// Open implements fuse.RawFileSystem.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.cache.Mode == CacheExclusive {
		return fuse.ENOSYS // and the kernel asks no more
	}
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	if !n.isRegular() {
		// Devices, FIFOs and sockets are the kernel's own business, and opening
		// them here would act on this machine's.
		return fuse.Status(unix.ENXIO)
	}
	late, errno := f.openLate(n, in, out)
	if errno != 0 {
		return fuse.Status(errno)
	}
	if late {
		n.openedBy(in.Pid)
		return fuse.OK
	}
	flags := f.reopenFlags(n, in.Flags)
	fd, errno := f.openUnlessLeased(n, flags)
	if errno != 0 {
		return fuse.Status(errno)
	}
	if errno = f.mayOpen(n, fd, in); errno == 0 && in.Flags&unix.O_DIRECT != 0 {
		errno = takesDirect(fd)
	}
	if errno != 0 {
		unix.Close(fd)
		return fuse.Status(errno)
	}
	if errno := f.opened(n, fd, &in.InHeader, in.Flags, payOrFail, out); errno != 0 {
		return fuse.Status(errno)
	}
	n.openedBy(in.Pid)
	return fuse.OK
}

// reopenFlags are the flags that a known file is opened with at the source.
func (f *FS) reopenFlags(n *node, flags uint32) int {
	disk := diskOpenFlags(flags)
	if f.mountOf(n) == nil {
		disk &^= unix.O_NOFOLLOW // the entry in /proc is a link
	}
	return disk
}

// openUnlessLeased opens a file. Where a lease forbids that, it asks the holder to give
// the lease up, and returns fuseconn.Deferred unless the caller does not wait (O_NONBLOCK).
// The wait is up to the holder, for fs.lease-break-time seconds or, if that is 0, for ever.
func (f *FS) openUnlessLeased(n *node, flags int) (int, unix.Errno) {
	fd, errno := f.reopen(n, flags|unix.O_NONBLOCK)
	if errno == unix.EAGAIN && flags&unix.O_NONBLOCK == 0 {
		errno = fuseconn.Deferred
	}
	return fd, errno
}

// breakLeases asks those who have a lease on a file to give it up, as truncate(2) by path
// does, which then waits. Here that is fuseconn.Deferred. Until done is called nobody can
// get a new lease.
func (f *FS) breakLeases(n *node, fd int) (done func(), errno unix.Errno) {
	none := func() {}
	if f.remoteData || f.asCallers || !n.isRegular() {
		return none, 0 // they have no leases, or none that a truncation here waits for
	}
	if u := n.usage.Load(); u != nil && u.writers.Load() > 0 {
		return none, 0 // a file that is open for writing has no leases
	}
	held, errno := sys.Reopen(fd, unix.O_WRONLY|unix.O_NONBLOCK)
	switch errno {
	case 0:
		return func() { unix.Close(held) }, 0
	case unix.EAGAIN:
		return none, fuseconn.Deferred
	}
	return none, 0 // truncate(2) says what is wrong
}

// takesDirect reports whether the file system of fd has O_DIRECT: if not, the kernel,
// when it opens the file again for passthrough, would make that an EIO.
func takesDirect(fd int) unix.Errno {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	}
	return sys.Errno(err)
}

// payment is how an open file comes to its descriptor, if that has to be kept.
type payment uint8

const (
	payOrFail payment = iota
	payAnyway         // there is a new file, and it is too late to fail
	paid              // the caller has been charged
)

// opened answers with an open file, through passthrough where that works. If it fails, fd
// is closed.
func (f *FS) opened(n *node, fd int, h *fuse.InHeader, flags uint32, how payment, out *fuse.OpenOut) unix.Errno {
	u := n.uses()
	u.open.mu.Lock()
	defer u.open.mu.Unlock()
	if u.open.count == 0 {
		f.begin(n, &u.open, fd, false)
	}
	keep, alone := f.needsDescriptor(n), u.open.backing == 0
	uid, charged := h.Uid, how == paid
	switch {
	case keep && !charged:
		uid = f.payer(h, f.files.crowded)
		charged = f.files.charge(uid)
		switch {
		case charged || how == payAnyway:
		case !alone && !f.remoteData && !f.asCallers:
			keep = false // it is opened again by its name
		default:
			if u.open.count == 0 {
				f.idle(n, &u.open)
			}
			unix.Close(fd)
			return unix.ENFILE
		}
	case !keep && charged:
		f.files.uncharge(uid)
		charged = false
	}
	out.Fh = f.files.add(n, fd, f.reopenFlags(n, flags), uid, keep, charged, alone).handle
	f.attach(n, u, flags, out)
	return 0
}

// attach counts an open file, and tells the kernel what it can do by itself. u.open.mu
// is held.
func (f *FS) attach(n *node, u *usage, flags uint32, out *fuse.OpenOut) {
	if !f.remoteData && !f.flushes(n, out.Fh) {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
	u.open.count++
	if u.open.backing == 0 {
		if f.passOff.Load() && f.keepsData(n, u) {
			out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
		}
		return
	}
	out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	out.BackingID = u.open.backing
	if access := flags & unix.O_ACCMODE; access != unix.O_RDONLY {
		if u.writers.Add(1) == 1 {
			u.unkept.Store(false)
		}
		if access == unix.O_RDWR {
			f.watch.forget(n.id, false) // stores to a mapping are reported to nobody
		}
	}
}

// Release implements fuse.RawFileSystem.
func (f *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if f.cache.Mode == CacheExclusive {
		return
	}
	n := f.nodes.get(in.NodeId)
	last := false
	if n != nil {
		u := n.uses()
		u.open.mu.Lock()
		u.open.count--
		if u.open.backing != 0 && in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
			u.writers.Add(-1)
		}
		if u.open.count == 0 {
			if u.open.nameless {
				f.pinNameless(n, in.Fh)
				u.open.nameless = false
			}
			f.idle(n, &u.open)
			last, u.open.last = u.open.last, false
		}
		u.open.mu.Unlock()
		f.releaseLocks(n, in.Fh)
	}
	if o := f.files.get(in.Fh); o != nil {
		f.files.remove(o)
	}
	if last {
		f.fds.leave(n)
	}
}

// Flush implements fuse.RawFileSystem: what close(2) would report.
func (f *FS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if f.cache.Mode == CacheExclusive {
		return fuse.ENOSYS
	}
	if n := f.nodes.get(in.NodeId); n != nil {
		f.flushLocks(n, in.LockOwner)
	}
	o := f.files.get(in.Fh)
	if o == nil {
		return fuse.Status(unix.EBADF)
	}
	fd, ok := f.files.borrow(o)
	if !ok {
		return fuse.OK // nothing has been written by it
	}
	defer f.files.giveBack(o)
	again, errno := sys.Duplicate(fd)
	if errno != 0 {
		return fuse.Status(errno)
	}
	return fuse.Status(sys.Errno(unix.Close(again)))
}

// Read implements fuse.RawFileSystem.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	// splice(2) may give less than there is where not all of it is in memory,
	// and for the kernel an answer that is too short is the end of the file.
	u := f.data(in.NodeId, in.Fh, readable)
	if u.errno != 0 {
		return nil, fuse.Status(u.errno)
	}
	defer u.done()
	if u.file != nil && !f.remoteData && f.files.staysOpen(u.file) {
		return fuse.ReadResultFd(uintptr(u.fd), int64(in.Offset), len(buf)), fuse.OK
	}
	n, errno := readFull(u.fd, buf, int64(in.Offset))
	if errno != 0 {
		return nil, fuse.Status(errno)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// readFull reads until buf is full or the file ends. What was read before an error
// is asked for again, by smaller requests.
func readFull(fd int, buf []byte, offset int64) (n int, errno unix.Errno) {
	for n < len(buf) {
		more, err := unix.Pread(fd, buf[n:], offset+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, sys.Errno(err)
		case more == 0:
			return n, 0
		default:
			n += more
		}
	}
	return n, 0
}

// Write implements fuse.RawFileSystem.
func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	u := f.data(in.NodeId, in.Fh, writable)
	if u.errno == 0 && in.WriteFlags&fuse.WRITE_CACHE != 0 {
		u = f.positioned(u)
	}
	if u.errno != 0 {
		return 0, fuse.Status(u.errno)
	}
	defer u.done()
	written := 0
	write := func() unix.Errno {
		for written < len(data) {
			n, err := unix.Pwrite(u.fd, data[written:], int64(in.Offset)+int64(written))
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return sys.Errno(err)
			}
			if n == 0 {
				return 0
			}
			written += n
		}
		return 0
	}
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		if n := f.nodes.get(in.NodeId); n != nil {
			now := write
			write = func() unix.Errno { return f.keepFileCap(n, u.fd, invalidID, invalidID, now) }
		}
	}
	errno := f.alter(in.Pid, u.fd, kernelVerdict(in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0), write)
	if written > 0 {
		errno = 0
	}
	return uint32(written), fuse.Status(errno)
}

// positioned returns a descriptor on which pwrite(2) obeys its offset: with
// O_APPEND it does not. What the kernel writes back of a mapping has its place,
// and comes by any descriptor of the file that it finds.
func (f *FS) positioned(u use) use {
	flags, err := unix.FcntlInt(uintptr(u.fd), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_APPEND == 0 {
		return u
	}
	defer u.done()
	var st unix.Stat_t
	if errno := sys.Stat(u.fd, &st); errno != 0 {
		return use{fd: -1, errno: errno}
	}
	own := use{fd: -1}
	err = f.asOwner(&st, func() error {
		own.fd, own.errno = sys.Reopen(u.fd, unix.O_WRONLY|unix.O_NONBLOCK)
		return nil
	})
	if err != nil {
		return use{fd: -1, errno: unix.EIO}
	}
	return own
}

// Writev implements fuse.RawFileSystem: ENOSYS has Write called.
func (f *FS) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// Fsync implements fuse.RawFileSystem.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	u := f.data(in.NodeId, in.Fh, readable)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	return fsync(u.fd, in.FsyncFlags)
}

func fsync(fd int, flags uint32) fuse.Status {
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	if flags&dataOnly != 0 {
		return fuse.Status(sys.Errno(unix.Fdatasync(fd)))
	}
	return fuse.Status(sys.Errno(unix.Fsync(fd)))
}

// Fallocate implements fuse.RawFileSystem.
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	u := f.data(in.NodeId, in.Fh, writable)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	return fuse.Status(f.alter(in.Pid, u.fd, askCaller, func() unix.Errno {
		return sys.Errno(unix.Fallocate(u.fd, in.Mode, int64(in.Offset), int64(in.Length)))
	}))
}

// Lseek implements fuse.RawFileSystem: SEEK_DATA and SEEK_HOLE, the kernel does
// the others. With CacheExclusive it has to do all of them, since it does not
// write back what it has before it asks: new data would be a hole here.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if f.cache.Mode == CacheExclusive {
		return fuse.ENOSYS // all of a file is data then
	}
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.Status(unix.EINVAL)
	}
	u := f.data(in.NodeId, in.Fh, readable)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	at, err := unix.Seek(u.fd, int64(in.Offset), int(in.Whence))
	if err != nil {
		return fuse.Status(sys.Errno(err))
	}
	out.Offset = uint64(at)
	return fuse.OK
}

// copyPiece is how much is copied between two looks at the clock, where a request has a limit.
const copyPiece = 16 << 20

// timeoutShare is how long a request that can be left unfinished goes on.
func (f *FS) timeoutShare() time.Duration { return time.Duration(f.timeout) * time.Second / 4 }

// CopyFileRange implements fuse.RawFileSystem.
func (f *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := int64(in.OffIn), int64(in.OffOut)
	// The answer has 32 bits.
	length := int(min(in.Len, 1<<30))
	source := f.data(in.NodeId, in.FhIn, readable)
	if source.errno != 0 {
		return 0, fuse.Status(source.errno)
	}
	defer source.done()
	target := f.data(in.NodeIdOut, in.FhOut, writable)
	if target.errno != 0 {
		return 0, fuse.Status(target.errno)
	}
	defer target.done()
	n := 0
	errno := f.alter(in.Pid, target.fd, askCaller, func() unix.Errno {
		for began := time.Now(); n < length; {
			piece := length - n
			if f.timeout > 0 {
				piece = min(piece, copyPiece)
			}
			more, err := unix.CopyFileRange(source.fd, &from, target.fd, &to, piece, int(in.Flags))
			if err != nil {
				return sys.Errno(err)
			}
			n += more
			if more < copyPiece || time.Since(began) > f.timeoutShare() {
				break
			}
		}
		return 0
	})
	if errno != 0 && n == 0 {
		return 0, fuse.Status(errno)
	}
	return uint32(n), fuse.OK
}
