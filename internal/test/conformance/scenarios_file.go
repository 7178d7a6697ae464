package conformance

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// fileScenarios: what programs do with files once they are open.
func fileScenarios() []*Scenario {
	var out []*Scenario
	for _, own := range owners {
		out = append(out, &Scenario{
			Name:  "lease/own=" + own,
			Setup: func(d *Disk) { d.File("f", own, 0o644) },
			Op: func(e *Env) {
				fd := e.Open("open", "f", unix.O_RDONLY, 0)
				if fd < 0 {
					return
				}
				_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
				e.Did("lease", err)
				_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
				e.Did("give up", err)
			},
		})
	}
	plain := func(name string, setup func(*Disk), op func(*Env)) {
		out = append(out, &Scenario{Name: "file/" + name, Setup: setup, Op: op})
	}
	one := func(d *Disk) { d.File("f", "AA", 0o666) }
	plain("read-write", one, readAndWrite)
	plain("seek", one, seekHoles)
	plain("seek-written", one, seekWritten)
	plain("same-size", one, sameSize)
	plain("late-capability", one, lateCapability)
	plain("fallocate", one, fallocateModes)
	plain("locks", one, locks)
	plain("unlinked", one, func(e *Env) {
		fd := e.Open("open", "f", unix.O_RDWR, 0)
		e.Did("unlink", unix.Unlink("f"))
		if fd < 0 {
			return
		}
		_, err := unix.Pwrite(fd, []byte("still"), 0)
		e.Did("write", err)
		buf := make([]byte, 5)
		_, err = unix.Pread(fd, buf, 0)
		e.Did("read", err)
		e.Saw("data", string(buf))
		e.Did("fchmod", unix.Fchmod(fd, 0o600))
		var st unix.Stat_t
		e.Did("fstat", unix.Fstat(fd, &st))
		e.Saw("stat", fmt.Sprintf("%#o nlink %d size %d", st.Mode, st.Nlink, st.Size))
		e.Did("ftruncate", unix.Ftruncate(fd, 2))
	})
	plain("names", func(d *Disk) {}, func(e *Env) {
		for _, name := range []string{
			strings.Repeat("n", 255), strings.Repeat("n", 256), "bad\xff\xfeutf8", "new\nline", " ", "...", "ä",
		} {
			label := fmt.Sprintf("%.12q of %d bytes", name, len(name))
			if fd := e.Open("create "+label, name, unix.O_CREAT|unix.O_WRONLY, 0o644); fd >= 0 {
				var st unix.Stat_t
				e.Did("stat "+label, unix.Lstat(name, &st))
			}
		}
		deep := ""
		for i := range 20 {
			deep += strings.Repeat("d", 100) + "/"
			e.Did(fmt.Sprintf("mkdir depth %d", i), unix.Mkdir(deep, 0o777))
		}
	})
	plain("large-directory", func(d *Disk) {
		d.Mkdir("d", "AA", 0o777)
		for i := range 300 {
			d.File(fmt.Sprintf("d/file-with-a-longer-name-%03d", i), "AA", 0o644)
		}
	}, func(e *Env) {
		entries, err := os.ReadDir("d")
		e.Did("read", err)
		e.Saw("count", fmt.Sprint(len(entries)))
		for i := 0; i < 300; i += 2 {
			_ = unix.Unlink(fmt.Sprintf("d/file-with-a-longer-name-%03d", i))
		}
		entries, err = os.ReadDir("d")
		e.Did("read again", err)
		var names []string
		for _, x := range entries {
			names = append(names, x.Name()[len(x.Name())-3:])
		}
		sort.Strings(names)
		e.Saw("left", strings.Join(names, " "))
	})
	plain("nodes", func(d *Disk) {
		d.Node("null", "AA", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
		d.Node("fifo", "AA", unix.S_IFIFO|0o666, 0)
		d.Node("socket", "AA", unix.S_IFSOCK|0o666, 0)
		d.Symlink("null", "link", "BB")
		d.Symlink("link", "link2", "UU")
		d.Symlink("loop", "loop", "AA")
	}, func(e *Env) {
		for _, name := range []string{"null", "link", "link2", "loop", "socket"} {
			if fd := e.Open("open "+name, name, unix.O_RDWR, 0); fd >= 0 {
				_, err := unix.Write(fd, []byte("gone"))
				e.Did("write "+name, err)
			}
		}
		e.Open("open fifo without reader", "fifo", unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if fd := e.Open("open fifo", "fifo", unix.O_RDWR|unix.O_NONBLOCK, 0); fd >= 0 {
			_, err := unix.Write(fd, []byte("through"))
			e.Did("write fifo", err)
			buf := make([]byte, 10)
			n, err := unix.Read(fd, buf)
			e.Did("read fifo", err)
			e.Saw("fifo data", string(buf[:max(n, 0)]))
		}
		e.Open("nofollow", "link", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		bindSocket(e)
	})
	plain("stat", one, func(e *Env) {
		var sx unix.Statx_t
		e.Did("statx", unix.Statx(unix.AT_FDCWD, "f", 0, unix.STATX_ALL, &sx))
		e.Saw("statx", fmt.Sprintf("%#o %d:%d nlink %d size %d blocks>0 %v", sx.Mode, sx.Uid, sx.Gid, sx.Nlink, sx.Size, sx.Blksize > 0))
		var fs unix.Statfs_t
		e.Did("statfs", unix.Statfs("f", &fs))
		e.Saw("statfs", fmt.Sprintf("name length %d, block size %d, blocks %d", fs.Namelen, fs.Bsize, fs.Blocks))
	})
	plain("sparse", func(d *Disk) { d.File("f", "AA", 0o666) }, func(e *Env) {
		fd := e.Open("open", "f", unix.O_RDWR, 0)
		if fd < 0 {
			return
		}
		const far = 5 << 30
		_, err := unix.Pwrite(fd, []byte("far"), far)
		e.Did("write far", err)
		buf := make([]byte, 8)
		n, err := unix.Pread(fd, buf, far-2)
		e.Did("read far", err)
		e.Saw("far", fmt.Sprintf("%q", buf[:max(n, 0)]))
		e.Did("truncate back", unix.Ftruncate(fd, 10))
	})
	return out
}

func readAndWrite(e *Env) {
	for _, o := range []struct {
		name  string
		flags int
	}{{"plain", 0}, {"sync", unix.O_SYNC}, {"dsync", unix.O_DSYNC}, {"append", unix.O_APPEND}} {
		fd := e.Open("open "+o.name, "f", unix.O_RDWR|o.flags, 0)
		if fd < 0 {
			continue
		}
		n, err := unix.Write(fd, []byte("hello "+o.name))
		e.Saw("write "+o.name, fmt.Sprint(n, " ", ErrText(err)))
		n, err = unix.Writev(fd, [][]byte{[]byte("ab"), nil, []byte("cde")})
		e.Saw("writev "+o.name, fmt.Sprint(n, " ", ErrText(err)))
		n, err = unix.Pwrite(fd, []byte("PW"), 1)
		e.Saw("pwrite "+o.name, fmt.Sprint(n, " ", ErrText(err)))
		buf := make([]byte, 100)
		n, err = unix.Pread(fd, buf, 0)
		e.Saw("pread "+o.name, fmt.Sprintf("%q %s", buf[:max(n, 0)], ErrText(err)))
		n, err = unix.Pread(fd, buf, 1000)
		e.Saw("read behind the end "+o.name, fmt.Sprint(n, " ", ErrText(err)))
		e.Did("fsync "+o.name, unix.Fsync(fd))
		e.Did("fdatasync "+o.name, unix.Fdatasync(fd))
	}
	rd := e.Open("open to read", "f", unix.O_RDONLY, 0)
	if rd < 0 {
		return
	}
	_, err := unix.Write(rd, []byte("x"))
	e.Did("write to a read-only descriptor", err)
	m, err := unix.Mmap(rd, 0, 10, unix.PROT_READ, unix.MAP_PRIVATE)
	e.Did("map privately", err)
	if err == nil {
		e.Saw("mapped", fmt.Sprintf("%q", bytes.TrimRight(m, "\x00")))
		_ = unix.Munmap(m)
	}
	if to := e.Open("create copy", "copy", unix.O_CREAT|unix.O_RDWR, 0o644); to >= 0 {
		n, err := unix.CopyFileRange(rd, nil, to, nil, 5, 0)
		e.Saw("copy_file_range", fmt.Sprint(n, " ", ErrText(err)))
		off := int64(2)
		n, err = unix.Sendfile(to, rd, &off, 5)
		e.Saw("sendfile", fmt.Sprint(n, " ", ErrText(err)))
		e.Did("syncfs", unix.Syncfs(to))
	}
	dir := e.Open("open directory", ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if dir >= 0 {
		e.Did("fsync directory", unix.Fsync(dir))
	}
}

func seekHoles(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	if fd < 0 {
		return
	}
	e.Did("empty", unix.Ftruncate(fd, 0))
	_, err := unix.Pwrite(fd, bytes.Repeat([]byte{1}, 65536), 1<<20)
	e.Did("write", err)
	e.Did("grow", unix.Ftruncate(fd, 4<<20))
	for _, s := range []struct {
		what   string
		from   int64
		whence int
	}{
		{"data", 0, unix.SEEK_DATA}, {"hole", 0, unix.SEEK_HOLE}, {"hole after data", 1 << 20, unix.SEEK_HOLE},
		{"data at the end", 2 << 20, unix.SEEK_DATA}, {"data behind", 8 << 20, unix.SEEK_DATA}, {"end", -1, unix.SEEK_END},
	} {
		n, err := unix.Seek(fd, s.from, s.whence)
		e.Saw("seek "+s.what, fmt.Sprint(n, " ", ErrText(err)))
	}
}

// seekWritten looks for data that was written just now, and may be nowhere but in
// the kernel's memory.
func seekWritten(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR|unix.O_TRUNC, 0)
	if fd < 0 {
		return
	}
	_, err := unix.Pwrite(fd, bytes.Repeat([]byte{1}, 5000), 0)
	e.Did("write", err)
	for _, s := range []struct {
		from   int64
		whence int
	}{{0, unix.SEEK_DATA}, {4096, unix.SEEK_DATA}, {5000, unix.SEEK_DATA}, {0, unix.SEEK_HOLE}} {
		n, err := unix.Seek(fd, s.from, s.whence)
		e.Saw(fmt.Sprint("seek ", s.whence, " ", s.from), fmt.Sprint(n, " ", ErrText(err)))
	}
}

// sameSize truncates a file to the size that it has, which on some file systems
// leaves its times.
func sameSize(e *Env) {
	var st unix.Stat_t
	e.Did("stat", unix.Stat("f", &st))
	look := func(what string, truncate func() error) {
		old := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
		e.Did("times", unix.UtimesNanoAt(unix.AT_FDCWD, "f", old, 0))
		e.Did(what, truncate())
		var now unix.Stat_t
		e.Did("stat", unix.Stat("f", &now))
		e.Saw(what+" leaves the time", fmt.Sprint(now.Mtim == old[0]))
	}
	look("truncate", func() error { return unix.Truncate("f", st.Size) })
	fd := e.Open("open", "f", unix.O_WRONLY, 0)
	if fd < 0 {
		return
	}
	look("ftruncate", func() error { return unix.Ftruncate(fd, st.Size) })
}

// lateCapability gives a file capabilities before what was written to it is on
// disk, which they have to outlive, and writes once more, which they have not.
func lateCapability(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	if fd < 0 {
		return
	}
	look := func(what string) {
		_, err := unix.Fgetxattr(fd, "security.capability", make([]byte, 24))
		e.Did(what, err)
	}
	write := func() {
		_, err := unix.Pwrite(fd, []byte("new"), 0)
		e.Did("write", err)
	}
	write()
	e.Did("set", unix.Fsetxattr(fd, "security.capability", CapNetRaw(2, 0), 0))
	look("before fsync")
	e.Did("fsync", unix.Fsync(fd))
	look("after fsync")
	write()
	look("after write")
	e.Did("fsync", unix.Fsync(fd))
	look("at last")
}

func fallocateModes(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	if fd < 0 {
		return
	}
	_, err := unix.Write(fd, bytes.Repeat([]byte("0123456789abcdef"), 2048))
	e.Did("write", err)
	for _, m := range []struct {
		name string
		mode uint32
	}{
		{"plain", 0}, {"keep size", unix.FALLOC_FL_KEEP_SIZE},
		{"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}, {"zero", unix.FALLOC_FL_ZERO_RANGE},
		{"collapse", unix.FALLOC_FL_COLLAPSE_RANGE}, {"insert", unix.FALLOC_FL_INSERT_RANGE},
	} {
		err := unix.Fallocate(fd, m.mode, 4096, 8192)
		if err == unix.EOPNOTSUPP || m.mode == unix.FALLOC_FL_COLLAPSE_RANGE || m.mode == unix.FALLOC_FL_INSERT_RANGE {
			// FUSE has no request for the last two and answers for itself.
			continue
		}
		e.Did("fallocate "+m.name, err)
		e.Mode("after "+m.name, "f")
	}
	buf := make([]byte, 16)
	_, err = unix.Pread(fd, buf, 4096)
	e.Saw("zeroed", fmt.Sprintf("%x %s", buf, ErrText(err)))
}

// locks tries locks of two descriptors of one process: OFD and flock locks
// conflict there, POSIX ones do not.
func locks(e *Env) {
	a := e.Open("open a", "f", unix.O_RDWR, 0)
	b := e.Open("open b", "f", unix.O_RDWR, 0)
	if a < 0 || b < 0 {
		return
	}
	lock := func(typ int16) *unix.Flock_t { return &unix.Flock_t{Type: typ, Start: 1, Len: 5} }
	e.Did("posix a", unix.FcntlFlock(uintptr(a), unix.F_SETLK, lock(unix.F_WRLCK)))
	e.Did("posix b", unix.FcntlFlock(uintptr(b), unix.F_SETLK, lock(unix.F_WRLCK)))
	e.Did("ofd against posix", unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, lock(unix.F_WRLCK)))
	e.Did("posix unlock", unix.FcntlFlock(uintptr(a), unix.F_SETLK, lock(unix.F_UNLCK)))
	e.Did("ofd a", unix.FcntlFlock(uintptr(a), unix.F_OFD_SETLK, lock(unix.F_RDLCK)))
	e.Did("ofd b", unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, lock(unix.F_WRLCK)))
	get := lock(unix.F_WRLCK)
	e.Did("ofd get", unix.FcntlFlock(uintptr(b), unix.F_OFD_GETLK, get))
	e.Saw("ofd got", fmt.Sprint(get.Type, " ", get.Start, " ", get.Len))
	e.Did("ofd unlock", unix.FcntlFlock(uintptr(a), unix.F_OFD_SETLK, lock(unix.F_UNLCK)))
	e.Did("flock a", unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB))
	e.Did("flock b", unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB))
	e.Did("flock unlock", unix.Flock(a, unix.LOCK_UN))
	e.Did("flock b again", unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB))
}

func bindSocket(e *Env) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		e.Did("socket", err)
		return
	}
	e.fds = append(e.fds, fd)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: "bound"})
	e.Did("bind", err)
	if err != nil {
		return
	}
	e.Did("listen", unix.Listen(fd, 1))
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	e.fds = append(e.fds, c)
	e.Did("connect", unix.Connect(c, &unix.SockaddrUnix{Name: "bound"}))
}
