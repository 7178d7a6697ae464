package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// CloneDetached returns a detached mount of the directory or file name in tree, which is a
// detached mount as well. Links are not followed.
//
// Before Linux 6.15 only what is in the caller's mount namespace can be cloned.
// There tree is attached in a namespace that nobody else has, and that ends with the
// call; what is returned does not.
func CloneDetached(tree *os.File, name string) (*os.File, error) {
	inner, err := OpenTreeAt(tree, name, unix.OPEN_TREE_CLONE|unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) {
		return cloneElsewhere(tree, name)
	}
	return inner, err
}

// cloneElsewhere finds the name first: once tree is attached it can't be
// attached anywhere else.
func cloneElsewhere(tree *os.File, name string) (inner *os.File, err error) {
	fd, errno := OpenAt(int(tree.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		return nil, &Error{Op: "open", Path: join(tree, name), Err: errno}
	}
	dir := os.NewFile(uintptr(fd), join(tree, name))
	defer dir.Close()
	OnOwnThread(func() {
		if err = PrivateMounts(); err != nil {
			return
		}
		if err = MoveMount(tree, "/"); err == nil {
			inner, err = OpenTreeAt(dir, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
		}
	})
	return inner, err
}
