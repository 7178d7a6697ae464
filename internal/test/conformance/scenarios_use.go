package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// useScenarios: calls that programs make more seldom.
func useScenarios() []*Scenario {
	var out []*Scenario
	add := func(name string, setup func(*Disk), op func(*Env)) {
		out = append(out, &Scenario{Name: "use/" + name, Setup: setup, Op: op})
	}
	one := func(d *Disk) { d.File("f", "AA", 0o666) }
	add("inotify", one, watch)
	add("inotify-file", func(d *Disk) { d.File("f", "AA", 0o666); d.Mkdir("d", "AA", 0o777) }, watchFile)
	add("inotify-xattr", func(d *Disk) { d.File("f", "AA", 0o666); d.Mkdir("d", "AA", 0o777) }, watchXattrs)
	add("handles", func(d *Disk) { d.File("f", "AA", 0o666); d.File("gone", "AA", 0o666); d.Mkdir("d", "AA", 0o777) }, handles)
	add("clone", func(d *Disk) { d.File("f", "AA", 0o666); d.File("to", "AA", 0o666) }, clone)
	add("copy-range", func(d *Disk) { d.File("f", "AA", 0o666); d.File("to", "AA", 0o666) }, copyRanges)
	add("splice", func(d *Disk) { d.File("f", "AA", 0o666); d.File("to", "AA", 0o666) }, splice)
	add("map", one, maps)
	add("direct", one, direct)
	add("path-descriptor", func(d *Disk) { d.File("f", "AA", 0o666); d.Mkdir("d", "AA", 0o777); d.Symlink("f", "l", "AA") }, pathDescriptors)
	add("seekdir", func(d *Disk) {
		for i := range 200 {
			d.File(fmt.Sprintf("entry-%03d", i), "AA", 0o666)
		}
	}, seekDir)
	add("listing", func(d *Disk) {
		d.Mkdir("d", "AA", 0o777)
		for i := range listed {
			for _, kind := range []string{"stays", "goes", "moves"} {
				d.Node("d/"+listedName(kind, i), "AA", unix.S_IFREG|0o600, 0)
			}
		}
	}, listing)
	add("path-max", func(*Disk) {}, longPaths)
	add("append", one, appending)
	add("fallocate-moves", one, func(e *Env) {
		fd := e.Open("open", "f", unix.O_RDWR, 0)
		if fd < 0 {
			return
		}
		_, err := unix.Write(fd, bytes.Repeat([]byte("0123456789abcdef"), 2048))
		e.Did("write", err)
		e.Did("collapse", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 4096, 8192))
		e.Did("insert", unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, 4096, 8192))
		e.Did("odd mode", unix.Fallocate(fd, 0x4000, 0, 1))
		e.Did("punch without keep size", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, 0, 1))
		e.Did("length 0", unix.Fallocate(fd, 0, 0, 0))
	})
	add("times", one, oddTimes)
	add("statx", one, statxMore)
	for _, own := range owners {
		out = append(out, &Scenario{
			Name:  "use-project/own=" + own,
			Setup: func(d *Disk) { d.File("f", own, 0o666); d.Mkdir("d", own, 0o777) },
			Op:    projects,
		})
	}
	return out
}

func watch(e *Env) {
	fd := e.inotify(".", "f")
	if fd < 0 {
		return
	}
	if w := e.Open("create", "new", unix.O_CREAT|unix.O_RDWR, 0o666); w >= 0 {
		_, err := unix.Write(w, []byte("x"))
		e.Did("write", err)
		_, err = unix.Pread(w, make([]byte, 1), 0)
		e.Did("read", err)
		e.Did("truncate", unix.Ftruncate(w, 0))
	}
	e.Did("chmod", unix.Chmod("f", 0o600))
	e.Did("link", unix.Link("f", "f2"))
	e.Did("rename", unix.Rename("f2", "f3"))
	e.Did("unlink", unix.Unlink("f3"))
	e.Did("mkdir", unix.Mkdir("d", 0o777))
	e.Did("rmdir", unix.Rmdir("d"))
	e.Did("setxattr", unix.Setxattr("f", "user.x", []byte("v"), 0))
	e.Did("truncate path", unix.Truncate("f", 2))
	e.Did("unlink watched", unix.Unlink("f"))
	e.events(fd)
}

