package server

import (
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// CloseInherited closes what the process has open since its start, but for keep and
// the standard descriptors. What this program has opened itself has FD_CLOEXEC, which
// nothing has that survived execve(2): Go opens no descriptor without it.
func CloseInherited(keep ...int) error {
	fds, err := openDescriptors()
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if fd <= 2 || slices.Contains(keep, fd) {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

func openDescriptors() ([]int, error) {
	const path = "/proc/self/fd"
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, &sys.Error{Op: "readdir", Path: path, Err: err}
	}
	var fds []int
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}
