package differential

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// calls are all that a Step can be. Each returns what the caller sees of it.
var calls map[string]func(*session, *Step) string

func init() {
	calls = map[string]func(*session, *Step) string{
		"open": open, "close": closeSlot,
		"mkdir": func(s *session, st *Step) string { return did(unix.Mkdir(s.path(st.Path), st.Mode)) },
		"mknod": func(s *session, st *Step) string {
			return did(unix.Mknod(s.path(st.Path), st.Mode, int(unix.Mkdev(1, 3))))
		},
		"symlink": func(s *session, st *Step) string { return did(unix.Symlink(st.To, s.path(st.Path))) },
		"link":    link,
		"rename": func(s *session, st *Step) string {
			return did(unix.Renameat2(unix.AT_FDCWD, s.path(st.Path), unix.AT_FDCWD, s.path(st.To), uint(st.Flags)))
		},
		"unlink": func(s *session, st *Step) string { return did(unix.Unlink(s.path(st.Path))) },
		"rmdir":  func(s *session, st *Step) string { return did(unix.Rmdir(s.path(st.Path))) },

		"stat": stat, "statx": statx, "access": access, "readlink": readlink, "list": list, "statfs": statfs,
		"chmod": chmod, "chown": chown, "utimes": utimes, "truncate": truncate,
		"getxattr": getxattr, "setxattr": setxattr, "removexattr": removexattr, "listxattr": listxattr,

		"read": read, "pread": pread, "write": write, "pwrite": pwrite, "writev": writev,
		"fallocate": func(s *session, st *Step) string {
			return did(unix.Fallocate(s.fd(st.Slot), uint32(st.Flags), st.Off, st.Len))
		},
		"seek": func(s *session, st *Step) string {
			// Where a directory ends is the file system's own affair, and it ends
			// where its data does.
			var node unix.Stat_t
			if st.Flags >= unix.SEEK_END && unix.Fstat(s.fd(st.Slot), &node) == nil && node.Mode&unix.S_IFMT == unix.S_IFDIR {
				return "a directory"
			}
			// Nor are there holes in what the kernel has not written yet.
			if st.Flags > unix.SEEK_END && s.late {
				return "late"
			}
			n, err := unix.Seek(s.fd(st.Slot), st.Off, st.Flags)
			return counted(int(n), err)
		},
		"copy": copyRange, "sendfile": sendfile, "splice": splice,
		"fsync":     func(s *session, st *Step) string { return did(unix.Fsync(s.fd(st.Slot))) },
		"fdatasync": func(s *session, st *Step) string { return did(unix.Fdatasync(s.fd(st.Slot))) },
		"mapread":   mapRead, "mapwrite": mapWrite,
		"lock": lock, "ofdlock": lock, "flock": func(s *session, st *Step) string {
			return did(unix.Flock(s.fd(st.Slot), st.Flags|unix.LOCK_NB))
		},
	}
}

// open never waits for the other end of a FIFO. Block devices are left alone:
// opening one could load a module.
func open(s *session, st *Step) string {
	if st.Flags&unix.O_PATH == 0 {
		var node unix.Stat_t
		if unix.Stat(s.path(st.Path), &node) == nil && node.Mode&unix.S_IFMT == unix.S_IFBLK {
			return "a block device"
		}
	}
	fd, err := unix.Open(s.path(st.Path), st.Flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, st.Mode)
	if err != nil {
		return did(err)
	}
	if s.fd(st.Slot) >= 0 {
		unix.Close(s.fds[st.Slot])
	}
	s.fds[st.Slot] = fd
	return "ok"
}

func closeSlot(s *session, st *Step) string {
	if s.fd(st.Slot) < 0 {
		return "not open"
	}
	err := unix.Close(s.fds[st.Slot])
	s.fds[st.Slot] = -1
	return did(err)
}

// link gives an open file a name if Path is empty. If that has just lost its
// set-id bits, the kernel may learn it only when it asks for its attributes, and
// refuse; and it asks again if somebody has changed the file meanwhile.
func link(s *session, st *Step) string {
	if st.Path == "" {
		from := "/proc/self/fd/" + strconv.Itoa(s.fd(st.Slot))
		var err error = unix.EPERM
		for try := 0; err == unix.EPERM && try < 3; try++ {
			var node unix.Stat_t
			_ = unix.Fstat(s.fd(st.Slot), &node)
			err = unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, s.path(st.To), unix.AT_SYMLINK_FOLLOW)
		}
		return did(err)
	}
	return did(unix.Linkat(unix.AT_FDCWD, s.path(st.Path), unix.AT_FDCWD, s.path(st.To), st.Flags))
}

func stat(s *session, st *Step) string {
	var buf unix.Stat_t
	var err error
	switch {
	case st.Path == "":
		err = unix.Fstat(s.fd(st.Slot), &buf)
	case st.Flags != 0:
		err = unix.Stat(s.path(st.Path), &buf)
	default:
		err = unix.Lstat(s.path(st.Path), &buf)
	}
	if err != nil {
		return did(err)
	}
	return "ok " + statText(&buf)
}

