package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// capabilityScenarios: security.capability read, set, removed and run.
func capabilityScenarios() []*Scenario {
	var out []*Scenario
	for _, c := range []struct {
		name     string
		revision uint32
		root     func(*Map) uint32
	}{
		{"2", 2, func(*Map) uint32 { return 0 }},
		{"3,root=0", 3, func(*Map) uint32 { return 0 }},
		{"3,root=A", 3, func(m *Map) uint32 { return m.A }},
		{"3,root=U", 3, func(m *Map) uint32 { return m.U }},
		{"3,root=100000", 3, func(*Map) uint32 { return 100000 }},
	} {
		out = append(out, &Scenario{
			Name: "capability-exec/revision=" + c.name,
			Setup: func(d *Disk) {
				d.Program("cat", "AA", 0o755)
				d.Xattr("cat", capability, CapNetRaw(c.revision, c.root(d.Map)))
			},
			Op: func(e *Env) {
				runCat(e)
				e.Saw("get", xattrText("cat", capability))
				n, err := unix.Getxattr("cat", capability, nil)
				e.Did("size", err)
				e.Saw("size is", fmt.Sprint(n))
				_, err = unix.Getxattr("cat", capability, make([]byte, 10))
				e.Did("get in 10 bytes", err)
				_, err = unix.Getxattr("cat", capability, make([]byte, 20))
				e.Did("get in 20 bytes", err)
			},
		})
	}
	for _, own := range []string{"AA", "BB", "UU", "AU", "RR"} {
		out = append(out, &Scenario{
			Name: "capability-set/own=" + own,
			Setup: func(d *Disk) {
				for i := range 9 {
					d.Program(fmt.Sprintf("f%d", i), own, 0o666) // not small: exec is not tried on them
				}
				d.Xattr("f8", capability, CapNetRaw(3, d.Map.A))
			},
			Op: func(e *Env) {
				short := CapNetRaw(2, 0)[:19]
				odd := CapNetRaw(2, 0)
				odd[3] = 7
				for i, v := range [][]byte{
					CapNetRaw(2, 0), CapNetRaw(3, 0), CapNetRaw(3, uint32(e.UID('A'))), CapNetRaw(3, uint32(e.UID('X'))),
					CapNetRaw(3, 0xFFFFFFFF), short, odd, {},
				} {
					name := fmt.Sprintf("f%d", i)
					e.Did(fmt.Sprintf("set %d", i), unix.Setxattr(name, capability, v, 0))
					e.Saw(fmt.Sprintf("get %d", i), xattrText(name, capability))
				}
				e.Did("create existing", unix.Setxattr("f8", capability, CapNetRaw(2, 0), unix.XATTR_CREATE))
				e.Did("remove", unix.Removexattr("f8", capability))
				e.Did("remove absent", unix.Removexattr("f7", capability))
			},
		})
	}
	return out
}
