package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os/exec"
	"sort"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rareScenarios: calls that few programs make, and corners of others.
func rareScenarios() []*Scenario {
	var out []*Scenario
	add := func(name string, setup func(*Disk), op func(*Env)) {
		out = append(out, &Scenario{Name: "rare/" + name, Setup: setup, Op: op})
	}
	one := func(d *Disk) { d.File("f", "AA", 0o666) }
	for _, own := range []string{"AA", "BB"} {
		add("link-after-write/own="+own, func(d *Disk) {
			for _, name := range linkChanges {
				d.File(name, own, 0o6777)
			}
		}, linkAfterWrite)
	}
	add("vectors", one, vectors)
	add("far", one, farAway)
	add("unshare", one, unshare)
	add("statx-attributes", func(d *Disk) { d.File("f", "AA", 0o666); d.noDump("f") }, statxAttributes)
	add("extents", one, whereBlocksLie)
	add("poll", one, pollFiles)
	add("busy-text", func(d *Disk) { d.Program("cat", "AA", 0o777) }, busyText)
	for _, own := range []string{"AA", "BB", "UU"} {
		add("execveat/own="+own, func(d *Disk) {
			d.Program("cat", own, 0o777)
			d.Program("only", own, 0o711)
			d.Script("script", own, 0o755)
			d.File("plain", own, 0o644)
			d.Mkdir("d", own, 0o755)
			d.Symlink("cat", "l", own)
		}, execveat)
	}
	add("inode-numbers", func(d *Disk) {
		d.File("f", "AA", 0o666)
		d.Mkdir("d", "AA", 0o777)
		d.Symlink("f", "l", "AA")
		d.Link("f", "d/h")
	}, inodeNumbers)
	add("access-time", func(d *Disk) {
		d.File("f", "AA", 0o666)
		d.Mkdir("d", "AA", 0o777)
		d.Symlink("f", "l", "AA")
		old := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9 + 1}}
		for _, name := range []string{"f", "d", "l"} {
			d.Times(name, old)
		}
	}, accessTimes)
	add("names", one, oddNames)
	add("open-links", func(d *Disk) {
		d.File("f", "AA", 0o666)
		d.Symlink("f", "l", "BB")
		d.Symlink("new", "dangling", "AA")
		d.Symlink("new2", "dangling2", "AA")
	}, openLinks)
	add("many-xattrs", one, manyXattrs)
	add("fanotify", one, fanotify)
	return out
}

// linkChanges are what takes the set-id bits of a file by its descriptor.
var linkChanges = []string{"write", "fallocate", "ftruncate", "fchown"}

// linkAfterWrite gives a file that has just lost its set-id bits another name,
// which files that have them don't get from everybody.
func linkAfterWrite(e *Env) {
	for _, name := range linkChanges {
		fd := e.Open("open "+name, name, unix.O_RDWR, 0)
		if fd < 0 {
			continue
		}
		var err error
		switch name {
		case "write":
			_, err = unix.Write(fd, []byte("x"))
		case "fallocate":
			err = unix.Fallocate(fd, 0, 0, 10)
		case "ftruncate":
			err = unix.Ftruncate(fd, 5)
		case "fchown":
			err = unix.Fchown(fd, -1, e.GID('A'))
		}
		e.Did(name, err)
		link := func() error {
			err := unix.Linkat(unix.AT_FDCWD, procFd(fd), unix.AT_FDCWD, "linked", unix.AT_SYMLINK_FOLLOW)
			_ = unix.Unlink("linked")
			return err
		}
		e.Did("link after "+name, link())
		e.Mode("after "+name, name)
		err = link()
		// What the disk was prepared by may be reported only now, and the kernel
		// then does not believe an answer that was under way.
		for try := 0; err == unix.EPERM && try < 10; try++ {
			time.Sleep(time.Millisecond)
			var st unix.Stat_t
			_ = unix.Fstat(fd, &st)
			err = link()
		}
		e.Did("link again after "+name, err)
	}
}