// watchFile is about what can be done to a file that leaves its name.
func watchFile(e *Env) {
	fd := e.inotify("f", "d")
	if fd < 0 {
		return
	}
	for _, o := range []struct {
		name  string
		flags int
		use   func(fd int)
	}{
		{"to read", unix.O_RDONLY, func(int) {}},
		{"to write", unix.O_WRONLY, func(int) {}},
		{"by a path descriptor", unix.O_PATH, func(int) {}},
		{"to truncate", unix.O_WRONLY | unix.O_TRUNC, func(int) {}},
		{"and change", unix.O_RDWR, func(fd int) {
			_, err := unix.Write(fd, []byte("text"))
			e.Did("write", err)
			e.Did("fchmod", unix.Fchmod(fd, 0o666))
			e.Did("fchown", unix.Fchown(fd, -1, e.GID('A')))
			to := int64(100)
			_, err = unix.CopyFileRange(fd, new(int64), fd, &to, 2, 0)
			e.Did("copy", err)
		}},
	} {
		w, err := unix.Open("f", o.flags|unix.O_CLOEXEC, 0)
		e.Did("open "+o.name, err)
		if err == nil {
			o.use(w)
			e.Did("close", unix.Close(w))
		}
	}
	e.Did("chmod", unix.Chmod("f", 0o6755))
	e.Did("chown", unix.Chown("f", -1, e.GID('A')))
	e.Did("chown to nobody new", unix.Chown("f", -1, -1))
	e.Did("times", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
	e.Did("link", unix.Link("f", "d/linked"))
	e.Did("symlink", unix.Symlink("f", "d/l"))
	e.Did("mknod", unix.Mknod("d/fifo", unix.S_IFIFO|0o644, 0))
	e.Did("rename", unix.Rename("d/l", "d/m"))
	e.Did("rename over", unix.Rename("d/fifo", "d/m"))
	e.Did("exchange", unix.Renameat2(unix.AT_FDCWD, "d/m", unix.AT_FDCWD, "d/linked", unix.RENAME_EXCHANGE))
	e.Did("move out", unix.Rename("d/linked", "out"))
	e.Did("move in", unix.Rename("out", "d/in"))
	e.Did("unlink", unix.Unlink("d/in"))
	e.events(fd)
}

func watchXattrs(e *Env) {
	fd := e.inotify("f", "d")
	if fd < 0 {
		return
	}
	if f := e.Open("open", "f", unix.O_RDONLY, 0); f >= 0 {
		e.Did("fsetxattr", unix.Fsetxattr(f, "user.x", []byte("v"), 0))
		e.Did("fremovexattr", unix.Fremovexattr(f, "user.x"))
	}
	e.Did("setxattr", unix.Setxattr("f", "user.y", []byte("v"), 0))
	e.Did("removexattr", unix.Removexattr("f", "user.y"))
	e.Did("set ACL", unix.Setxattr("f", accessACL, ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, uint32(e.UID('B'))}), 0))
	e.Did("set default ACL", unix.Setxattr("d", defaultACL, ACLXattr(6, 4, 7, 4), 0))
	e.Did("remove ACL", unix.Removexattr("f", accessACL))
	e.Did("set capability", unix.Setxattr("f", capability, CapNetRaw(2, 0), 0))
	e.Did("chown", unix.Chown("f", -1, -1))
	e.events(fd)
}

// inotify watches files, and returns -1 if it can't.
func (e *Env) inotify(names ...string) int {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		e.Did("inotify_init", err)
		return -1
	}
	e.fds = append(e.fds, fd)
	for _, name := range names {
		_, err = unix.InotifyAddWatch(fd, name, unix.IN_ALL_EVENTS)
		e.Did("watch "+name, err)
	}
	return fd
}

