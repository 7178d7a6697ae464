package conformance

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// aclScenarios: POSIX ACLs read, set, obeyed and inherited.
func aclScenarios() []*Scenario {
	var out []*Scenario
	named := map[string]func(*Map) []ACLEntry{
		"user-A":  func(m *Map) []ACLEntry { return []ACLEntry{{ACLUser, 7, m.A}} },
		"user-B":  func(m *Map) []ACLEntry { return []ACLEntry{{ACLUser, 6, m.B}} },
		"user-U":  func(m *Map) []ACLEntry { return []ACLEntry{{ACLUser, 6, m.U}} },
		"group-A": func(m *Map) []ACLEntry { return []ACLEntry{{ACLGroup, 6, m.A}} },
		"deny-A":  func(m *Map) []ACLEntry { return []ACLEntry{{ACLUser, 0, m.A}, {ACLUser, 6, m.U}, {ACLGroup, 7, m.U}} },
		"many": func(m *Map) []ACLEntry {
			return []ACLEntry{{ACLUser, 4, 0}, {ACLUser, 6, m.A}, {ACLUser, 5, m.U}, {ACLGroup, 4, m.B}, {ACLGroup, 2, m.U}}
		},
	}
	for _, own := range []string{"AA", "BB", "UU", "AU", "RR"} {
		for _, n := range []string{"user-A", "user-B", "user-U", "group-A", "deny-A", "many"} {
			out = append(out, &Scenario{
				Name: fmt.Sprintf("acl/own=%s,entries=%s", own, n),
				Setup: func(d *Disk) {
					d.File("f", own, 0o640)
					d.Xattr("f", accessACL, ACLXattr(6, 0, 7, 4, named[n](d.Map)...))
					d.Mkdir("d", own, 0o750)
					d.Xattr("d", accessACL, ACLXattr(7, 0, 7, 0, named[n](d.Map)...))
					d.Xattr("d", defaultACL, ACLXattr(7, 5, 7, 0, named[n](d.Map)...))
				},
				Op: func(e *Env) {
					e.Saw("access ACL", xattrText("f", accessACL))
					e.Saw("default ACL", xattrText("d", defaultACL))
					e.Open("read", "f", unix.O_RDONLY, 0)
					e.Open("write", "f", unix.O_WRONLY, 0)
					e.Did("access", unix.Faccessat2(unix.AT_FDCWD, "f", unix.R_OK|unix.W_OK, unix.AT_EACCESS))
					e.Open("list", "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
					e.Open("create in", "d/new", unix.O_CREAT|unix.O_RDWR, 0o666)
					e.Did("mkdir in", unix.Mkdir("d/dir", 0o777))
					e.Did("chmod", unix.Chmod("f", 0o610))
					e.Saw("access ACL after chmod", xattrText("f", accessACL))
					e.Open("read after chmod", "f", unix.O_RDONLY, 0)
				},
			})
		}
		for _, mode := range []uint32{0o644, 0o2775} {
			out = append(out, &Scenario{
				Name: fmt.Sprintf("acl-set/own=%s,mode=%#o", own, mode),
				Setup: func(d *Disk) {
					for i := range 9 {
						d.File(fmt.Sprintf("f%d", i), own, mode)
						d.Mkdir(fmt.Sprintf("d%d", i), own, mode|0o111)
					}
					d.Xattr("f8", accessACL, ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, d.Map.U}))
					d.Xattr("d8", defaultACL, ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, d.Map.U}))
				},
				Op: setACLs,
			})
		}
	}
	return out
}

func setACLs(e *Env) {
	odd := ACLXattr(6, 4, 7, 4)
	binary.LittleEndian.PutUint32(odd, 3)
	values := [][]byte{
		ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, uint32(e.UID('A'))}, ACLEntry{ACLGroup, 6, uint32(e.GID('A'))}),
		ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, uint32(e.UID('B'))}),
		ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, 0xFFFFFFFF}),
		ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, uint32(e.UID('X'))}),
		ACLXattr(6, 4, 7, 4, ACLEntry{ACLGroup, 6, uint32(e.GID('X'))}),
		ACLXattr(6, 4, 7, 4),
		odd,
		ACLXattr(6, 4, 7, 4)[:11],
	}
	for i, v := range values {
		f, d := fmt.Sprintf("f%d", i), fmt.Sprintf("d%d", i)
		e.Did(fmt.Sprintf("set access %d", i), unix.Setxattr(f, accessACL, v, 0))
		e.Mode(fmt.Sprintf("after access %d", i), f)
		e.Did(fmt.Sprintf("set default %d", i), unix.Setxattr(d, defaultACL, v, 0))
		e.Did(fmt.Sprintf("set access of directory %d", i), unix.Setxattr(d, accessACL, v, 0))
	}
	e.Did("default on a file", unix.Setxattr("f7", defaultACL, values[0], 0))
	e.Did("remove access", unix.Removexattr("f8", accessACL))
	e.Did("remove default", unix.Removexattr("d8", defaultACL))
	e.Did("remove absent", unix.Removexattr("d6", defaultACL))
	// What an editor of ACLs does: read, write back.
	buf := make([]byte, 1000)
	if n, err := unix.Getxattr("f8", accessACL, buf); err == nil {
		e.Did("set back", unix.Setxattr("f8", accessACL, buf[:n], 0))
	}
}