func statx(s *session, st *Step) string {
	var x unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, s.path(st.Path), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x); err != nil {
		return did(err)
	}
	// Some tell more than they are asked for.
	told := x.Mask & (unix.STATX_BASIC_STATS | unix.STATX_BTIME)
	return fmt.Sprintf("ok %#o %d:%d nlink %d mask %#x", x.Mode, x.Uid, x.Gid, x.Nlink, told)
}

func access(s *session, st *Step) string {
	return did(unix.Faccessat2(unix.AT_FDCWD, s.path(st.Path), uint32(st.Flags), unix.AT_EACCESS))
}

func readlink(s *session, st *Step) string {
	n, err := unix.Readlink(s.path(st.Path), s.buf[:4096])
	if err != nil {
		return did(err)
	}
	return "ok " + string(s.buf[:n])
}

// list reads a directory, from its start, through a slot or by its path.
func list(s *session, st *Step) string {
	fd := s.fd(st.Slot)
	if st.Path != "" {
		var err error
		if fd, err = unix.Open(s.path(st.Path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return did(err)
		}
		defer unix.Close(fd)
	} else if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return did(err)
	}
	var names []string
	for {
		n, err := unix.Getdents(fd, s.buf[:4096])
		if err != nil {
			return did(err)
		}
		if n == 0 {
			slices.Sort(names)
			return "ok " + strings.Join(names, ", ")
		}
		names = append(names, entries(s.buf[:n])...)
	}
}

func statfs(s *session, st *Step) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.path(st.Path), &fs); err != nil {
		return did(err)
	}
	return fmt.Sprintf("ok blocks %d of %d, names %d", fs.Blocks, fs.Bsize, fs.Namelen)
}

func chmod(s *session, st *Step) string {
	if st.Path == "" {
		return did(unix.Fchmod(s.fd(st.Slot), st.Mode))
	}
	return did(unix.Chmod(s.path(st.Path), st.Mode))
}

func chown(s *session, st *Step) string {
	uid, gid := s.owner(st.Owner)
	switch {
	case st.Path == "":
		return did(unix.Fchown(s.fd(st.Slot), uid, gid))
	case st.Flags != 0:
		return did(unix.Chown(s.path(st.Path), uid, gid))
	}
	return did(unix.Lchown(s.path(st.Path), uid, gid))
}