// events records what an inotify descriptor has seen.
func (e *Env) events(fd int) {
	buf := make([]byte, 16384)
	n, err := unix.Read(fd, buf)
	e.Did("events", err)
	var events []string
	for rest := buf[:max(n, 0)]; len(rest) >= unix.SizeofInotifyEvent; {
		ev := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
		end := unix.SizeofInotifyEvent + int(ev.Len)
		name := string(bytes.TrimRight(rest[unix.SizeofInotifyEvent:end], "\x00"))
		events = append(events, fmt.Sprintf("%d:%#x:%s", ev.Wd, ev.Mask, name))
		rest = rest[end:]
	}
	e.Saw("events are", strings.Join(events, " "))
}

func handles(e *Env) {
	mount := e.Open("open mount", ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for _, name := range []string{"f", "gone", "d", "."} {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, name, 0)
		e.Did("handle of "+name, err)
		if err != nil || mount < 0 {
			continue
		}
		if name == "gone" {
			e.Did("unlink", unix.Unlink(name))
		}
		flags := unix.O_RDONLY
		fd, err := unix.OpenByHandleAt(mount, h, flags)
		// While the inode is on its way out, the kernel may say ENOMEM at first.
		for try := 0; err == unix.ENOMEM && try < 20; try++ {
			time.Sleep(time.Millisecond)
			fd, err = unix.OpenByHandleAt(mount, h, flags)
		}
		e.Did("open handle of "+name, err)
		if err != nil {
			continue
		}
		var st, by unix.Stat_t
		_ = unix.Fstat(fd, &st)
		_ = unix.Stat(name, &by)
		e.Saw("same inode "+name, fmt.Sprint(st.Ino == by.Ino))
		if name == "d" {
			e.Did("create by handle", unix.Mknodat(fd, "new", unix.S_IFREG|0o644, 0))
			up, err := unix.Openat(fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			e.Did("parent of "+name, err)
			if err == nil {
				_ = unix.Fstat(up, &st)
				_ = unix.Stat(".", &by)
				e.Saw("same parent", fmt.Sprint(st.Ino == by.Ino))
				unix.Close(up)
			}
		}
		unix.Close(fd)
	}
	fid, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "f", 0x200) // AT_HANDLE_FID, Linux 6.5
	e.Did("fid", err)
	if err == nil && mount >= 0 {
		bad := unix.NewFileHandle(fid.Type(), bytes.Repeat([]byte{0xff}, fid.Size()))
		_, err = unix.OpenByHandleAt(mount, bad, unix.O_RDONLY)
		e.Did("open no handle", err)
	}
}

func clone(e *Env) {
	from, to := e.Open("open f", "f", unix.O_RDONLY, 0), e.Open("open to", "to", unix.O_RDWR|unix.O_TRUNC, 0)
	if from < 0 || to < 0 {
		return
	}
	e.Did("ficlone", unix.IoctlFileClone(to, from))
	e.Did("ficlonerange", unix.IoctlFileCloneRange(to, &unix.FileCloneRange{Src_fd: int64(from)}))
	d := &unix.FileDedupeRange{Src_length: 8, Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(to)}}}
	e.Did("fideduperange", unix.IoctlFileDedupeRange(from, d))
}

func copyRanges(e *Env) {
	from, to := e.Open("open f", "f", unix.O_RDWR, 0), e.Open("open to", "to", unix.O_RDWR, 0)
	app := e.Open("open to append", "to", unix.O_WRONLY|unix.O_APPEND, 0)
	if from < 0 || to < 0 || app < 0 {
		return
	}
	try := func(what string, in, out int, from, to int64, n, flags int) {
		got, err := unix.CopyFileRange(in, &from, out, &to, n, flags)
		e.Saw(what, fmt.Sprint(got, " ", ErrText(err), " ", from, " ", to))
	}
	try("between", from, to, 0, 100, 5, 0)
	try("same file", from, from, 0, 50, 5, 0)
	try("overlapping", from, from, 0, 2, 5, 0)
	try("behind the end", from, to, 10000, 0, 5, 0)
	try("over the end", from, to, 50, 0, 1000, 0)
	try("nothing", from, to, 0, 0, 0, 0)
	try("flags", from, to, 0, 0, 5, 1)
	try("to append", from, app, 0, 0, 5, 0)
	e.Mode("after", "to")
}

