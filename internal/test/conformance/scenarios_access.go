package conformance

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// owners are the pairs of roles that inodes are tried with.
var owners = []string{"AA", "BB", "BA", "UU", "AU", "UA", "RR"}

// accessScenarios: who may open, enter, list and run what.
func accessScenarios() []*Scenario {
	var out []*Scenario
	for _, own := range owners {
		for _, mode := range []uint32{0o600, 0o640, 0o644, 0o666, 0o060, 0o755, 0o000} {
			out = append(out, &Scenario{
				Name:  fmt.Sprintf("open/own=%s,mode=%#o", own, mode),
				Setup: func(d *Disk) { d.File("f", own, mode) },
				Op: func(e *Env) {
					for _, o := range []struct {
						name  string
						flags int
					}{
						{"read", unix.O_RDONLY}, {"path", unix.O_PATH}, {"noatime", unix.O_RDONLY | unix.O_NOATIME},
						{"write", unix.O_WRONLY}, {"append", unix.O_WRONLY | unix.O_APPEND}, {"rdwr", unix.O_RDWR},
						{"directory", unix.O_RDONLY | unix.O_DIRECTORY},
					} {
						if fd := e.Open("open "+o.name, "f", o.flags, 0); fd >= 0 && o.flags == unix.O_RDWR {
							e.Did("fallocate", unix.Fallocate(fd, 0, 0, 100))
						}
					}
					for _, a := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
						e.Did(fmt.Sprintf("access %d", a), unix.Faccessat2(unix.AT_FDCWD, "f", a, 0))
						e.Did(fmt.Sprintf("eaccess %d", a), unix.Faccessat2(unix.AT_FDCWD, "f", a, unix.AT_EACCESS))
					}
					e.Did("truncate", unix.Truncate("f", 5))
					e.Open("open truncating", "f", unix.O_WRONLY|unix.O_TRUNC, 0)
				},
			})
		}
		for _, mode := range []uint32{0o700, 0o755, 0o711, 0o744, 0o070, 0o777} {
			out = append(out, &Scenario{
				Name: fmt.Sprintf("traverse/own=%s,mode=%#o", own, mode),
				Setup: func(d *Disk) {
					d.Mkdir("d", own, mode)
					d.File("d/f", "AA", 0o666)
					d.Mkdir("d/sub", "AA", 0o777)
				},
				Op: func(e *Env) {
					fd := e.Open("open directory", "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
					if fd >= 0 {
						n, err := unix.Getdents(fd, make([]byte, 4096))
						e.Did("getdents", err)
						e.Saw("any entries", fmt.Sprint(n > 0))
					}
					e.Open("open inside", "d/f", unix.O_RDWR, 0)
					e.Open("open inside of inside", "d/sub/new", unix.O_CREAT|unix.O_RDWR, 0o644)
					e.Open("open absent", "d/absent", unix.O_RDONLY, 0)
					e.Did("chdir", unix.Chdir("d"))
					e.Open("open here", "f", unix.O_RDONLY, 0)
				},
			})
		}
		for _, mode := range []uint32{0o755, 0o700, 0o711, 0o644, 0o4755, 0o2755, 0o6755, 0o6711} {
			out = append(out, &Scenario{
				Name:  fmt.Sprintf("exec/own=%s,mode=%#o", own, mode),
				Setup: func(d *Disk) { d.Program("cat", own, mode) },
				Op:    func(e *Env) { runCat(e) },
			})
		}
	}
	return out
}

// runCat runs the copy of cat in the directory, by its path and by descriptors, and
// records who it ran as.
func runCat(e *Env) {
	const status = "/proc/self/status"
	dir, err := os.Getwd()
	if err != nil {
		e.Did("getwd", err)
		return
	}
	out, err := output(dir+"/cat", status)
	e.Did("exec", err)
	e.Saw("ran as", identity(out))
	for _, by := range []struct {
		name  string
		flags int
	}{{"a path descriptor", unix.O_PATH}, {"a descriptor", unix.O_RDONLY}} {
		fd := e.Open("open "+by.name, "cat", by.flags, 0)
		if fd < 0 {
			continue
		}
		out, err := outputAt(fd, "", unix.AT_EMPTY_PATH, false, status)
		e.Did("exec by "+by.name, err)
		e.Saw("ran by "+by.name+" as", identity(out))
	}
}