func vectors(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	if fd < 0 {
		return
	}
	bufs := [][]byte{make([]byte, 3), nil, make([]byte, 100)}
	n, err := unix.Readv(fd, bufs)
	e.Saw("readv", fmt.Sprintf("%d %s %q", n, ErrText(err), bytes.TrimRight(bytes.Join(bufs, nil), "\x00")))
	n, err = unix.Preadv(fd, bufs, 5)
	e.Saw("preadv", fmt.Sprint(n, " ", ErrText(err)))
	n, err = unix.Preadv2(fd, bufs, -1, 0)
	e.Saw("preadv2 at the position", fmt.Sprint(n, " ", ErrText(err)))
	_, err = unix.Preadv2(fd, bufs, 0, 0x4000)
	e.Did("preadv2 with odd flags", err)
	n, err = unix.Pwritev(fd, [][]byte{[]byte("ab"), nil, []byte("c")}, 2)
	e.Saw("pwritev", fmt.Sprint(n, " ", ErrText(err)))
	_, err = unix.Pread(fd, make([]byte, 1), -1)
	e.Did("pread before the start", err)
	_, err = unix.Pwrite(fd, []byte("x"), -1)
	e.Did("pwrite before the start", err)
	e.Did("sync_file_range", unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
	e.Did("fadvise", unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
	e.Did("fadvise odd", unix.Fadvise(fd, 0, 0, 77))
	_, _, errno := unix.Syscall(unix.SYS_READAHEAD, uintptr(fd), 0, 4096)
	e.Saw("readahead", fmt.Sprint(int(errno)))
	at, err := unix.Seek(fd, -1, unix.SEEK_SET)
	e.Saw("seek before the start", fmt.Sprint(at, " ", ErrText(err)))
	_, err = unix.Seek(fd, 0, 9)
	e.Did("seek odd", err)
	e.Did("truncate below 0", unix.Ftruncate(fd, -1))
	dir := e.Open("open directory", ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	_, err = unix.Read(dir, make([]byte, 10))
	e.Did("read directory", err)
	_, err = unix.Getdents(fd, make([]byte, 1000))
	e.Did("list file", err)
}

// farAway is behind the first 4 GiB.
func farAway(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	to := e.Open("create", "to", unix.O_CREAT|unix.O_RDWR, 0o666)
	if fd < 0 || to < 0 {
		return
	}
	const far = 5 << 30
	_, err := unix.Pwrite(fd, []byte("far away"), far)
	e.Did("write", err)
	from, at := int64(far), int64(6<<30)
	n, err := unix.CopyFileRange(fd, &from, to, &at, 8, 0)
	e.Saw("copy", fmt.Sprint(n, " ", ErrText(err), " ", from, " ", at))
	m, err := unix.Mmap(fd, far, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	e.Did("map", err)
	if err == nil {
		e.Saw("mapped", string(m))
		m[0] = 'F'
		e.Did("msync", unix.Msync(m, unix.MS_SYNC))
		_ = unix.Munmap(m)
	}
	buf := make([]byte, 8)
	_, err = unix.Pread(fd, buf, far)
	e.Saw("read", fmt.Sprintf("%q %s", buf, ErrText(err)))
	e.Did("punch", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, far, 4096))
	_, err = unix.Pread(fd, buf, far)
	e.Saw("punched", fmt.Sprintf("%q %s", buf, ErrText(err)))
	e.Did("grow", unix.Ftruncate(fd, 7<<30))
	var st unix.Stat_t
	e.Did("stat", unix.Fstat(fd, &st))
	e.Saw("size", fmt.Sprint(st.Size))
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: far, Len: 1 << 33}
	e.Did("lock", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lock))
	e.Did("too far", unix.Ftruncate(fd, 1<<62))
}

func unshare(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	if fd < 0 {
		return
	}
	const unshareRange, writeZeroes = 0x40, 0x80
	e.Did("unshare", unix.Fallocate(fd, unshareRange, 0, 10))
	e.Did("write zeroes", unix.Fallocate(fd, writeZeroes, 0, 10))
}

// noDump sets the flag that dump(8) heeds, if the file system has it.
func (d *Disk) noDump(name string) {
	d.do("flags of "+name, func() error {
		fd, err := unix.Open(d.path(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var flags uint32
		err = ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags))
		flags |= 0x40
		if err == nil {
			err = ioctl(fd, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&flags))
		}
		if err == unix.ENOTTY || err == unix.EOPNOTSUPP {
			return nil
		}
		return err
	})
}

func statxAttributes(e *Env) {
	var sx unix.Statx_t
	e.Did("statx", unix.Statx(unix.AT_FDCWD, "f", 0, unix.STATX_ALL|unix.STATX_DIOALIGN, &sx))
	e.Saw("nodump", fmt.Sprint(sx.Attributes&0x40 != 0))
	e.Saw("known attributes", fmt.Sprintf("%#x", sx.Attributes_mask&0x74))
	e.Saw("alignment", fmt.Sprint(sx.Mask&unix.STATX_DIOALIGN != 0))
}

