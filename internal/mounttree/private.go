package mounttree

import (
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Private calls fn on a thread that has a mount namespace of its own, a copy of the
// caller's. Nothing that is mounted there is seen elsewhere, or the reverse.
func Private(fn func() error) (err error) {
	sys.OnOwnThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			err = &sys.Error{Op: "unshare", Path: "mounts", Err: err}
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			err = &sys.Error{Op: "mount", Path: "/", Detail: "private", Err: err}
			return
		}
		err = fn()
	})
	return err
}
