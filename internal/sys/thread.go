package sys

import (
	"errors"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// OnOwnThread calls fn on a thread that ends with it, so that what fn changes of the
// thread stays with nobody: its credentials, mount namespace, signal mask and the like.
func OnOwnThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Not unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread stays to its end, and is what /proc/self shows.
			OnOwnThread(fn)
			runtime.UnlockOSThread()
			return
		}
		fn()
	}()
	<-done
}

// ResetThread gives the calling thread what a thread of a freshly booted system
// has: an empty signal mask, the default scheduling policy, niceness, I/O priority,
// memory policy, timer slack and personality, no supplementary groups, and the
// processors of process 1. A process that is forked from the thread inherits all of it.
// The error names what could not be reset; everything else has been.
func ResetThread() error {
	var failed []error
	try := func(what string, err error) {
		// A kernel or a seccomp filter without the call has nothing to reset.
		if err != nil && err != unix.ENOSYS {
			failed = append(failed, &Error{Op: what, Err: err})
		}
	}
	raw := func(what string, number, a, b, c uintptr) {
		if _, _, errno := unix.RawSyscall(number, a, b, c); errno != 0 {
			try(what, errno)
		}
	}
	try("rt_sigprocmask", unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil))
	try("sched_setattr (SCHED_OTHER, nice 0)", resetScheduling())
	try("sched_setaffinity", resetAffinity())
	const whoProcess, classNone = 1, 0
	raw("ioprio_set", unix.SYS_IOPRIO_SET, whoProcess, 0, classNone)
	const policyDefault = 0
	raw("set_mempolicy", unix.SYS_SET_MEMPOLICY, policyDefault, 0, 0)
	const slack = 50_000 // nanoseconds, init_task of the kernel
	raw("prctl (timer slack)", unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, slack, 0)
	const personalityLinux = 0
	raw("personality", unix.SYS_PERSONALITY, personalityLinux, 0, 0)
	// Where setgroups(2) is denied, as in many user namespaces, they stay.
	if errno := setgroups(nil); errno != 0 && errno != unix.EPERM {
		try("setgroups", errno)
	}
	return errors.Join(failed...)
}

// resetScheduling changes nothing where there is nothing to change: to lower the
// niceness takes CAP_SYS_NICE.
func resetScheduling() error {
	const normal = 0 // SCHED_OTHER
	is, err := unix.SchedGetAttr(0, 0)
	if err == nil && is.Policy == normal && is.Nice == 0 && is.Flags == 0 {
		return nil
	}
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: normal}, 0)
}

// resetAffinity takes the processors of the system's first process, which are those
// that the administrator gives to everything. The kernel takes those of them that the
// cpuset of the cgroup allows.
func resetAffinity() error {
	all := unix.NewCPUSet(1 << 13) // the most that CONFIG_NR_CPUS can be
	if unix.SchedGetaffinityDynamic(1, all) != nil {
		all.Fill()
	}
	return unix.SchedSetaffinityDynamic(0, all)
}

// Reasons returns the parts of an error that errors.Join has made, as one line.
func Reasons(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
