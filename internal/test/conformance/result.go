package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Fact is one thing seen. Key says what and where, without anything that
// depends on the mount.
type Fact struct{ Key, Value string }

// A Result is all that was seen of one case, in a fixed order.
type Result []Fact

func (r *Result) add(key, value string) { *r = append(*r, Fact{key, value}) }

// value is what a fact says, "(absent)" if there is none.
func (r Result) value(key string) string {
	for _, f := range r {
		if f.Key == key {
			return f.Value
		}
	}
	return absent
}

// A Difference is a Fact that two results disagree on; a side that lacks it
// has the value "(absent)".
type Difference struct{ Key, Want, Got string }

const absent = "(absent)"

func compare(want, got Result) []Difference {
	values := make(map[string]string, len(got))
	for _, f := range got {
		values[f.Key] = f.Value
	}
	var out []Difference
	for _, f := range want {
		v, ok := values[f.Key]
		if !ok {
			v = absent
		}
		if v != f.Value {
			out = append(out, Difference{f.Key, f.Value, v})
		}
		delete(values, f.Key)
	}
	for _, f := range got {
		if v, ok := values[f.Key]; ok {
			out = append(out, Difference{f.Key, absent, v})
		}
	}
	return out
}

// ErrText is the name of an errno, "ok" for nil.
func ErrText(err error) string {
	if err == nil {
		return "ok"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// snapshot adds all that can be seen of the tree below dir: owners, modes,
// link counts, xattrs, contents, targets of links. Inode numbers, times and
// the sizes of directories differ between two runs anyway and are left out.
//
// It goes by descriptors, because every path that is walked costs a FUSE mount
// a request for each of its parts.
func (r *Result) snapshot(prefix, dir string) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		r.add(prefix+` "." stat`, ErrText(err))
		return
	}
	defer unix.Close(fd)
	r.tree(prefix, fd, ".")
}

// tree adds what fd, an O_PATH descriptor, refers to, and all below it.
func (r *Result) tree(prefix string, fd int, rel string) {
	key := fmt.Sprintf("%s %q", prefix, rel)
	if !r.inode(key, fd) {
		return
	}
	names, err := entries(fd)
	if err != nil {
		r.add(key+" list", ErrText(err))
		return
	}
	for _, name := range names {
		below := filepath.Join(rel, name)
		child, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			r.add(fmt.Sprintf("%s %q stat", prefix, below), ErrText(err))
			continue
		}
		r.tree(prefix, child, below)
		unix.Close(child)
	}
}

// entries lists a directory, sorted.
func entries(dirfd int) ([]string, error) {
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

// inode adds one file and reports whether it is a directory.
func (r *Result) inode(key string, fd int) bool {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		r.add(key+" stat", ErrText(err))
		return false
	}
	r.add(key+" mode", fmt.Sprintf("%#o", st.Mode))
	r.add(key+" owner", fmt.Sprintf("%d:%d", st.Uid, st.Gid))
	r.add(key+" nlink", fmt.Sprint(st.Nlink))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		r.add(key+" size", fmt.Sprint(st.Size))
		if st.Size > 0 && st.Size <= 4096 {
			data, err := os.ReadFile(procFd(fd))
			if err != nil {
				r.add(key+" data", ErrText(err))
			} else {
				r.add(key+" data", fmt.Sprintf("%q", data))
			}
		}
	case unix.S_IFLNK:
		buf := make([]byte, 4096)
		n, err := unix.Readlinkat(fd, "", buf)
		r.add(key+" target", string(buf[:max(n, 0)])+" "+ErrText(err))
	case unix.S_IFCHR, unix.S_IFBLK:
		r.add(key+" rdev", fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
	}
	r.xattrs(key, procFd(fd))
	return st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// procFd is a path to what a descriptor refers to, a link itself included.
func procFd(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func (r *Result) xattrs(key, path string) {
	buf := make([]byte, 512)
	n, err := unix.Listxattr(path, buf)
	if err == unix.ERANGE {
		buf = make([]byte, 65536)
		n, err = unix.Listxattr(path, buf)
	}
	if err != nil {
		r.add(key+" xattrs", ErrText(err))
		return
	}
	names := strings.FieldsFunc(string(buf[:n]), func(c rune) bool { return c == 0 })
	sort.Strings(names)
	r.add(key+" xattrs", strings.Join(names, " "))
	for _, name := range names {
		r.add(key+" xattr "+name, textOfXattr(path, name, unix.Getxattr))
	}
}

func xattrText(path, name string) string { return textOfXattr(path, name, unix.Lgetxattr) }

func textOfXattr(path, name string, get func(string, string, []byte) (int, error)) string {
	buf := make([]byte, 512)
	n, err := get(path, name, buf)
	if err == unix.ERANGE {
		buf = make([]byte, 65536)
		n, err = get(path, name, buf)
	}
	if err != nil {
		return ErrText(err)
	}
	if n > 256 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%x", buf[:n])
}
