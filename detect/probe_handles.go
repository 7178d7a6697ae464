package detect

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// probeFileHandles opens the source, and one entry of it if it has any, by
// file handle. The entry matters: some file systems decode the handle of their
// root and nothing else.
func (r *Report) probeFileHandles(src *os.File) {
	// The mount that open_by_handle_at works on cannot be an O_PATH file.
	mnt, err := unix.Openat(int(src.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) && fileType(src) != unix.S_IFREG {
		r.FileHandles = unknown(nil, "not tried: the source is neither a directory nor a regular file, and opening it may do something")
		return
	}
	if err != nil {
		// A file as source: itself. Through /proc, because openat has no
		// AT_EMPTY_PATH.
		mnt, err = unix.Open(fmt.Sprintf("/proc/thread-self/fd/%d", src.Fd()), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		r.FileHandles = unknown(&sys.Error{Op: "open", Path: r.Path, Err: err}, "the source could not be opened")
		return
	}
	dir := os.NewFile(uintptr(mnt), r.Path)
	defer dir.Close()

	tries := []string{""}
	if entries, _ := dir.ReadDir(1); len(entries) == 1 {
		tries = append(tries, entries[0].Name())
	}
	for _, name := range tries {
		err := reopen(dir, name)
		switch {
		case err == nil:
		case isAny(err, unix.EOPNOTSUPP, unix.ESTALE, unix.ENOSYS):
			r.FileHandles = no(err, "%s has no file handles to open by", r.FSType)
			return
		case isAny(err, unix.EPERM):
			r.FileHandles = unknown(err, "opening by file handle is not permitted, it takes CAP_DAC_READ_SEARCH")
			return
		default:
			r.FileHandles = unknown(err, "opening by file handle failed")
			return
		}
	}
	r.FileHandles = yes("%s opens by file handle", r.FSType)
}

// fileType returns the S_IFMT bits, 0 if they can't be asked for.
func fileType(f *os.File) uint32 {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

// reopen opens name in dir, or dir itself, by its file handle, and checks that
// it is the same inode.
func reopen(dir *os.File, name string) error {
	flags := 0
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	handle, _, err := unix.NameToHandleAt(int(dir.Fd()), name, flags)
	if err != nil {
		return &sys.Error{Op: "name_to_handle_at", Path: name, Err: err}
	}
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), handle, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return &sys.Error{Op: "open_by_handle_at", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var want, got unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &want, flags|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &sys.Error{Op: "fstatat", Path: name, Err: err}
	}
	if err := unix.Fstat(fd, &got); err != nil {
		return &sys.Error{Op: "fstat", Path: name, Err: err}
	}
	// A mount point gives the handle of what is mounted on it, so the device
	// counts as well.
	if want.Dev != got.Dev || want.Ino != got.Ino {
		return &sys.Error{Op: "open_by_handle_at", Path: name, Detail: "another inode came back", Err: unix.ESTALE}
	}
	return nil
}
