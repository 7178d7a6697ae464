package bench

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// privateEnv tells a program that it is in a namespace of its own.
const privateEnv = "IDMOUNT_BENCH_PRIVATE"

// Private moves the program into a mount namespace of its own, so that nobody
// else sees the mounts of a run, and nothing of them is left however it ends.
//
// Unsharing would move one thread only: the program is executed again, as the
// same process with the same arguments, and Private then returns nil at once.
// A program calls it before it has done anything.
func Private() error {
	if os.Getenv(privateEnv) != "" {
		return os.Unsetenv(privateEnv)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare (mount namespace): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount / (recursive, private): %w", err)
	}
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), privateEnv+"=1"))
	return fmt.Errorf("exec /proc/self/exe: %w", err)
}
