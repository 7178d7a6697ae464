package server

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// resource is a limit that a server can run into.
type resource struct {
	number int
	name   string // as ulimit(1) calls it
	want   uint64 // what a server needs at most

	// least is what a hard limit has to be for no warning.
	least uint64
	// breaks says what happens at the limit. With fatal, a server that can run into
	// it is not started.
	breaks string
	fatal  bool
}

const unlimited = unix.RLIM_INFINITY

// resources are those that matter to a server. The size of stacks and of core dumps
// does not, nor do limits of what a server does not use (message queues, realtime).
func resources() []resource {
	return []resource{
		{unix.RLIMIT_FSIZE, "file size (ulimit -f)", unlimited, unlimited, "no user of the mount could write a file beyond it", true},
		{unix.RLIMIT_CPU, "CPU time (ulimit -t)", unlimited, unlimited, "the kernel would kill the server after that time", true},
		{unix.RLIMIT_NOFILE, "open files (ulimit -n)", maxDescriptors(), 4096, "all users of the mount share them", false},
		{unix.RLIMIT_AS, "address space (ulimit -v)", unlimited, unlimited, "the server ends when it needs more, and the mount with it", false},
		{unix.RLIMIT_DATA, "data segment (ulimit -d)", unlimited, unlimited, "the server ends when it needs more, and the mount with it", false},
		{unix.RLIMIT_NPROC, "processes (ulimit -u)", unlimited, 1024, "the server ends when it can't start a thread, and the mount with it", false},
		{unix.RLIMIT_MEMLOCK, "locked memory (ulimit -l)", unlimited, 0, "", false},
		{unix.RLIMIT_SIGPENDING, "pending signals (ulimit -i)", unlimited, 0, "", false},
	}
}

// maxDescriptors is the highest limit that the kernel accepts for open files.
func maxDescriptors() uint64 {
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 31); err == nil {
			return n
		}
	}
	return 1 << 20
}

// RaiseLimits raises the resource limits of the process to what a server needs or,
// without CAP_SYS_RESOURCE, to its hard limits. warnings name the limits that stay too
// low. A limit that would break the writes of others, or end the server for certain, is
// an error; a server of a read-only mount does not write.
func RaiseLimits(readOnly bool) (warnings []string, err error) {
	for _, r := range resources() {
		limit, err := r.raise()
		if err != nil {
			return warnings, err
		}
		if limit >= r.least || readOnly && r.number == unix.RLIMIT_FSIZE {
			continue
		}
		text := fmt.Sprintf("the limit of the %s is %d and can't be raised without CAP_SYS_RESOURCE: %s", r.name, limit, r.breaks)
		if r.fatal {
			return warnings, &limitError{text}
		}
		warnings = append(warnings, text)
	}
	return warnings, nil
}

// limitError is a limit that no server can live with.
type limitError struct{ text string }

func (e *limitError) Error() string { return e.text }
func (e *limitError) Unwrap() error { return unix.EPERM }

// raise returns the limit that holds afterwards.
func (r *resource) raise() (uint64, error) {
	var is unix.Rlimit
	if err := unix.Prlimit(0, r.number, nil, &is); err != nil {
		return 0, &sys.Error{Op: "prlimit", Detail: r.name, Err: err}
	}
	if is.Max < r.want {
		// Rlimit has the limits of the kernel even where int is shorter.
		if unix.Prlimit(0, r.number, &unix.Rlimit{Cur: r.want, Max: r.want}, nil) == nil {
			return r.want, nil
		}
	}
	if is.Cur < is.Max {
		if err := unix.Prlimit(0, r.number, &unix.Rlimit{Cur: is.Max, Max: is.Max}, nil); err != nil {
			return 0, &sys.Error{Op: "prlimit", Detail: r.name, Err: err}
		}
	}
	return is.Max, nil
}

// oomScore makes the kernel take others first when memory runs out: all users of the
// mount fail with its server. It is not -1000, which would protect a server that leaks.
const oomScore = -900

// SetOOMScore takes the server out of the first line of what the kernel kills when
// memory runs out. Without CAP_SYS_RESOURCE the score can't be lower than what a
// privileged process has set: then a warning says what it is, if that is worse than
// that of an ordinary process.
func SetOOMScore() (warning string) {
	const path = "/proc/self/oom_score_adj"
	for _, score := range []int{oomScore, 0} {
		if os.WriteFile(path, []byte(strconv.Itoa(score)), 0) == nil {
			return ""
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if score, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && score > 0 {
		return fmt.Sprintf("the server has the OOM score %d of who started it, and it can't be lowered without CAP_SYS_RESOURCE: the kernel may kill it when memory runs out, and the mount with it", score)
	}
	return ""
}