// whereBlocksLie asks for the blocks of a file.
func whereBlocksLie(e *Env) {
	fd := e.Open("open", "f", unix.O_RDONLY, 0)
	if fd < 0 {
		return
	}
	const fiemap = 0xc020660b
	var request struct {
		start, length               uint64
		flags, mapped, count, spare uint32
	}
	request.length = 1 << 20
	e.Did("fiemap", ioctl(fd, fiemap, unsafe.Pointer(&request)))
	var block uint32
	e.Did("fibmap", ioctl(fd, 1, unsafe.Pointer(&block)))
	var size uint32
	e.Did("figetbsz", ioctl(fd, 2, unsafe.Pointer(&size)))
	e.Did("odd ioctl", ioctl(fd, 0x5401, unsafe.Pointer(&request))) // TCGETS
	var left int32
	e.Did("fionread", ioctl(fd, 0x541b, unsafe.Pointer(&left)))
	e.Saw("fionread is", fmt.Sprint(left))
}

func pollFiles(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	dir := e.Open("open directory", ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if fd < 0 || dir < 0 {
		return
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}, {Fd: int32(dir), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	e.Saw("poll", fmt.Sprint(n, " ", ErrText(err), " ", p[0].Revents, " ", p[1].Revents))
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		e.Did("epoll", err)
		return
	}
	e.fds = append(e.fds, ep)
	e.Did("epoll a file", unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN}))
	e.Did("epoll a directory", unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, dir, &unix.EpollEvent{Events: unix.EPOLLIN}))
}

// busyText writes to a program that runs, and runs one that is written to.
func busyText(e *Env) {
	cmd := exec.Command("./cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		e.Did("pipe", err)
		return
	}
	err = cmd.Start()
	e.Saw("start", fmt.Sprint(err == nil))
	if err != nil {
		return
	}
	e.Open("write while it runs", "cat", unix.O_WRONLY, 0)
	e.Did("truncate while it runs", unix.Truncate("cat", 10))
	e.Open("read while it runs", "cat", unix.O_RDONLY, 0)
	in.Close()
	e.Saw("ended well", fmt.Sprint(cmd.Wait() == nil))
	if fd := e.Open("write", "cat", unix.O_WRONLY, 0); fd >= 0 {
		e.Saw("start while it is written to", fmt.Sprint(exec.Command("./cat").Run()))
		_ = unix.Close(fd)
		e.fds = e.fds[:len(e.fds)-1]
		e.Saw("start after that", fmt.Sprint(exec.Command("./cat").Run()))
	}
}

// execveat runs programs by descriptors. A script is read by its interpreter, by a
// path that leads to the descriptor.
func execveat(e *Env) {
	const (
		text  = "/proc/self/comm"
		check = 0x10000 // AT_EXECVE_CHECK, Linux 6.14
		empty = unix.AT_EMPTY_PATH
	)
	try := func(what string, dirfd int, path string, flags int, keep bool) {
		out, err := outputAt(dirfd, path, flags, keep, text)
		e.Saw(what, fmt.Sprintf("%q %s", out, ErrText(err)))
	}
	for _, name := range []string{"cat", "only", "script", "plain", "d", "l"} {
		if fd := e.Open("open "+name, name, unix.O_PATH|unix.O_NOFOLLOW, 0); fd >= 0 {
			try("exec "+name, fd, "", empty, false)
			try("exec "+name+" kept open", fd, "", empty, true)
			try("check "+name, fd, "", empty|check, false)
		}
		try("exec by name "+name, unix.AT_FDCWD, name, 0, false)
		try("exec by name, not following, "+name, unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, false)
	}
	if dir := e.Open("open directory", ".", unix.O_PATH|unix.O_DIRECTORY, 0); dir >= 0 {
		try("exec in a directory", dir, "cat", 0, false)
		try("exec a script in a directory", dir, "script", 0, false)
		try("exec a script in a directory kept open", dir, "script", 0, true)
		try("exec nothing", dir, "absent", 0, false)
	}
	if fd := e.Open("read script", "script", unix.O_RDONLY, 0); fd >= 0 {
		try("exec the script that is read", fd, "", empty, false)
		try("exec the script that is read and kept open", fd, "", empty, true)
	}
	if fd := e.Open("write", "cat", unix.O_RDWR, 0); fd >= 0 {
		try("exec what is written to", fd, "", empty, false)
		try("check what is written to", fd, "", empty|check, false)
		_ = unix.Close(fd)
		e.fds = e.fds[:len(e.fds)-1]
	}
	if fd := e.Open("open to unlink", "cat", unix.O_PATH, 0); fd >= 0 {
		e.Did("unlink", unix.Unlink("cat"))
		try("exec what has no name", fd, "", empty, false)
	}
}

