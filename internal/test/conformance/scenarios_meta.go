package conformance

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// metaScenarios: modes, times and flags.
func metaScenarios() []*Scenario {
	var out []*Scenario
	for _, own := range owners {
		out = append(out, &Scenario{
			Name: "chmod/own=" + own,
			Setup: func(d *Disk) {
				for i := range chmodModes {
					d.File(fmt.Sprintf("f%d", i), own, 0o644)
					d.Mkdir(fmt.Sprintf("d%d", i), own, 0o755)
				}
			},
			Op: func(e *Env) {
				for i, mode := range chmodModes {
					e.Did(fmt.Sprintf("chmod file %#o", mode), unix.Chmod(fmt.Sprintf("f%d", i), mode))
					e.Did(fmt.Sprintf("chmod dir %#o", mode), unix.Chmod(fmt.Sprintf("d%d", i), mode))
				}
			},
		})
		for _, mode := range []uint32{0o644, 0o666} {
			out = append(out, &Scenario{
				Name:  fmt.Sprintf("utimes/own=%s,mode=%#o", own, mode),
				Setup: func(d *Disk) { d.File("f", own, mode); d.Symlink("f", "l", own) },
				Op:    setTimes,
			})
		}
		out = append(out, &Scenario{
			Name:  "flags/own=" + own,
			Setup: func(d *Disk) { d.File("f", own, 0o666); d.Mkdir("d", own, 0o777) },
			Op: func(e *Env) {
				for _, name := range []string{"f", "d"} {
					fd := e.Open("open "+name, name, unix.O_RDONLY, 0)
					if fd < 0 {
						continue
					}
					var flags uint32
					err := ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags))
					e.Did("getflags "+name, err)
					if err != nil {
						continue
					}
					const noDump = 0x40
					flags |= noDump
					e.Did("setflags "+name, ioctl(fd, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&flags)))
					err = ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags))
					e.Did("getflags again "+name, err)
					e.Saw("nodump "+name, fmt.Sprint(flags&noDump != 0))
				}
				e.Open("open noatime", "f", unix.O_RDONLY|unix.O_NOATIME, 0)
			},
		})
	}
	return out
}

var chmodModes = []uint32{0o600, 0o777, 0o4755, 0o2755, 0o2745, 0o6777, 0o1755}

func ioctl(fd int, cmd uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func setTimes(e *Env) {
	now, omit := unix.Timespec{Nsec: unix.UTIME_NOW}, unix.Timespec{Nsec: unix.UTIME_OMIT}
	then := func(n int64) unix.Timespec { return unix.Timespec{Sec: 1e9 + n, Nsec: 123456789} }
	for _, c := range []struct {
		name         string
		atime, mtime unix.Timespec
	}{
		{"set both", then(1), then(2)}, {"set atime", then(3), omit}, {"set mtime", omit, then(4)},
		{"omit both", omit, omit}, {"now and omit", now, omit}, {"now both", now, now}, {"set after now", then(5), then(6)},
	} {
		e.Did("utimensat "+c.name, unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{c.atime, c.mtime}, 0))
		var st unix.Stat_t
		if unix.Stat("f", &st) == nil {
			e.Saw("times after "+c.name, timeText(st.Atim)+" "+timeText(st.Mtim))
		}
	}
	e.Did("utimensat link", unix.UtimesNanoAt(unix.AT_FDCWD, "l", []unix.Timespec{then(7), then(8)}, unix.AT_SYMLINK_NOFOLLOW))
	e.Did("utimes null", unix.Utimes("f", nil))
}

// timeText is a time if a scenario has set it, and else only that it is recent.
func timeText(ts unix.Timespec) string {
	if ts.Sec < 1.1e9 {
		return fmt.Sprintf("%d.%09d", ts.Sec, ts.Nsec)
	}
	return "recent"
}
