package conformance

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// output runs a program by the calling thread, whose credentials it inherits.
func output(name string, args ...string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return "", errno
		}
		return "", err
	}
	text, err := io.ReadAll(r)
	if werr := cmd.Wait(); werr != nil {
		return string(text), fmt.Errorf("exit: %s", cmd.ProcessState)
	}
	return string(text), err
}

// keptOpen is the number that a program's descriptor has if it stays open in the
// program.
const keptOpen = 100

// outputAt is output by execveat(2), which package os/exec has no way to call. The
// descriptor dirfd is closed as the program starts, unless keep is set.
func outputAt(dirfd int, path string, flags int, keep bool, args ...string) (string, error) {
	argv, err := syscall.SlicePtrFromStrings(append([]string{"program"}, args...))
	if err != nil {
		return "", err
	}
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	failed, failure, err := os.Pipe()
	if err != nil {
		w.Close()
		return "", err
	}
	defer failed.Close()
	x := execRequest{
		dirfd: uintptr(dirfd), path: name, argv: &argv[0], env: new(*byte), flags: uintptr(flags), keep: keep,
		stdout: w.Fd(), failure: failure.Fd(),
	}
	pid, err := x.start()
	w.Close()
	failure.Close()
	if err != nil {
		return "", err
	}
	var errno [unsafe.Sizeof(uintptr(0))]byte
	n, _ := io.ReadFull(failed, errno[:])
	text, err := io.ReadAll(r)
	var status unix.WaitStatus
	if _, werr := unix.Wait4(pid, &status, 0, nil); werr != nil {
		return "", werr
	}
	switch number := *(*uintptr)(unsafe.Pointer(&errno)); {
	case n > 0 && number != 0:
		return "", syscall.Errno(number)
	case n == 0 && status != 0:
		return string(text), fmt.Errorf("exit: %#x", uint32(status))
	}
	return string(text), err
}

// execRequest is what the child of outputAt needs.
type execRequest struct {
	dirfd           uintptr
	path            *byte
	argv, env       **byte
	flags           uintptr
	keep            bool
	stdout, failure uintptr
}

// start makes the child. No signal may reach it: it would run a Go signal handler
// without a Go runtime around it.
func (x *execRequest) start() (int, error) {
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, err
	}
	pid, errno := x.fork()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, errno
	}
	return int(pid), nil
}

// fork returns in the parent alone. The child may grow no stack, allocate nothing
// and only issue raw system calls. It sends a word if it does not become the
// program: 0 if execveat(2) has found nothing wrong.
//
//go:norace
//go:nosplit
//go:noinline
func (x *execRequest) fork() (pid uintptr, errno unix.Errno) {
	pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	unix.RawSyscall(unix.SYS_DUP3, x.stdout, 1, 0)
	if x.keep {
		unix.RawSyscall(unix.SYS_DUP3, x.dirfd, keptOpen, 0)
		x.dirfd = keptOpen
	}
	_, _, errno = unix.RawSyscall6(unix.SYS_EXECVEAT, x.dirfd, uintptr(unsafe.Pointer(x.path)),
		uintptr(unsafe.Pointer(x.argv)), uintptr(unsafe.Pointer(x.env)), x.flags, 0)
	unix.RawSyscall(unix.SYS_WRITE, x.failure, uintptr(unsafe.Pointer(&errno)), unsafe.Sizeof(errno))
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// identity picks ids and capabilities out of /proc/PID/status.
func identity(status string) string {
	var out []string
	for _, line := range strings.Split(status, "\n") {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "Uid", "Gid", "CapPrm", "CapEff":
			out = append(out, name+" "+strings.Join(strings.Fields(value), ","))
		}
	}
	return strings.Join(out, " ")
}