func splice(e *Env) {
	from, to := e.Open("open f", "f", unix.O_RDONLY, 0), e.Open("open to", "to", unix.O_RDWR, 0)
	if from < 0 || to < 0 {
		return
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		e.Did("pipe", err)
		return
	}
	e.fds = append(e.fds, p[0], p[1])
	off := int64(2)
	n, err := unix.Splice(from, &off, p[1], nil, 100, 0)
	e.Saw("splice from file", fmt.Sprint(n, " ", off, " ", ErrText(err)))
	off = 20
	n, err = unix.Splice(p[0], nil, to, &off, 100, 0)
	e.Saw("splice to file", fmt.Sprint(n, " ", off, " ", ErrText(err)))
	sent, err := unix.Sendfile(to, from, nil, 4)
	e.Saw("sendfile", fmt.Sprint(sent, " ", ErrText(err)))
	sent, err = unix.Sendfile(p[1], from, nil, 100)
	e.Saw("sendfile to pipe", fmt.Sprint(sent, " ", ErrText(err)))
	e.Mode("after", "to")
}

func maps(e *Env) {
	rw, ro := e.Open("open rw", "f", unix.O_RDWR, 0), e.Open("open ro", "f", unix.O_RDONLY, 0)
	if rw < 0 || ro < 0 {
		return
	}
	const both = unix.PROT_READ | unix.PROT_WRITE
	_, err := unix.Mmap(ro, 0, 4096, both, unix.MAP_SHARED)
	e.Did("write a read-only file", err)
	private, err := unix.Mmap(ro, 0, 4096, both, unix.MAP_PRIVATE)
	e.Did("private", err)
	shared, err2 := unix.Mmap(rw, 0, 4096, both, unix.MAP_SHARED)
	e.Did("shared", err2)
	if err != nil || err2 != nil {
		return
	}
	private[1] = 'P'
	shared[0] = 'S'
	buf := make([]byte, 64)
	n, err := unix.Pread(ro, buf, 0)
	e.Saw("read after a store", fmt.Sprintf("%q %s", buf[:max(n, 0)], ErrText(err)))
	_, err = unix.Pwrite(rw, []byte("W"), 3)
	e.Did("write", err)
	e.Saw("map after a write", fmt.Sprintf("%q", shared[:8]))
	e.Saw("private after a write", fmt.Sprintf("%q", private[:3]))
	e.Did("grow", unix.Ftruncate(rw, 6000))
	shared[4000] = 'G'
	e.Did("msync", unix.Msync(shared, unix.MS_SYNC))
	e.Did("unmap", unix.Munmap(shared))
	e.Did("unmap private", unix.Munmap(private))
	_, err = unix.Pread(rw, buf[:1], 4000)
	e.Saw("grown", fmt.Sprintf("%q %s", buf[:1], ErrText(err)))
	e.Did("shrink", unix.Ftruncate(rw, 8))
}

func direct(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR|unix.O_DIRECT, 0)
	if fd < 0 {
		return
	}
	page, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		e.Did("mmap", err)
		return
	}
	defer unix.Munmap(page)
	copy(page, bytes.Repeat([]byte("direct! "), 512))
	n, err := unix.Pwrite(fd, page[:4096], 0)
	e.Saw("write", fmt.Sprint(n, " ", ErrText(err)))
	n, err = unix.Pread(fd, page[4096:], 0)
	e.Saw("read", fmt.Sprint(n, " ", ErrText(err), " ", string(page[4096:4104])))
	if plain := e.Open("open plain", "f", unix.O_RDWR, 0); plain >= 0 {
		_, err = unix.Pwrite(plain, []byte("cached"), 8)
		e.Did("write cached", err)
		_, err = unix.Pread(fd, page[:4096], 0)
		e.Saw("read directly", fmt.Sprint(ErrText(err), " ", string(page[:16])))
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	e.Saw("flags", fmt.Sprint(flags&unix.O_DIRECT != 0, " ", ErrText(err)))
}

