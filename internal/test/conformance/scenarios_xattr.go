package conformance

import (
	"bytes"
	"fmt"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrScenarios: the name spaces of extended attributes but for the ones that
// hold ids.
func xattrScenarios() []*Scenario {
	var out []*Scenario
	for _, own := range owners {
		for _, mode := range []uint32{0o600, 0o644, 0o666} {
			out = append(out, &Scenario{
				Name: fmt.Sprintf("xattr/own=%s,mode=%#o", own, mode),
				Setup: func(d *Disk) {
					d.File("f", own, mode)
					d.Mkdir("d", own, mode|0o111)
					for _, name := range []string{"f", "d"} {
						d.Xattr(name, "user.there", []byte("value"))
						d.Xattr(name, "trusted.there", []byte("secret"))
						d.Xattr(name, "security.there", []byte("label"))
					}
				},
				Op: func(e *Env) {
					for _, name := range []string{"f", "d"} {
						for _, space := range []string{"user.", "trusted.", "security.", "odd."} {
							allXattrCalls(e, name, space)
						}
						listXattrs(e, name)
					}
				},
			})
		}
	}
	out = append(out, &Scenario{
		Name:  "xattr-sizes/limits",
		Setup: func(d *Disk) { d.File("f", "AA", 0o666) },
		Op: func(e *Env) {
			for _, n := range []int{0, 1, 255, 2000, 60000, 65536, 65537} {
				err := unix.Setxattr("f", fmt.Sprintf("user.size%d", n), bytes.Repeat([]byte{'v'}, n), 0)
				e.Did(fmt.Sprintf("set %d bytes", n), err)
				got, err := unix.Getxattr("f", fmt.Sprintf("user.size%d", n), nil)
				e.Saw(fmt.Sprintf("size %d", n), fmt.Sprint(got, " ", ErrText(err)))
				_ = unix.Removexattr("f", fmt.Sprintf("user.size%d", n))
			}
			for _, n := range []int{250, 251} {
				e.Did(fmt.Sprintf("name of %d", n+5), unix.Setxattr("f", "user."+strings.Repeat("n", n), []byte("x"), 0))
			}
		},
	}, &Scenario{
		Name: "xattr-other-types/nodes",
		Setup: func(d *Disk) {
			d.Symlink("absent", "l", "AA")
			d.Node("fifo", "AA", unix.S_IFIFO|0o666, 0)
			d.Mkdir("sticky", "BB", 0o1777)
		},
		Op: func(e *Env) {
			for _, name := range []string{"l", "fifo", "sticky"} {
				for _, space := range []string{"user.", "trusted.", "security."} {
					e.Did("set "+space+" on "+name, unix.Lsetxattr(name, space+"x", []byte("v"), 0))
				}
			}
		},
	})
	return out
}

func allXattrCalls(e *Env, name, space string) {
	what := func(op string) string { return op + " " + space + " of " + name }
	e.Saw(what("get"), xattrText(name, space+"there"))
	e.Saw(what("get absent"), xattrText(name, space+"absent"))
	_, err := unix.Getxattr(name, space+"there", make([]byte, 2))
	e.Did(what("get in 2 bytes"), err)
	e.Did(what("set"), unix.Setxattr(name, space+"new", []byte("new value"), 0))
	e.Saw(what("get new"), xattrText(name, space+"new"))
	e.Did(what("create taken"), unix.Setxattr(name, space+"there", []byte("x"), unix.XATTR_CREATE))
	e.Did(what("replace"), unix.Setxattr(name, space+"there", []byte("replaced"), unix.XATTR_REPLACE))
	e.Did(what("replace absent"), unix.Setxattr(name, space+"absent", []byte("x"), unix.XATTR_REPLACE))
	e.Did(what("remove"), unix.Removexattr(name, space+"new"))
	e.Did(what("remove absent"), unix.Removexattr(name, space+"absent"))
}

func listXattrs(e *Env, name string) {
	buf := make([]byte, 4096)
	n, err := unix.Listxattr(name, buf)
	e.Did("list "+name, err)
	if err != nil {
		return
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(names)
	e.Saw("listed "+name, strings.Join(names, " "))
	size, err := unix.Listxattr(name, nil)
	e.Saw("list size "+name, fmt.Sprint(size, " ", ErrText(err)))
	_, err = unix.Listxattr(name, make([]byte, 3))
	e.Did("list in 3 bytes "+name, err)
}
