package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// killScenarios: what writing takes away: suid, sgid and file capabilities.
func killScenarios() []*Scenario {
	var out []*Scenario
	for _, own := range []string{"AA", "BB", "BA", "AB", "RR", "AU"} {
		for _, mode := range []uint32{0o4777, 0o2777, 0o6777, 0o2767, 0o6767, 0o777} {
			for _, withCap := range []bool{false, true} {
				if mode == 0o777 && !withCap {
					continue
				}
				out = append(out, &Scenario{
					Name: fmt.Sprintf("kill/own=%s,mode=%#o,cap=%v", own, mode, withCap),
					Slow: withCap && mode != 0o777 && mode != 0o6777,
					Setup: func(d *Disk) {
						for _, k := range killers {
							d.File(k.name, own, mode)
							if withCap {
								d.Xattr(k.name, capability, CapNetRaw(2, 0))
							}
						}
					},
					Op: func(e *Env) {
						for _, k := range killers {
							k.do(e, k.name)
							e.Mode("after "+k.name, k.name)
							e.Saw("capability after "+k.name, xattrText(k.name, capability))
						}
					},
				})
			}
		}
	}
	return out
}

var killers = []struct {
	name string
	do   func(*Env, string)
}{
	{"write", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_WRONLY, 0); fd >= 0 {
			_, err := unix.Write(fd, []byte("x"))
			e.Did(f, err)
		}
	}},
	{"write-nothing", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_WRONLY, 0); fd >= 0 {
			_, err := unix.Write(fd, nil)
			e.Did(f, err)
		}
	}},
	{"open-only", func(e *Env, f string) { e.Open("open "+f, f, unix.O_RDWR, 0) }},
	{"append", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_WRONLY|unix.O_APPEND, 0); fd >= 0 {
			_, err := unix.Write(fd, []byte("x"))
			e.Did(f, err)
		}
	}},
	{"pwritev", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_RDWR, 0); fd >= 0 {
			_, err := unix.Pwritev(fd, [][]byte{[]byte("ab"), []byte("cd")}, 3)
			e.Did(f, err)
		}
	}},
	{"truncate", func(e *Env, f string) { e.Did(f, unix.Truncate(f, 3)) }},
	{"truncate-same", func(e *Env, f string) { e.Did(f, unix.Truncate(f, int64(len("data of truncate-same\n")))) }},
	{"ftruncate", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_WRONLY, 0); fd >= 0 {
			e.Did(f, unix.Ftruncate(fd, 3))
		}
	}},
	{"open-truncating", func(e *Env, f string) { e.Open(f, f, unix.O_WRONLY|unix.O_TRUNC, 0) }},
	{"fallocate", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_WRONLY, 0); fd >= 0 {
			e.Did(f, unix.Fallocate(fd, 0, 0, 100))
		}
	}},
	{"punch", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_WRONLY, 0); fd >= 0 {
			e.Did(f, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 3))
		}
	}},
	{"copy", func(e *Env, f string) {
		fd := e.Open("open "+f, f, unix.O_RDWR, 0)
		from := e.Open("open to copy", "write", unix.O_RDONLY, 0)
		if fd >= 0 && from >= 0 {
			n, err := unix.CopyFileRange(from, nil, fd, nil, 4, 0)
			e.Did(f, err)
			e.Saw("copied", fmt.Sprint(n))
		}
	}},
	{"map", func(e *Env, f string) {
		if fd := e.Open("open "+f, f, unix.O_RDWR, 0); fd >= 0 {
			m, err := unix.Mmap(fd, 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			e.Did(f, err)
			if err == nil {
				m[0] = 'M'
				e.Did("msync", unix.Msync(m, unix.MS_SYNC))
				_ = unix.Munmap(m)
			}
		}
	}},
	{"chmod", func(e *Env, f string) { e.Did(f, unix.Chmod(f, 0o6775)) }},
}
