package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// OpenNamespace opens the mount namespace of the calling thread.
func OpenNamespace() (*os.File, error) {
	const path = "/proc/thread-self/ns/mnt"
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the mount namespace: %w", err)
	}
	return f, nil
}

// initialNamespace is the inode number of the system's first mount namespace
// (MNT_NS_INIT_INO, Linux 6.17). Others have higher ones.
const initialNamespace = 0xEFFFFFF8

// Outlives reports whether the mount namespace is the system's first, or that of
// process 1: when that ends, so does every process of its pid namespace, the server
// too. Who may not look at process 1 is told no.
func Outlives(namespace *os.File) bool {
	var its, ours unix.Stat_t
	if unix.Fstat(int(namespace.Fd()), &ours) == nil && ours.Ino == initialNamespace {
		return true
	}
	return unix.Stat("/proc/1/ns/mnt", &its) == nil && unix.Fstat(int(namespace.Fd()), &ours) == nil &&
		its.Dev == ours.Dev && its.Ino == ours.Ino
}

func same(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// Namespace is where a server's mount is. It does not keep the mount namespace alive.
// The zero value is the namespace of the process.
type Namespace struct {
	elsewhere bool
	dev, ino  uint64
	handle    *unix.FileHandle // Linux 6.18
}

// NamespaceOf returns what Within needs to find a mount namespace again.
func NamespaceOf(namespace *os.File) (Namespace, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(namespace.Fd()), &st); err != nil {
		return Namespace{}, &sys.Error{Op: "stat", Path: namespace.Name(), Err: err}
	}
	n := Namespace{elsewhere: true, dev: st.Dev, ino: st.Ino}
	if h, _, err := unix.NameToHandleAt(int(namespace.Fd()), "", unix.AT_EMPTY_PATH); err == nil {
		n.handle = &h
	}
	return n, nil
}

// ErrNoNamespace says that a mount namespace has no process, or none that can be seen.
var ErrNoNamespace = errors.New("no process is in its mount namespace")

// Within calls fn on a thread in the namespace.
func (n Namespace) Within(fn func() error) error {
	if !n.elsewhere {
		return fn()
	}
	f, err := n.open()
	if err != nil {
		return err
	}
	defer f.Close()
	return Within(f, fn)
}

// open returns a descriptor of the namespace.
func (n Namespace) open() (*os.File, error) {
	if n.handle != nil {
		if fd, err := unix.OpenByHandleAt(unix.FD_NSFS_ROOT, *n.handle, unix.O_RDONLY|unix.O_CLOEXEC); err == nil {
			return os.NewFile(uintptr(fd), "mount namespace"), nil
		}
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		f, err := os.Open(link)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) == nil && st.Dev == n.dev && st.Ino == n.ino {
			return f, nil
		}
		f.Close()
	}
	return nil, ErrNoNamespace
}

// Within calls fn on a thread in a mount namespace.
func Within(namespace *os.File, fn func() error) (err error) {
	sys.OnOwnThread(func() {
		err = sys.WithThreadCap(unix.CAP_SYS_CHROOT, func() error { return enter(namespace) })
		if err == nil {
			err = fn()
		}
	})
	return err
}