func pathDescriptors(e *Env) {
	f := e.Open("open f", "f", unix.O_PATH, 0)
	l := e.Open("open l", "l", unix.O_PATH|unix.O_NOFOLLOW, 0)
	d := e.Open("open d", "d", unix.O_PATH|unix.O_DIRECTORY, 0)
	if f < 0 || l < 0 || d < 0 {
		return
	}
	_, err := unix.Read(f, make([]byte, 1))
	e.Did("read", err)
	e.Did("fchmod", unix.Fchmod(f, 0o600))
	e.Did("fchown", unix.Fchown(f, -1, -1))
	var st unix.Stat_t
	e.Did("fstat", unix.Fstat(f, &st))
	e.Saw("stat", fmt.Sprintf("%#o size %d", st.Mode, st.Size))
	buf := make([]byte, 16)
	n, err := unix.Readlinkat(l, "", buf)
	e.Saw("readlink", fmt.Sprint(string(buf[:max(n, 0)]), " ", ErrText(err)))
	e.Did("link", unix.Linkat(f, "", d, "linked", unix.AT_EMPTY_PATH))
	e.Did("link through proc", unix.Linkat(unix.AT_FDCWD, procFd(f), d, "linked2", unix.AT_SYMLINK_FOLLOW))
	fd := e.Open("reopen", procFd(f), unix.O_RDWR, 0)
	if fd >= 0 {
		_, err := unix.Write(fd, []byte("re"))
		e.Did("write", err)
	}
	e.Did("rename while open", unix.Rename("f", "d/moved"))
	e.Open("reopen moved", procFd(f), unix.O_RDONLY, 0)
	e.Did("chmod through proc", unix.Chmod(procFd(f), 0o640))
	e.Did("fchdir", unix.Fchdir(d))
	e.Open("open here", "moved", unix.O_RDONLY, 0)
	e.Did("fchdir to a file", unix.Fchdir(f))
}

