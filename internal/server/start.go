package server

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Start starts cmd as cmd.Start does, with the thread attributes of a new process
// (sys.ResetThread) instead of the caller's. The bounding set of the command is keep.
// warning says what the command has inherited all the same.
//
// The attributes belong to a thread that ends with the call, so the calling process
// keeps its own.
func Start(cmd *exec.Cmd, namespace *os.File, keep sys.CapSet) (warning, err error) {
	sys.OnOwnThread(func() {
		// A new thread is in the namespace of the process, which need not be that of
		// the caller's thread.
		if err = enter(namespace); err != nil {
			return
		}
		warning = sys.ResetThread()
		// Without CAP_SETPCAP it keeps the set that there is.
		_ = sys.RestrictThread(keep)
		err = cmd.Start()
	})
	return warning, err
}

// enter moves the calling thread to a mount namespace unless it is there.
func enter(namespace *os.File) error {
	here, err := OpenNamespace()
	if err != nil {
		return err
	}
	defer here.Close()
	if same(here, namespace) {
		return nil
	}
	// setns refuses a thread that shares its root and working directory.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return &sys.Error{Op: "unshare", Detail: "flags fs", Err: err}
	}
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
		return &sys.Error{Op: "setns", Path: namespace.Name(), Detail: "mounts", Err: err}
	}
	return nil
}
