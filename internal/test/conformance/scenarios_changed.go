package conformance

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ChangedScenarios are about the moment after a change at the source: owners, mode or
// ACL of a file or a directory are others than those that the mount has shown, when the
// caller does one thing there. They are no part of a usual run: see TestChanged.
var ChangedScenarios = slices.Concat(changedFiles(), changedDirectories())

// fileChanges are what f was, and what it is made.
var fileChanges = []struct {
	name           string
	before, owner  string
	mode, and      uint32
	acl, afterward []byte
}{
	{name: "owner=AA-BB", before: "AA", mode: 0o644, owner: "BB", and: 0o644},
	{name: "owner=AA-RR", before: "AA", mode: 0o755, owner: "RR", and: 0o755},
	{name: "owner=AA-UU", before: "AA", mode: 0o666, owner: "UU", and: 0o666},
	{name: "owner=AA-AU", before: "AA", mode: 0o666, owner: "AU", and: 0o666},
	{name: "owner=BB-AA", before: "BB", mode: 0o600, owner: "AA", and: 0o600},
	{name: "owner=UU-AA", before: "UU", mode: 0o644, owner: "AA", and: 0o644},
	{name: "group=AA-AB", before: "AA", mode: 0o664, owner: "AB", and: 0o664},
	{name: "group=BA-BB", before: "BA", mode: 0o664, owner: "BB", and: 0o664},
	{name: "mode=0666-0600", before: "BB", mode: 0o666, owner: "BB", and: 0o600},
	{name: "mode=0600-0666", before: "BB", mode: 0o600, owner: "BB", and: 0o666},
	{name: "mode=4755-0755", before: "AA", mode: 0o4755, owner: "BB", and: 0o755},
	{name: "acl-taken", before: "RR", mode: 0o660, owner: "RR", acl: aclOf('A'), and: 0o660, afterward: aclOf('U')},
	{name: "acl-given", before: "RR", mode: 0o660, owner: "RR", acl: aclOf('U'), and: 0o660, afterward: aclOf('A')},
}

// aclOf gives a user of a role all rights; role ids are filled in by named.
func aclOf(role byte) []byte { return []byte{role} }

func (d *Disk) acl(name string, role []byte) {
	if role == nil {
		return
	}
	user := ACLEntry{ACLUser, 6, d.Map.DiskID(role[0])}
	d.Xattr(name, accessACL, ACLXattr(6, 0, 6, 0, user))
}

// Own changes owners and mode.
func (d *Disk) Own(name, owner string, mode uint32) {
	d.do("owner of "+name, func() error { return d.own(name, owner, mode) })
}

// fileOps are what the caller does then, by the name f or by the descriptor fd, which
// it has opened before.
var fileOps = []struct {
	name string
	op   func(e *Env, fd int)
}{
	{"chmod-setuid", func(e *Env, _ int) { e.Did("chmod", unix.Chmod("f", 0o4755)) }},
	{"chmod-setgid", func(e *Env, _ int) { e.Did("chmod", unix.Chmod("f", 0o2775)) }},
	{"chmod", func(e *Env, _ int) { e.Did("chmod", unix.Chmod("f", 0o751)) }},
	{"fchmod-setuid", func(e *Env, fd int) { e.Did("fchmod", unix.Fchmod(fd, 0o4755)) }},
	{"fchmod", func(e *Env, fd int) { e.Did("fchmod", unix.Fchmod(fd, 0o604)) }},
	{"chgrp", func(e *Env, _ int) { e.Did("chown", unix.Chown("f", -1, e.GID('A'))) }},
	{"fchgrp", func(e *Env, fd int) { e.Did("fchown", unix.Fchown(fd, -1, e.GID('A'))) }},
	{"chown", func(e *Env, _ int) { e.Did("chown", unix.Chown("f", e.UID('A'), e.GID('B'))) }},
	{"chown-nothing", func(e *Env, _ int) { e.Did("chown", unix.Chown("f", -1, -1)) }},
	{"utimes", func(e *Env, _ int) {
		e.Did("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}, 0))
	}},
	{"touch", func(e *Env, _ int) { e.Did("utimes", unix.Utimes("f", nil)) }},
	{"futimens", func(e *Env, fd int) {
		e.Did("futimens", futimens(fd, []unix.Timespec{{Sec: 1e9}, {Nsec: unix.UTIME_NOW}}))
	}},
	{"truncate", func(e *Env, _ int) { e.Did("truncate", unix.Truncate("f", 3)) }},
	{"open-read", func(e *Env, _ int) { e.Open("open", "f", unix.O_RDONLY, 0) }},
	{"open-write", func(e *Env, _ int) { e.Open("open", "f", unix.O_WRONLY, 0) }},
	{"open-truncate", func(e *Env, _ int) { e.Open("open", "f", unix.O_RDWR|unix.O_TRUNC, 0) }},
	{"open-noatime", func(e *Env, _ int) { e.Open("open", "f", unix.O_RDONLY|unix.O_NOATIME, 0) }},
	{"exec", func(e *Env, _ int) {
		_, err := output("./f", "/dev/null")
		e.Did("exec", err)
	}},
	{"setxattr", func(e *Env, _ int) { e.Did("setxattr", unix.Setxattr("f", "user.new", []byte("x"), 0)) }},
	{"fsetxattr", func(e *Env, fd int) { e.Did("fsetxattr", unix.Fsetxattr(fd, "user.new", []byte("x"), 0)) }},
	{"getxattr", func(e *Env, _ int) {
		_, err := unix.Getxattr("f", "user.old", make([]byte, 8))
		e.Did("getxattr", err)
	}},
	{"removexattr", func(e *Env, _ int) { e.Did("removexattr", unix.Removexattr("f", "user.old")) }},
	{"fremovexattr", func(e *Env, fd int) { e.Did("fremovexattr", unix.Fremovexattr(fd, "user.old")) }},
	{"set-acl", func(e *Env, _ int) {
		acl := ACLXattr(7, 5, 5, 4, ACLEntry{ACLUser, 7, uint32(e.UID('A'))})
		e.Did("setxattr", unix.Setxattr("f", accessACL, acl, 0))
	}},
	{"remove-acl", func(e *Env, _ int) { e.Did("removexattr", unix.Removexattr("f", accessACL)) }},
	{"set-capability", func(e *Env, _ int) {
		e.Did("setxattr", unix.Setxattr("f", capability, CapNetRaw(2, 0), 0))
	}},
	{"setflags", func(e *Env, fd int) {
		const noDump = 0x40
		var flags uint32
		_ = ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags))
		flags |= noDump
		e.Did("setflags", ioctl(fd, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&flags)))
	}},
	{"link", func(e *Env, _ int) { e.Did("link", unix.Link("f", "new")) }},
	{"unlink", func(e *Env, _ int) { e.Did("unlink", unix.Unlink("f")) }},
	{"rename", func(e *Env, _ int) { e.Did("rename", unix.Rename("f", "new")) }},
	{"rename-onto", func(e *Env, _ int) { e.Did("rename", unix.Rename("other", "f")) }},
	{"unlink-sticky", func(e *Env, _ int) { e.Did("unlink", unix.Unlink("sticky/g")) }},
	{"rename-sticky", func(e *Env, _ int) { e.Did("rename", unix.Rename("sticky/g", "sticky/new")) }},
	{"rename-onto-sticky", func(e *Env, _ int) { e.Did("rename", unix.Rename("other", "sticky/g")) }},
}

