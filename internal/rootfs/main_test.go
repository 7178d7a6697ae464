package rootfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// privateEnv says that the test program runs in its own mount namespace.
const privateEnv = "IDMOUNT_ROOTFS_PRIVATE"

func TestMain(m *testing.M) {
	if what := os.Getenv(insideEnv); what != "" {
		os.Exit(insideMain(what))
	}
	if os.Geteuid() != 0 || os.Getenv(privateEnv) != "" {
		os.Exit(m.Run())
	}
	os.Exit(private())
}

// private runs the test program again in a mount namespace of its own, whose
// mounts nobody else sees and all end with it. A thread could unshare its
// namespace without a new process, but Go's other threads would stay.
func private() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// With Unshareflags Go also makes all mounts private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread() // Pdeathsig goes by the thread
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "rootfs: own mount namespace:", err)
	return 1
}

// skip skips a test for a reason that lies in the machine. In CI, which has
// everything, that is a failure.
func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("IDMOUNT_CI") != "" {
		t.Fatalf("in CI nothing may be missing: %s", reason)
	}
	t.Skip(reason)
}