func inodeNumbers(e *Env) {
	var dir, st unix.Stat_t
	e.Did("stat directory", unix.Stat(".", &dir))
	fd := e.Open("open", ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if fd < 0 {
		return
	}
	buf := make([]byte, 4096)
	n, err := unix.Getdents(fd, buf)
	e.Did("getdents", err)
	var seen []string
	for rest := buf[:max(n, 0)]; len(rest) > 19; {
		size := binary.NativeEndian.Uint16(rest[16:])
		name, _, _ := bytes.Cut(rest[19:size], []byte{0})
		same := "no file"
		if string(name) == ".." {
			same = "not looked at"
		} else if err := unix.Lstat(string(name), &st); err == nil {
			same = fmt.Sprint(st.Ino == binary.NativeEndian.Uint64(rest), " ", st.Dev == dir.Dev)
		}
		seen = append(seen, fmt.Sprintf("%s type %d %s", name, rest[18], same))
		rest = rest[size:]
	}
	sort.Strings(seen)
	e.Saw("entries", strings.Join(seen, ", "))
	ino := func(name string) uint64 {
		var st unix.Stat_t
		_ = unix.Lstat(name, &st)
		return st.Ino
	}
	f, l := ino("f"), ino("l")
	e.Saw("hard link", fmt.Sprint(f == ino("d/h")))
	e.Did("rename", unix.Rename("l", "d/moved"))
	e.Saw("renamed", fmt.Sprint(l == ino("d/moved")))
	e.Did("link", unix.Link("f", "f2"))
	e.Saw("linked", fmt.Sprint(f == ino("f2")))
	e.Did("exchange", unix.Renameat2(unix.AT_FDCWD, "f", unix.AT_FDCWD, "d", unix.RENAME_EXCHANGE))
	e.Saw("exchanged", fmt.Sprint(f == ino("d")))
}

// accessTimes: a first look changes the time of the last one, which lies before
// the last change, but for O_NOATIME.
func accessTimes(e *Env) {
	look := func(what, name string) {
		var st unix.Stat_t
		e.Did("stat", unix.Lstat(name, &st))
		e.Saw("after "+what, timeText(st.Atim)+" "+timeText(st.Mtim))
	}
	if fd := e.Open("open without", "f", unix.O_RDONLY|unix.O_NOATIME, 0); fd >= 0 {
		_, err := unix.Read(fd, make([]byte, 1))
		e.Did("read", err)
		look("reading without", "f")
	}
	if fd := e.Open("open", "f", unix.O_RDONLY, 0); fd >= 0 {
		look("open", "f")
		_, err := unix.Read(fd, make([]byte, 1))
		e.Did("read", err)
		look("reading", "f")
	}
	if fd := e.Open("open directory", "d", unix.O_RDONLY|unix.O_DIRECTORY, 0); fd >= 0 {
		look("open of a directory", "d")
		_, err := unix.Getdents(fd, make([]byte, 1000))
		e.Did("list", err)
		look("listing", "d")
	}
	_, err := unix.Readlink("l", make([]byte, 10))
	e.Did("readlink", err)
	look("readlink", "l")
}

func oddNames(e *Env) {
	long := strings.Repeat("n", 256)
	fits := long[:255]
	e.Did("mkdir long", unix.Mkdir(long, 0o777))
	e.Did("symlink long", unix.Symlink("f", long))
	e.Did("mknod long", unix.Mknod(long, unix.S_IFREG|0o644, 0))
	e.Did("link long", unix.Link("f", long))
	e.Did("rename long", unix.Rename("f", long))
	e.Did("unlink long", unix.Unlink(long))
	e.Did("rmdir long", unix.Rmdir(long))
	var st unix.Stat_t
	e.Did("stat long", unix.Lstat(long, &st))
	e.Did("stat behind long", unix.Lstat(long+"/x", &st))
	e.Did("link", unix.Link("f", fits))
	e.Did("rename", unix.Rename(fits, fits[1:]+"m"))
	e.Did("exchange with itself", unix.Renameat2(unix.AT_FDCWD, "f", unix.AT_FDCWD, fits[1:]+"m", unix.RENAME_EXCHANGE))
	e.Did("unlink", unix.Unlink(fits[1:]+"m"))
	e.Did("mkdir .", unix.Mkdir(".", 0o777))
	e.Did("mkdir ..", unix.Mkdir("..", 0o777))
	e.Did("rmdir .", unix.Rmdir("."))
	e.Did("unlink .", unix.Unlink("."))
	e.Did("rename .", unix.Rename(".", "x"))
	e.Did("rename to .", unix.Rename("f", "."))
	e.Did("empty", unix.Mkdir("", 0o777))
	e.Did("below a file", unix.Mkdir("f/x", 0o777))
	e.Did("odd bytes", unix.Mkdir("\x01\x7f\xc3\x28\\\"'", 0o777))
	e.Did("rename odd bytes", unix.Rename("\x01\x7f\xc3\x28\\\"'", "\xf0\x9f\x98\x80\xff"))
}

func openLinks(e *Env) {
	e.Open("create exclusively", "l", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644)
	e.Open("create exclusively dangling", "dangling", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644)
	e.Open("open dangling", "dangling", unix.O_RDWR, 0)
	e.Open("create without following", "dangling", unix.O_CREAT|unix.O_NOFOLLOW|unix.O_RDWR, 0o644)
	e.Open("create through", "dangling", unix.O_CREAT|unix.O_RDWR, 0o644)
	e.Did("mknod at a link", unix.Mknod("dangling2", unix.S_IFREG|0o644, 0))
	e.Did("mkdir at a link", unix.Mkdir("dangling2", 0o755))
	e.Did("truncate through", unix.Truncate("l", 3))
	e.Open("truncate through by open", "l", unix.O_WRONLY|unix.O_TRUNC, 0)
	e.Open("slash at a link to a file", "l/", unix.O_RDONLY, 0)
	e.Open("unnamed in a file", "f", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	e.Open("unnamed to read", ".", unix.O_TMPFILE|unix.O_RDONLY, 0o600)
	e.Open("directory to write", ".", unix.O_WRONLY, 0)
	e.Open("create a directory", ".", unix.O_CREAT|unix.O_RDONLY, 0o600)
	fd, err := unix.Openat2(unix.AT_FDCWD, "l", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	e.Did("resolve without links", err)
	if err == nil {
		unix.Close(fd)
	}
	fd, err = unix.Openat2(unix.AT_FDCWD, "f", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV})
	e.Did("resolve beneath", err)
	if err == nil {
		unix.Close(fd)
	}
}

func manyXattrs(e *Env) {
	for i := range 12 {
		name := fmt.Sprintf("user.%02d%s", i, strings.Repeat("x", 200))
		e.Did("set", unix.Setxattr("f", name, []byte("v"), 0))
	}
	size, err := unix.Listxattr("f", nil)
	e.Saw("size", fmt.Sprint(size, " ", ErrText(err)))
	for _, room := range []int{size - 1, size, size + 1, 65536} {
		n, err := unix.Listxattr("f", make([]byte, max(room, 1)))
		e.Saw(fmt.Sprint("list in ", room), fmt.Sprint(n, " ", ErrText(err)))
	}
	e.Did("no name", unix.Setxattr("f", "", []byte("v"), 0))
	e.Did("no space of names", unix.Setxattr("f", "name", []byte("v"), 0))
	e.Did("only a space of names", unix.Setxattr("f", "user.", []byte("v"), 0))
	e.Did("odd flags", unix.Setxattr("f", "user.a", []byte("v"), 8))
	e.Did("both flags", unix.Setxattr("f", "user.a", []byte("v"), unix.XATTR_CREATE|unix.XATTR_REPLACE))
	e.Did("absent file", unix.Setxattr("absent", "user.a", []byte("v"), 0))
}

// fanotify watches by file handles, which everybody may.
func fanotify(e *Env) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
	e.Did("init", err)
	if err != nil {
		return
	}
	e.fds = append(e.fds, fd)
	err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_CREATE|unix.FAN_DELETE|unix.FAN_MODIFY|unix.FAN_ATTRIB|unix.FAN_EVENT_ON_CHILD|unix.FAN_ONDIR, unix.AT_FDCWD, ".")
	e.Did("mark", err)
	if err != nil {
		return
	}
	e.Did("mknod", unix.Mknod("new", unix.S_IFREG|0o644, 0))
	if w := e.Open("open", "f", unix.O_WRONLY, 0); w >= 0 {
		_, err := unix.Write(w, []byte("x"))
		e.Did("write", err)
	}
	e.Did("chmod", unix.Chmod("f", 0o600))
	e.Did("unlink", unix.Unlink("new"))
	var masks []string
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	e.Did("events", err)
	for rest := buf[:max(n, 0)]; len(rest) >= 24; {
		size := binary.NativeEndian.Uint32(rest)
		masks = append(masks, fmt.Sprintf("%#x", binary.NativeEndian.Uint64(rest[8:])))
		rest = rest[size:]
	}
	e.Saw("events are", strings.Join(masks, " "))
}