func futimens(fd int, ts []unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func changedFiles() []*Scenario {
	var out []*Scenario
	for _, change := range fileChanges {
		for _, op := range fileOps {
			fd := -1
			out = append(out, &Scenario{
				Name: "changed-file/" + change.name + "/" + op.name,
				Setup: func(d *Disk) {
					d.File("f", change.before, 0o600)
					d.Xattr("f", "user.old", []byte("old"))
					d.acl("f", change.acl)
					d.Own("f", change.before, change.mode)
					d.File("other", "AA", 0o666)
					d.Mkdir("sticky", "RR", 0o1777)
					d.Link("f", "sticky/g")
				},
				Before: func(e *Env) {
					look(e, "f", "sticky", "sticky/g")
					fd = e.quietly("f")
				},
				Change: func(d *Disk) {
					if change.afterward != nil {
						d.acl("f", change.afterward)
					}
					d.Own("f", change.owner, change.and)
				},
				Op: func(e *Env) { op.op(e, fd) },
			})
		}
	}
	return out
}

// look has the kernel know files, and their ACLs.
func look(e *Env, names ...string) {
	var st unix.Stat_t
	for _, name := range names {
		_ = unix.Lstat(name, &st)
		_, _ = unix.Getxattr(name, accessACL, make([]byte, 512))
		_ = unix.Faccessat(unix.AT_FDCWD, name, unix.W_OK, unix.AT_EACCESS)
	}
}

// quietly opens a file, if the caller may, until the case ends.
func (e *Env) quietly(path string) int {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	e.fds = append(e.fds, fd)
	return fd
}

// directoryChanges are what d was, and what it is made.
var directoryChanges = []struct {
	name          string
	before, owner string
	mode, and     uint32
	acl, then     []byte
}{
	{name: "mode=0777-0755", before: "BB", mode: 0o777, owner: "BB", and: 0o755},
	{name: "mode=0777-0700", before: "RR", mode: 0o777, owner: "RR", and: 0o700},
	{name: "mode=0755-0777", before: "BB", mode: 0o755, owner: "BB", and: 0o777},
	{name: "mode=0777-1777", before: "RR", mode: 0o777, owner: "RR", and: 0o1777},
	{name: "mode=1777-0777", before: "RR", mode: 0o1777, owner: "RR", and: 0o777},
	{name: "mode=0777-2777", before: "RR", mode: 0o777, owner: "RB", and: 0o2777},
	{name: "owner=AA-BB", before: "AA", mode: 0o755, owner: "BB", and: 0o755},
	{name: "owner=BB-AA", before: "BB", mode: 0o755, owner: "AA", and: 0o755},
	{name: "owner=AA-UU", before: "AA", mode: 0o777, owner: "UU", and: 0o777},
	{name: "owner=UU-AA", before: "UU", mode: 0o777, owner: "AA", and: 0o777},
	{name: "group=BA-BB", before: "BA", mode: 0o775, owner: "BB", and: 0o775},
	{name: "sticky-owner=AA-BB", before: "AA", mode: 0o1777, owner: "BB", and: 0o1777},
	{name: "acl-taken", before: "RR", mode: 0o770, owner: "RR", and: 0o770, acl: aclOf('A'), then: aclOf('U')},
	{name: "acl-given", before: "RR", mode: 0o770, owner: "RR", and: 0o770, acl: aclOf('U'), then: aclOf('A')},
}

// directoryOps are what the caller does then in d, whose descriptor is fd.
var directoryOps = []struct {
	name string
	op   func(e *Env, fd int)
}{
	{"create", func(e *Env, _ int) { e.Open("open", "d/new", unix.O_RDWR|unix.O_CREAT, 0o2771) }},
	{"create-at", func(e *Env, fd int) {
		opened, err := unix.Openat(fd, "new", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		e.Did("openat", err)
		if err == nil {
			e.fds = append(e.fds, opened)
		}
	}},
	{"tmpfile", func(e *Env, _ int) { e.Open("open", "d", unix.O_RDWR|unix.O_TMPFILE, 0o600) }},
	{"mkdir", func(e *Env, _ int) { e.Did("mkdir", unix.Mkdir("d/new", 0o755)) }},
	{"mkdir-at", func(e *Env, fd int) { e.Did("mkdirat", unix.Mkdirat(fd, "new", 0o755)) }},
	{"mknod", func(e *Env, _ int) { e.Did("mknod", unix.Mknod("d/new", unix.S_IFIFO|0o644, 0)) }},
	{"symlink", func(e *Env, _ int) { e.Did("symlink", unix.Symlink("to", "d/new")) }},
	{"link", func(e *Env, _ int) { e.Did("link", unix.Link("f", "d/new")) }},
	{"unlink", func(e *Env, _ int) { e.Did("unlink", unix.Unlink("d/mine")) }},
	{"unlink-theirs", func(e *Env, _ int) { e.Did("unlink", unix.Unlink("d/theirs")) }},
	{"unlink-at", func(e *Env, fd int) { e.Did("unlinkat", unix.Unlinkat(fd, "mine", 0)) }},
	{"rmdir", func(e *Env, _ int) { e.Did("rmdir", unix.Rmdir("d/sub")) }},
	{"rename", func(e *Env, _ int) { e.Did("rename", unix.Rename("d/theirs", "d/new")) }},
	{"rename-in", func(e *Env, _ int) { e.Did("rename", unix.Rename("f", "d/new")) }},
	{"rename-onto", func(e *Env, _ int) { e.Did("rename", unix.Rename("f", "d/theirs")) }},
	{"rename-out", func(e *Env, _ int) { e.Did("rename", unix.Rename("d/mine", "new")) }},
	{"rename-itself", func(e *Env, _ int) { e.Did("rename", unix.Rename("d", "to/d")) }},
	{"exchange", func(e *Env, _ int) {
		e.Did("exchange", unix.Renameat2(unix.AT_FDCWD, "f", unix.AT_FDCWD, "d/mine", unix.RENAME_EXCHANGE))
	}},
	{"chmod", func(e *Env, _ int) { e.Did("chmod", unix.Chmod("d", 0o2751)) }},
	{"fchmod", func(e *Env, fd int) { e.Did("fchmod", unix.Fchmod(fd, 0o2751)) }},
	{"set-default-acl", func(e *Env, _ int) {
		acl := ACLXattr(7, 5, 5, 4, ACLEntry{ACLUser, 7, uint32(e.UID('A'))})
		e.Did("setxattr", unix.Setxattr("d", defaultACL, acl, 0))
	}},
}

func changedDirectories() []*Scenario {
	var out []*Scenario
	for _, change := range directoryChanges {
		for _, op := range directoryOps {
			fd := -1
			out = append(out, &Scenario{
				Name: fmt.Sprintf("changed-directory/%s/%s", change.name, op.name),
				Setup: func(d *Disk) {
					d.File("f", "AA", 0o666)
					d.Mkdir("to", "AA", 0o777)
					d.Mkdir("d", "RR", 0o700)
					d.File("d/mine", "AA", 0o644)
					d.File("d/theirs", "BB", 0o644)
					d.Mkdir("d/sub", "AA", 0o755)
					d.dirACL(change.acl)
					d.Own("d", change.before, change.mode)
				},
				Before: func(e *Env) {
					look(e, "f", "to", "d", "d/mine", "d/theirs", "d/sub")
					fd = e.quietly("d")
				},
				Change: func(d *Disk) {
					d.dirACL(change.then)
					d.Own("d", change.owner, change.and)
				},
				Op: func(e *Env) { op.op(e, fd) },
			})
		}
	}
	return out
}

func (d *Disk) dirACL(role []byte) {
	if role != nil {
		d.Xattr("d", accessACL, ACLXattr(7, 0, 7, 0, ACLEntry{ACLUser, 7, d.Map.DiskID(role[0])}))
	}
}
