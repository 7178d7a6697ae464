package idmount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// openPaths opens source and target once, O_PATH, following symbolic links. All
// that comes after works on these files: a path may lead elsewhere a moment later.
//
// Both must be directories or neither, and neither may lie below the other: the
// mount would show itself. The names of the files are absolute and have no symbolic
// links.
func openPaths(source, target string) (src, dst *os.File, err error) {
	if src, err = openPath("source", source); err != nil {
		return nil, nil, err
	}
	if dst, err = openPath("target", target); err != nil {
		src.Close()
		return nil, nil, err
	}
	srcDir, dstDir := isDir(src), isDir(dst)
	switch {
	case srcDir && !dstDir:
		err = &UsageError{Op: "mount", Path: target, Err: fmt.Errorf("the source %s is a directory: %w", source, unix.ENOTDIR)}
	case !srcDir && dstDir:
		err = &UsageError{Op: "mount", Path: target, Err: fmt.Errorf("the source %s is no directory: %w", source, unix.EISDIR)}
	case below(dst.Name(), src.Name()):
		err = &UsageError{Op: "mount", Path: target, Err: fmt.Errorf("the target lies below the source %s", source)}
	case below(src.Name(), dst.Name()):
		err = &UsageError{Op: "mount", Path: target, Err: fmt.Errorf("the source %s lies below the target", source)}
	}
	if err != nil {
		src.Close()
		dst.Close()
		return nil, nil, err
	}
	return src, dst, nil
}

func openPath(what, path string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, &UsageError{Op: what, Path: path, Err: cause(err)}
	}
	if path == "" {
		return nil, &UsageError{Op: what, Err: errors.New("the path is empty")}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	// Unlike open(2), open_tree(2) mounts an automount at the end of the path.
	f, err := sys.OpenTree(abs, 0)
	if errors.Is(err, unix.ENOSYS) {
		f, err = os.OpenFile(abs, unix.O_PATH, 0)
	}
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if _, err := f.Stat(); err != nil {
		return fail(err)
	}
	real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return fail(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(fd), real), nil
}

// below reports whether path lies below dir; no path lies below itself.
func below(path, dir string) bool {
	return path != dir && (dir == "/" || strings.HasPrefix(path, dir+"/"))
}

// cause takes the errno out of an error that names a path already.
func cause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