// utimes takes two times, each "now", "omit" or SECONDS.NANOSECONDS.
func utimes(s *session, st *Step) string {
	var ts [2]unix.Timespec
	for i, word := range strings.Split(st.Value+",omit", ",")[:2] {
		switch word {
		case "now":
			ts[i].Nsec = unix.UTIME_NOW
		case "omit":
			ts[i].Nsec = unix.UTIME_OMIT
		default:
			sec, nsec, _ := strings.Cut(word, ".")
			ts[i].Sec, _ = strconv.ParseInt(sec, 10, 64)
			ts[i].Nsec, _ = strconv.ParseInt(nsec, 10, 64)
		}
	}
	if st.Path == "" {
		return did(unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(s.fd(st.Slot)), ts[:], 0))
	}
	return did(unix.UtimesNanoAt(unix.AT_FDCWD, s.path(st.Path), ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

func truncate(s *session, st *Step) string {
	// To the size that it has, it changes the time of change, which the kernel
	// keeps itself if it writes late.
	var node unix.Stat_t
	if s.late && (st.Path == "" && unix.Fstat(s.fd(st.Slot), &node) == nil || st.Path != "" && unix.Stat(s.path(st.Path), &node) == nil) &&
		node.Size == st.Len {
		return "nothing to do"
	}
	if st.Path == "" {
		return did(unix.Ftruncate(s.fd(st.Slot), st.Len))
	}
	return did(unix.Truncate(s.path(st.Path), st.Len))
}

func getxattr(s *session, st *Step) string {
	buf := s.buf[:min(len(s.buf), 65536)]
	if st.Len > 0 {
		buf = buf[:min(st.Len, 65536)] // too short, perhaps
	}
	n, err := 0, error(nil)
	if st.Path == "" {
		n, err = unix.Fgetxattr(s.fd(st.Slot), st.Name, buf)
	} else {
		n, err = unix.Lgetxattr(s.path(st.Path), st.Name, buf)
	}
	if err != nil {
		return did(err)
	}
	return "ok " + attrText(st.Name, buf[:n])
}

// attrText shows an attribute: ACLs and capabilities in hexadecimal, so that
// known differences in them can be told.
func attrText(name string, value []byte) string {
	if strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") {
		return content(value)
	}
	return shown(name, fmt.Sprintf("%x", value))
}

func setxattr(s *session, st *Step) string {
	value := s.value(st.Value)
	if st.Path == "" {
		return did(unix.Fsetxattr(s.fd(st.Slot), st.Name, value, st.Flags))
	}
	return did(unix.Lsetxattr(s.path(st.Path), st.Name, value, st.Flags))
}

func removexattr(s *session, st *Step) string {
	if st.Path == "" {
		return did(unix.Fremovexattr(s.fd(st.Slot), st.Name))
	}
	return did(unix.Lremovexattr(s.path(st.Path), st.Name))
}

func listxattr(s *session, st *Step) string {
	n, err := 0, error(nil)
	if st.Path == "" {
		n, err = unix.Flistxattr(s.fd(st.Slot), s.buf[:65536])
	} else {
		n, err = unix.Llistxattr(s.path(st.Path), s.buf[:65536])
	}
	if err != nil {
		return did(err)
	}
	return "ok " + strings.Join(attrNames(s.buf[:n]), " ")
}

func attrNames(b []byte) []string {
	names := strings.FieldsFunc(string(b), func(c rune) bool { return c == 0 })
	slices.Sort(names)
	return names
}

// span is the part of the buffer that a call of length n uses.
func (s *session) span(n int64) []byte { return s.buf[:min(max(n, 0), maxIO)] }

func read(s *session, st *Step) string {
	b := s.span(st.Len)
	n, err := unix.Read(s.fd(st.Slot), b)
	if err != nil {
		return did(err)
	}
	return "ok " + content(b[:n])
}

func pread(s *session, st *Step) string {
	b := s.span(st.Len)
	n, err := unix.Pread(s.fd(st.Slot), b, st.Off)
	if err != nil {
		return did(err)
	}
	return "ok " + content(b[:n])
}

func write(s *session, st *Step) string {
	return counted(unix.Write(s.fd(st.Slot), pattern(s.span(st.Len), st.Off)))
}

func pwrite(s *session, st *Step) string {
	return counted(unix.Pwrite(s.fd(st.Slot), pattern(s.span(st.Len), st.Off), st.Off))
}

func writev(s *session, st *Step) string {
	b := pattern(s.span(st.Len), st.Off)
	half := len(b) / 2
	return counted(unix.Writev(s.fd(st.Slot), [][]byte{b[:half], nil, b[half:]}))
}

func copyRange(s *session, st *Step) string {
	off := st.Off
	return counted(unix.CopyFileRange(s.fd(st.Slot), &off, s.fd(st.Slot2), nil, int(st.Len), 0))
}

func sendfile(s *session, st *Step) string {
	if oneFile(s.fd(st.Slot), s.fd(st.Slot2)) {
		return "one file"
	}
	off := st.Off
	return counted(unix.Sendfile(s.fd(st.Slot2), s.fd(st.Slot), &off, int(st.Len)))
}

// oneFile reports whether two descriptors are of the same file. What becomes of data
// that is moved within one, from pages that are written to meanwhile, differs even
// between file systems, and between a hole of tmpfs and data.
func oneFile(a, b int) bool {
	var of [2]unix.Stat_t
	return unix.Fstat(a, &of[0]) == nil && unix.Fstat(b, &of[1]) == nil && of[0].Dev == of[1].Dev && of[0].Ino == of[1].Ino
}

// splice moves data between two files through a pipe.
func splice(s *session, st *Step) string {
	if oneFile(s.fd(st.Slot), s.fd(st.Slot2)) {
		return "one file"
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return did(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	off := st.Off
	in, err := unix.Splice(s.fd(st.Slot), &off, p[1], nil, int(min(st.Len, 32768)), unix.SPLICE_F_NONBLOCK)
	if err != nil || in == 0 {
		return "in: " + counted(int(in), err)
	}
	out, err := unix.Splice(p[0], nil, s.fd(st.Slot2), nil, int(in), 0)
	return fmt.Sprintf("in: %d, out: %s", in, counted(int(out), err))
}

const page = 4096

// mapped maps the page at Off, if the file has one there.
func mapped(s *session, st *Step, prot int, f func([]byte) string) (result string) {
	fd := s.fd(st.Slot)
	var buf unix.Stat_t
	if err := unix.Fstat(fd, &buf); err != nil {
		return did(err)
	}
	off := st.Off &^ (page - 1)
	if buf.Mode&unix.S_IFMT != unix.S_IFREG || buf.Size <= off {
		return "nothing to map"
	}
	b, err := unix.Mmap(fd, off, page, prot, unix.MAP_SHARED)
	if err != nil {
		return did(err)
	}
	defer unix.Munmap(b)
	// A file that somebody else makes shorter meanwhile.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			result = "fault"
		}
	}()
	return f(b)
}

func mapRead(s *session, st *Step) string {
	return mapped(s, st, unix.PROT_READ, func(b []byte) string { return "ok " + content(b) })
}

func mapWrite(s *session, st *Step) string {
	return mapped(s, st, unix.PROT_READ|unix.PROT_WRITE, func(b []byte) string {
		pattern(b[:16], st.Off)
		return did(unix.Msync(b, unix.MS_SYNC))
	})
}

// lock takes or gives up a POSIX lock, of the caller's or of its open file's.
func lock(s *session, st *Step) string {
	cmd := unix.F_SETLK
	if st.Call == "ofdlock" {
		cmd = unix.F_OFD_SETLK
	}
	return did(unix.FcntlFlock(uintptr(s.fd(st.Slot)), cmd, &unix.Flock_t{Type: int16(st.Flags), Start: st.Off, Len: st.Len}))
}
