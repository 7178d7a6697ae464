package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// createScenarios: who owns what is made, with which mode, and who may not.
func createScenarios() []*Scenario {
	var out []*Scenario
	for _, dir := range []struct {
		owner string
		mode  uint32
	}{
		{"AA", 0o777}, {"AA", 0o755}, {"AA", 0o2777}, {"BB", 0o2777}, {"AB", 0o2775}, {"BA", 0o2775},
		{"RR", 0o777}, {"UU", 0o777}, {"UU", 0o2777}, {"UA", 0o777}, {"AU", 0o777}, {"AU", 0o2777},
	} {
		for _, umask := range []int{0, 0o027} {
			out = append(out, &Scenario{
				Name:  fmt.Sprintf("create/dir=%s,mode=%#o,umask=%#o", dir.owner, dir.mode, umask),
				Setup: func(d *Disk) { d.Mkdir("d", dir.owner, dir.mode) },
				Op: func(e *Env) {
					unix.Umask(umask)
					makeEverything(e, "d/")
				},
			})
			out = append(out, &Scenario{
				Name: fmt.Sprintf("create-default-acl/dir=%s,mode=%#o,umask=%#o", dir.owner, dir.mode, umask),
				Slow: umask == 0,
				Setup: func(d *Disk) {
					d.Mkdir("d", dir.owner, dir.mode)
					d.Xattr("d", defaultACL, ACLXattr(7, 5, 7, 1,
						ACLEntry{ACLUser, 6, d.Map.A}, ACLEntry{ACLUser, 4, d.Map.U}, ACLEntry{ACLGroup, 7, d.Map.B}))
				},
				Op: func(e *Env) {
					unix.Umask(umask)
					makeEverything(e, "d/")
				},
			})
		}
	}
	return out
}

func makeEverything(e *Env, in string) {
	for _, mode := range []uint32{0o644, 0o666, 0o2775, 0o4755, 0o2767, 0o6777} {
		name := fmt.Sprintf("%sfile-%o", in, mode)
		if fd := e.Open("open create "+name, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, mode); fd >= 0 {
			e.Mode("mode of "+name, name)
		}
	}
	e.Open("open create existing", in+"file-644", unix.O_CREAT|unix.O_RDONLY, 0o644)
	e.Open("open create excl existing", in+"file-644", unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY, 0o644)
	for _, mode := range []uint32{0o755, 0o777, 0o1777, 0o2770} {
		name := fmt.Sprintf("%sdir-%o", in, mode)
		e.Did("mkdir "+name, unix.Mkdir(name, mode))
	}
	e.Did("mkdir below", unix.Mkdir(in+"dir-777/below", 0o777))
	e.Did("mkdir existing", unix.Mkdir(in+"dir-777", 0o777))
	for _, n := range []struct {
		name string
		mode uint32
		dev  int
	}{
		{"regular", unix.S_IFREG | 0o2775, 0},
		{"fifo", unix.S_IFIFO | 0o666, 0},
		{"socket", unix.S_IFSOCK | 0o666, 0},
		{"char", unix.S_IFCHR | 0o666, int(unix.Mkdev(1, 3))},
		{"whiteout", unix.S_IFCHR | 0o600, 0},
		{"block", unix.S_IFBLK | 0o660, int(unix.Mkdev(7, 300))},
	} {
		e.Did("mknod "+n.name, unix.Mknod(in+n.name, n.mode, n.dev))
	}
	e.Did("symlink", unix.Symlink("file-644", in+"symlink"))
	e.Did("symlink existing", unix.Symlink("x", in+"symlink"))
	if fd := e.Open("tmpfile", in+".", unix.O_TMPFILE|unix.O_RDWR, 0o2775); fd >= 0 {
		var st unix.Stat_t
		e.Did("fstat tmpfile", unix.Fstat(fd, &st))
		e.Saw("tmpfile", fmt.Sprintf("%#o %d:%d nlink %d", st.Mode, st.Uid, st.Gid, st.Nlink))
		_, err := unix.Write(fd, []byte("tmp"))
		e.Did("write tmpfile", err)
		e.Did("link tmpfile", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, in+"linked", unix.AT_SYMLINK_FOLLOW))
	}
	if fd := e.Open("tmpfile excl", in+".", unix.O_TMPFILE|unix.O_EXCL|unix.O_WRONLY, 0o600); fd >= 0 {
		e.Did("link tmpfile excl", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, in+"linked2", unix.AT_SYMLINK_FOLLOW))
	}
}
