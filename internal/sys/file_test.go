package sys

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Calls by the entry in /proc reach the file itself, by descriptors of every
// number of digits, and attributes are read the same way on all kernels.
func TestPathDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	low, errno := OpenAt(unix.AT_FDCWD, path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(low)
	for _, least := range []int{0, 10, 99, 100, 1000} {
		fd, err := unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, least)
		if err != nil {
			t.Fatal(err)
		}
		if errno := Chmod(fd, 0o640); errno != 0 {
			t.Errorf("descriptor %d: chmod: %v", fd, errno)
		}
		var st unix.Stat_t
		if errno := Stat(fd, &st); errno != 0 || st.Mode != unix.S_IFREG|0o640 {
			t.Errorf("descriptor %d: mode %o, %v", fd, st.Mode, errno)
		}
		opened, errno := Reopen(fd, unix.O_RDONLY)
		if errno != 0 {
			t.Errorf("descriptor %d: open: %v", fd, errno)
			continue
		}
		text := make([]byte, 8)
		if n, err := unix.Read(opened, text); err != nil || string(text[:n]) != "text" {
			t.Errorf("descriptor %d: %q, %v", fd, text[:n], err)
		}
		unix.Close(opened)
		unix.Close(fd)
	}

	err := unix.Setxattr(path, "user.a", []byte("value"), 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	known := atXattrs
	defer func() { atXattrs = known }()
	for _, at := range []bool{known(), false} {
		atXattrs = func() bool { return at }
		var buf [8]byte
		if n, errno := GetXattr(low, "user.a", nil); n != 5 || errno != 0 {
			t.Errorf("getxattrat %v: size %d, %v", at, n, errno)
		}
		if n, errno := GetXattr(low, "user.a", buf[:]); errno != 0 || string(buf[:n]) != "value" {
			t.Errorf("getxattrat %v: %q, %v", at, buf[:n], errno)
		}
		if _, errno := GetXattr(low, "user.a", buf[:2]); errno != unix.ERANGE {
			t.Errorf("getxattrat %v: 2 bytes: %v, want ERANGE", at, errno)
		}
		if _, errno := GetXattr(low, "user.b", buf[:]); errno != unix.ENODATA {
			t.Errorf("getxattrat %v: no such attribute: %v, want ENODATA", at, errno)
		}
	}
}

func TestNames(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	fd := int(dir.Fd())
	longest := strings.Repeat("x", 255)
	for _, tt := range []struct {
		name string
		want unix.Errno
	}{
		{"a", 0},
		{longest, 0},
		{longest + "x", unix.ENAMETOOLONG},
		{"a\x00b", unix.EINVAL},
	} {
		if errno := Mkdir(fd, tt.name, 0o755); errno != tt.want {
			t.Errorf("mkdir of %d bytes: %v, want %v", len(tt.name), errno, tt.want)
		}
		if _, errno := OpenAt(fd, tt.name, unix.O_WRONLY, 0); errno == 0 || tt.want != 0 && errno != tt.want {
			t.Errorf("open for writing, %d bytes: %v, want %v", len(tt.name), errno, tt.want)
		}
		if errno := Unlink(fd, tt.name, unix.AT_REMOVEDIR); errno != tt.want {
			t.Errorf("rmdir of %d bytes: %v, want %v", len(tt.name), errno, tt.want)
		}
	}
	if names, err := dir.Readdirnames(-1); err != nil || len(names) > 0 {
		t.Errorf("%q, %v are left", names, err)
	}
}

func TestProcPath(t *testing.T) {
	for _, fd := range []int{0, 9, 10, 1234567, math.MaxInt32} {
		var b procPath
		if got, want := unix.BytePtrToString(b.full(fd)), procFd(fd); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
