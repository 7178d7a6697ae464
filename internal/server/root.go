package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/sys"
)

// kept are the directories that a server reaches by path. All else it reaches by
// descriptors. /proc is for what callers are and have open, /dev for /dev/fuse and
// /dev/log, /run/systemd/journal for its log, and StateDir to remove its entry.
var kept = []struct {
	path   string
	needed bool
}{
	{"/proc", true},
	{"/dev", true},
	{StateDir, false},
	{"/run/systemd/journal", false},
}

// keptNodes are files of /dev. In a container each can be a mount on an empty file.
var keptNodes = []string{"/dev/null", "/dev/fuse", "/dev/log"}

// StateDir has a file for each FUSE mount that is served, named after its device,
// with the id of the process that serves it.
const StateDir = "/run/idmount"

// EnterOwnRoot leaves the root directory for a tmpfs that has nothing but the
// directories of kept, and takes all other mounts out of the mount namespace. It is to
// be called in a namespace that is a private copy, before the process has threads with
// directories of their own. After an error the process must end: the copy may still
// have all mounts, and keeps them busy.
func EnterOwnRoot() error {
	// The library reads the time zone from /etc when it is first needed.
	time.Now().Local().Zone()
	_ = os.MkdirAll(StateDir, 0o755)

	var dirs []int
	defer func() {
		for _, fd := range dirs {
			unix.Close(fd)
		}
	}()
	open := func(path string) (int, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &sys.Error{Op: "open", Path: path, Err: err}
		}
		dirs = append(dirs, fd)
		return fd, nil
	}
	old, err := open("/")
	if err != nil {
		return err
	}
	// Any directory will do to mount the new root on but /proc, by which those that it
	// covers are found.
	const root = "/dev"
	type found struct {
		fd   int
		path string
	}
	var all []found
	for _, k := range kept {
		fd, err := open(k.path)
		if err == nil {
			all = append(all, found{fd, k.path})
		} else if k.needed {
			return err
		}
	}
	nodes, err := mountedNodes()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range nodes {
			f.Close()
		}
	}()
	if err := unix.Mount("idmount", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return &sys.Error{Op: "mount", Path: root, Detail: "tmpfs", Err: err}
	}
	// Else a recursive bind of the directory below would have the new root on it.
	if err := unix.Mount("", root, "", unix.MS_UNBINDABLE, ""); err != nil {
		return &sys.Error{Op: "mount", Path: root, Detail: "unbindable", Err: err}
	}
	for _, f := range all {
		at := filepath.Join(root, f.path)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := bind(f.fd, at); err != nil {
			return err
		}
	}
	for _, f := range nodes {
		if err := bind(int(f.Fd()), filepath.Join(root, f.Name())); err != nil {
			return err
		}
	}
	if err := pivot(root, old); err != nil {
		return err
	}
	return useOwnNull()
}

// mountedNodes opens those of keptNodes that are mounts.
func mountedNodes() (nodes []*os.File, err error) {
	dev, err := os.OpenFile("/dev", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	on, err := mounts.ID(dev)
	if err != nil {
		return nil, err
	}
	for _, path := range keptNodes {
		f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if id, err := mounts.ID(f); err != nil || id == on {
			f.Close()
			continue
		}
		nodes = append(nodes, f)
	}
	return nodes, nil
}

// bind mounts what a descriptor refers to at a path.
func bind(fd int, at string) error {
	from := "/proc/self/fd/" + strconv.Itoa(fd)
	// Without the mounts below, which would be kept busy. In a namespace of a user
	// namespace they can't be left behind, since they may cover something.
	err := unix.Mount(from, at, "", unix.MS_BIND, "")
	if err == unix.EINVAL {
		err = unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return &sys.Error{Op: "mount", Path: at, Detail: "bind", Err: err}
	}
	return nil
}

// pivot makes the mount at path the root of the namespace, and detaches old, the
// root until now, with all that is mounted on it.
func pivot(path string, old int) error {
	if err := unix.Chdir(path); err != nil {
		return &sys.Error{Op: "chdir", Path: path, Err: err}
	}
	// The old root comes to lie on top of the new one, see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return &sys.Error{Op: "pivot_root", Path: path, Err: err}
	}
	if err := unix.Fchdir(old); err != nil {
		return &sys.Error{Op: "fchdir", Path: "/", Err: err}
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return &sys.Error{Op: "umount", Path: "the root of the starter", Err: err}
	}
	if err := unix.Chdir("/"); err != nil {
		return &sys.Error{Op: "chdir", Path: "/", Err: err}
	}
	// Nothing is to be put there.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return &sys.Error{Op: "mount", Path: "/", Detail: "read-only", Err: err}
	}
	return nil
}

// useOwnNull replaces the standard descriptors, which are open through the mounts of
// the starter's namespace and keep its /dev busy.
func useOwnNull() error {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(fd)
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}
