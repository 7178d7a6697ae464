package conformance

import (
	"errors"
	"fmt"
	"io/fs"
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
func (r *Result) snapshot(prefix, dir string) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		key := prefix + " " + fmt.Sprintf("%q", rel)
		if err != nil {
			r.add(key+" list", ErrText(err))
			return nil
		}
		r.inode(key, path)
		return nil
	})
	if err != nil {
		r.add(prefix+" walk", ErrText(err))
	}
}

func (r *Result) inode(key, path string) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		r.add(key+" stat", ErrText(err))
		return
	}
	r.add(key+" mode", fmt.Sprintf("%#o", st.Mode))
	r.add(key+" owner", fmt.Sprintf("%d:%d", st.Uid, st.Gid))
	r.add(key+" nlink", fmt.Sprint(st.Nlink))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		r.add(key+" size", fmt.Sprint(st.Size))
		if st.Size > 0 && st.Size <= 4096 {
			data, err := os.ReadFile(path)
			if err != nil {
				r.add(key+" data", ErrText(err))
			} else {
				r.add(key+" data", fmt.Sprintf("%q", data))
			}
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		r.add(key+" target", target+" "+ErrText(err))
	case unix.S_IFCHR, unix.S_IFBLK:
		r.add(key+" rdev", fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
	}
	r.xattrs(key, path)
}

func (r *Result) xattrs(key, path string) {
	buf := make([]byte, 65536)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		r.add(key+" xattrs", ErrText(err))
		return
	}
	names := strings.FieldsFunc(string(buf[:n]), func(c rune) bool { return c == 0 })
	sort.Strings(names)
	r.add(key+" xattrs", strings.Join(names, " "))
	for _, name := range names {
		r.add(key+" xattr "+name, xattrText(path, name))
	}
}

func xattrText(path, name string) string {
	buf := make([]byte, 65536)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return ErrText(err)
	}
	if n > 256 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%x", buf[:n])
}