// seekDir goes back to every place that it has been at.
func seekDir(e *Env) {
	fd := e.Open("open", ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if fd < 0 {
		return
	}
	read := func() []dirent { return e.getdents(fd, 300) } // few at a time
	var all []dirent
	for {
		some := read()
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	var names []string
	for _, x := range all {
		names = append(names, x.name)
	}
	slices.Sort(names)
	e.Saw("entries", fmt.Sprint(len(names), " ", len(slices.Compact(names))))
	wrong := 0
	for i := 0; i+1 < len(all); i += 7 {
		if _, err := unix.Seek(fd, all[i].next, unix.SEEK_SET); err != nil {
			e.Did("seek", err)
			return
		}
		if some := read(); len(some) == 0 || some[0] != all[i+1] {
			wrong++
		}
	}
	e.Saw("wrong places", fmt.Sprint(wrong))
	// What is removed goes, what stays is seen once.
	_, err := unix.Seek(fd, 0, unix.SEEK_SET)
	e.Did("rewind", err)
	first := read()
	for i := range 100 {
		_ = unix.Unlink(fmt.Sprintf("entry-%03d", 2*i))
	}
	seen := map[string]int{}
	for _, x := range first {
		seen[x.name]++
	}
	for some := read(); len(some) > 0; some = read() {
		for _, x := range some {
			seen[x.name]++
		}
	}
	kept, twice := 0, 0
	for i := range 100 {
		if n := seen[fmt.Sprintf("entry-%03d", 2*i+1)]; n > 0 {
			kept++
		}
	}
	for _, n := range seen {
		if n > 1 {
			twice++
		}
	}
	e.Saw("kept entries seen", fmt.Sprint(kept, ", twice ", twice))
}

// A dirent is an entry of a directory and the place of the one behind it.
type dirent struct {
	name string
	next int64
}

// getdents reads as many entries as room bytes hold.
func (e *Env) getdents(fd, room int) (out []dirent) {
	buf := make([]byte, room)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		e.Did("getdents", err)
	}
	for rest := buf[:max(n, 0)]; len(rest) > 19; {
		size := binary.NativeEndian.Uint16(rest[16:])
		name, _, _ := bytes.Cut(rest[19:size], []byte{0})
		out = append(out, dirent{string(name), int64(binary.NativeEndian.Uint64(rest[8:]))})
		rest = rest[size:]
	}
	return out
}

// listed is the number of files of each kind: with these names, more than the
// server reads of a directory at once.
const listed = 200

func listedName(kind string, i int) string {
	return fmt.Sprintf("%s-%03d-%s", kind, i, strings.Repeat("n", 50))
}

// listing reads a large directory twice at the same time, while a third of its
// files is removed, a third gets other names, and others come. Of what is there
// all along, each file is seen once; no name is seen twice.
func listing(e *Env) {
	first := e.Open("open", "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	second := e.Open("open again", "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if first < 0 || second < 0 {
		return
	}
	done := 0
	change := func() {
		for range 8 {
			if done == listed {
				return
			}
			e.count("remove", unix.Unlink("d/"+listedName("goes", done)))
			e.count("rename", unix.Rename("d/"+listedName("moves", done), "d/"+listedName("moved", done)))
			e.count("create", unix.Mknod("d/"+listedName("new", done), unix.S_IFREG|0o600, 0))
			done++
		}
	}
	const room = 2000
	var a, b []dirent
	var place int64
	var before int
	for {
		change()
		more, again := e.getdents(first, room), e.getdents(second, room)
		a, b = append(a, more...), append(b, again...)
		if len(more) == 0 && len(again) == 0 {
			break
		}
		if len(more) > 0 && len(a) < listed {
			place, before = more[len(more)-1].next, len(a)
		}
	}
	for done < listed {
		change()
	}
	e.counted()
	e.Saw("seen", seenOnce(a, "stays"))
	e.Saw("seen by the other", seenOnce(b, "stays"))
	rest := func(what string, place int64) (out []dirent) {
		_, err := unix.Seek(first, place, unix.SEEK_SET)
		e.Did(what, err)
		for more := e.getdents(first, room); len(more) > 0; more = e.getdents(first, room) {
			out = append(out, more...)
		}
		return out
	}
	e.Saw("seen from a place on", seenOnce(append(slices.Clone(a[:before]), only(rest("seek", place), "stays")...), "stays"))
	now := rest("rewind", 0)
	for _, kind := range []string{"stays", "goes", "moves", "moved", "new"} {
		e.Saw("seen at last, "+kind, seenOnce(now, kind))
	}
	// They have been looked at; the disk and the mount are compared by what is left.
	for _, x := range now {
		if x.name != "." && x.name != ".." {
			e.count("remove at last", unix.Unlink("d/"+x.name))
		}
	}
	e.counted()
}

func only(all []dirent, kind string) (out []dirent) {
	for _, x := range all {
		if strings.HasPrefix(x.name, kind) {
			out = append(out, x)
		}
	}
	return out
}

// seenOnce tells how many names of a kind there are, and how many of any kind are
// there twice.
func seenOnce(all []dirent, kind string) string {
	seen := map[string]int{}
	for _, x := range all {
		seen[x.name]++
	}
	n, twice := 0, 0
	for name, times := range seen {
		if strings.HasPrefix(name, kind) {
			n++
		}
		if times > 1 {
			twice++
		}
	}
	return fmt.Sprint(n, ", twice ", twice)
}

func longPaths(e *Env) {
	part := strings.Repeat("p", 255)
	path := ""
	for len(path)+256 < 4096 {
		path += part + "/"
		if err := unix.Mkdir(path, 0o777); err != nil {
			e.Did(fmt.Sprintf("mkdir of %d bytes", len(path)), err)
			return
		}
	}
	rest := 4095 - len(path)
	e.Did("create with 4095 bytes", unix.Mknod(path+strings.Repeat("f", rest), unix.S_IFREG|0o644, 0))
	e.Did("create with 4096 bytes", unix.Mknod(path+strings.Repeat("f", rest+1), unix.S_IFREG|0o644, 0))
	e.Did("chdir", unix.Chdir(path))
	e.Did("deeper", unix.Mkdir(part, 0o777))
	e.Did("chdir deeper", unix.Chdir(part))
	e.Did("create deepest", unix.Mknod("file", unix.S_IFREG|0o644, 0))
	_, err := unix.Getcwd(make([]byte, 8192))
	e.Did("getcwd", err)
	var st unix.Stat_t
	e.Did("stat deepest", unix.Lstat("file", &st))
	// A walk by paths can't see it, and the disk is compared by one.
	e.Did("unlink deepest", unix.Unlink("file"))
	e.Did("up", unix.Chdir(".."))
	e.Did("rmdir deepest", unix.Rmdir(part))
	e.Did("link target of 4095 bytes", unix.Symlink(strings.Repeat("t", 4095), "link"))
	e.Did("link target of 4096 bytes", unix.Symlink(strings.Repeat("t", 4096), "link2"))
}

func appending(e *Env) {
	fd := e.Open("open", "f", unix.O_RDWR, 0)
	if fd < 0 {
		return
	}
	const rwfAppend, rwfDsync = 0x10, 0x2
	for _, flags := range []int{0, rwfAppend, rwfDsync} {
		n, err := unix.Pwritev2(fd, [][]byte{[]byte("<v2>")}, 0, flags)
		e.Saw(fmt.Sprintf("pwritev2 flags %#x", flags), fmt.Sprint(n, " ", ErrText(err)))
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
	e.Did("set append", err)
	_, err = unix.Pwrite(fd, []byte("<appended>"), 0)
	e.Did("write", err)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0)
	e.Did("clear append", err)
	_, err = unix.Pwrite(fd, []byte("<first>"), 0)
	e.Did("write first", err)
	if app := e.Open("open append", "f", unix.O_WRONLY|unix.O_APPEND, 0); app >= 0 {
		_, err = unix.Pwrite(app, []byte("<end>"), 0)
		e.Did("write end", err)
		at, err := unix.Seek(app, 0, unix.SEEK_CUR)
		e.Saw("offset", fmt.Sprint(at, " ", ErrText(err)))
		_, err = unix.Write(app, []byte("<end>"))
		e.Did("write end again", err)
		_, err = unix.FcntlInt(uintptr(app), unix.F_SETFL, 0)
		e.Did("clear append of append", err)
		_, err = unix.Pwrite(app, []byte("{not at the end}"), 0)
		e.Did("write not at the end", err)
	}
	e.Open("create directory", "x", unix.O_CREAT|unix.O_DIRECTORY|unix.O_RDWR, 0o666)
	e.Open("slash", "f/", unix.O_RDONLY, 0)
	e.Open("create slash", "y/", unix.O_CREAT|unix.O_RDWR, 0o666)
}

func oddTimes(e *Env) {
	for _, c := range []struct {
		name string
		sec  int64
		nsec int64
	}{
		{"before 1970", -1000, 5}, {"1901", -1 << 31, 0}, {"2038", 1 << 31, 999999999}, {"2200", 7258118400, 1},
		{"too many nanoseconds", 1, 1000000000},
	} {
		ts := unix.Timespec{Sec: c.sec, Nsec: c.nsec}
		e.Did("set "+c.name, unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{ts, ts}, 0))
		var st unix.Stat_t
		e.Did("stat "+c.name, unix.Stat("f", &st))
		e.Saw("mtime "+c.name, oddTime(st.Mtim))
		e.Saw("atime "+c.name, oddTime(st.Atim))
	}
	if fd := e.Open("open", "f", unix.O_RDWR, 0); fd >= 0 {
		p := [2]unix.Timespec{{Sec: 3, Nsec: 4}, {Nsec: unix.UTIME_OMIT}}
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&p)), 0, 0, 0)
		e.Saw("futimens", fmt.Sprint(int(errno)))
		var st unix.Stat_t
		e.Did("fstat", unix.Fstat(fd, &st))
		e.Saw("times", oddTime(st.Atim)+" "+oddTime(st.Mtim))
	}
}

