package sys

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// EmptyMapStandIn is the map text that NewUserNamespace writes for a kind of
// id without any extent. mount_setattr answers EINVAL for a user namespace
// with an empty map, so one id has to be mapped: 4294967294, which is
// (gid_t)-2, to itself. No file and no process has it in practice.
const EmptyMapStandIn = "4294967294 4294967294 1\n"

// NewUserNamespace makes a user namespace with the given maps and returns a
// file that keeps it alive, as /proc/PID/ns/user does. No process stays in it.
// The maps are in the format of /proc/PID/uid_map, "inside outside count\n"
// lines; as Userns_fd of a mount, inside is the id on disk and outside the id
// that the mount shows. An empty map is written as EmptyMapStandIn.
//
// The kernel takes a map only in one write of less than a page, 4096 bytes
// almost everywhere: longer text is an error with the cause EINVAL, before
// anything has been tried.
//
// The namespace is made by a short-lived child of this process that runs no
// program: it has all signals blocked, waits, and is killed and reaped here.
// The caller's SIGCHLD handler and wait4(-1) loops never see it.
func NewUserNamespace(uidMap, gidMap string) (*os.File, error) {
	maps := [...]struct{ file, text string }{{"uid_map", uidMap}, {"gid_map", gidMap}}
	for i := range maps {
		m := &maps[i]
		if m.text == "" {
			m.text = EmptyMapStandIn
		}
		// Kernel: map_write() in kernel/user_namespace.c, count >= PAGE_SIZE.
		if size := os.Getpagesize(); len(m.text) >= size {
			detail := fmt.Sprintf("%d bytes, the kernel takes %d at most", len(m.text), size-1)
			return nil, &Error{Op: "write", Path: m.file, Detail: detail, Err: unix.EINVAL}
		}
	}

	// The child dies with the thread that made it (PR_SET_PDEATHSIG), so the
	// thread must stay until the child is reaped.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	pid, err := startUsernsChild()
	if err != nil {
		return nil, err
	}
	defer endUsernsChild(pid)

	proc := "/proc/" + strconv.Itoa(pid) + "/"
	for _, m := range maps {
		err := writeFile(proc+m.file, m.text)
		if err == unix.EPERM && m.file == "gid_map" {
			// Without CAP_SETGID the kernel wants setgroups(2) given up first.
			if writeFile(proc+"setgroups", "deny") == nil {
				err = writeFile(proc+m.file, m.text)
			}
		}
		if err != nil {
			return nil, &Error{Op: "write", Path: m.file, Detail: "of a new user namespace", Err: err}
		}
	}
	fd, err := unix.Open(proc+"ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "open", Path: proc + "ns/user", Err: err}
	}
	return os.NewFile(uintptr(fd), "user namespace"), nil
}

// writeFile writes text by one write(2), which is all that a map file takes.
func writeFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

func startUsernsChild() (int, error) {
	// No signal may reach the child between its birth and its death: it would
	// run a Go signal handler without a Go runtime around it.
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, &Error{Op: "rt_sigprocmask", Err: err}
	}
	pid, errno := cloneUsernsChild(os.Getpid())
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil && errno == 0 {
		endUsernsChild(pid)
		return 0, &Error{Op: "rt_sigprocmask", Err: err}
	}
	if errno != 0 {
		return 0, &Error{Op: "clone", Detail: "flags newuser", Err: errno}
	}
	return pid, nil
}

// cloneUsernsChild makes the child. In the child it never returns.
//
// The rules are those of syscall.forkAndExecInChild: the child is one thread
// with a copy of this memory and no scheduler, so from the clone on it may
// grow no stack, allocate nothing and only issue raw system calls. It can
// share the parent's memory (CLONE_VM) only with a stack of its own, which Go
// code cannot give it. The exit signal is none: see NewUserNamespace.
// CLONE_FILES spares a copy of the descriptor table, and the child would else
// hold descriptors open that the parent closes meanwhile.
//
//go:norace
//go:nosplit
//go:noinline
func cloneUsernsChild(parent int) (pid int, errno unix.Errno) {
	const flags = unix.CLONE_NEWUSER | unix.CLONE_FILES
	var id uintptr
	if runtime.GOARCH == "s390x" {
		id, _, errno = unix.RawSyscall6(unix.SYS_CLONE, 0, flags, 0, 0, 0, 0)
	} else {
		id, _, errno = unix.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	}
	if errno != 0 || id != 0 {
		return int(id), errno
	}

	unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	// The parent may have died before the prctl. 0: it is in another pid
	// namespace, and there is no telling.
	if ppid, _, _ := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); int(ppid) != parent && ppid != 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
	for {
		// Every signal is blocked but SIGKILL, so this waits for it. ppoll
		// because arm64 has no pause.
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// endUsernsChild kills and reaps the child. The pid cannot have been reused:
// only a wait with __WALL or __WCLONE reaps a child without an exit signal.
func endUsernsChild(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	_ = retry(func() error {
		_, err := unix.Wait4(pid, nil, unix.WALL, nil)
		return err
	})
}