// oddTime is timeText for times in the future too.
func oddTime(ts unix.Timespec) string {
	if ts.Sec >= 1<<31 {
		return fmt.Sprintf("%d.%09d", ts.Sec, ts.Nsec)
	}
	return timeText(ts)
}

func statxMore(e *Env) {
	var sx unix.Statx_t
	if fd := e.Open("open", "f", unix.O_RDONLY, 0); fd >= 0 {
		e.Did("statx of a descriptor", unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_ALL, &sx))
		e.Saw("birth", fmt.Sprint(sx.Mask&unix.STATX_BTIME != 0, " ", sx.Btime.Sec > 1.5e9, " ", sx.Btime.Sec <= sx.Ctime.Sec))
		e.Saw("mask", fmt.Sprintf("%#x", sx.Mask&unix.STATX_BASIC_STATS))
		e.Saw("mount id", fmt.Sprint(sx.Mask&unix.STATX_MNT_ID != 0))
	}
	const noDump = 0x40
	e.Did("statx nodump", unix.Statx(unix.AT_FDCWD, "f", 0, unix.STATX_ALL, &sx))
	e.Saw("nodump", fmt.Sprint(sx.Attributes&noDump != 0, " root ", sx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0))
	e.Did("statx without sync", unix.Statx(unix.AT_FDCWD, "f", unix.AT_STATX_DONT_SYNC, unix.STATX_SIZE, &sx))
	e.Did("statx forced", unix.Statx(unix.AT_FDCWD, "f", unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE, &sx))
	e.Saw("size", fmt.Sprint(sx.Size))
	e.Did("statx bad flags", unix.Statx(unix.AT_FDCWD, "f", unix.AT_STATX_FORCE_SYNC|unix.AT_STATX_DONT_SYNC, 0, &sx))
	var fs unix.Statfs_t
	e.Did("statfs", unix.Statfs(".", &fs))
	e.Saw("statfs", fmt.Sprint(fs.Namelen, " ", fs.Frsize, " ", fs.Flags&^unix.ST_RELATIME&^0x20))
}

// projects sets project ids and flags by FS_IOC_FSSETXATTR.
func projects(e *Env) {
	const get, set = 0x801c581f, 0x401c5820
	for _, name := range []string{"f", "d"} {
		fd := e.Open("open "+name, name, unix.O_RDONLY, 0)
		if fd < 0 {
			continue
		}
		var version uint64
		e.Did("version of "+name, ioctl(fd, 0x80087601, unsafe.Pointer(&version)))
		try := func(what string, change func(*fsxattr)) {
			var x fsxattr
			err := ioctl(fd, get, unsafe.Pointer(&x))
			e.Did(what+" get "+name, err)
			if err != nil {
				return
			}
			change(&x)
			e.Did(what+" set "+name, ioctl(fd, set, unsafe.Pointer(&x)))
			_ = ioctl(fd, get, unsafe.Pointer(&x))
			e.Saw(what+" of "+name, fmt.Sprintf("flags %#x project %d", x.flags, x.project))
		}
		try("same", func(*fsxattr) {})
		try("nodump", func(x *fsxattr) { x.flags |= 0x80 })
		try("project", func(x *fsxattr) { x.project = 77 })
		try("immutable", func(x *fsxattr) { x.flags |= 0x8 })
		try("mutable again", func(x *fsxattr) { x.flags &^= 0x8 })
	}
}

// fsxattr is struct fsxattr of include/uapi/linux/fs.h.
type fsxattr struct {
	flags, extsize, nextents, project, cowextsize uint32
	_                                             [8]byte
}
