package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// chownScenarios: every combination of ids that stay, change and are refused.
func chownScenarios() []*Scenario {
	var out []*Scenario
	for _, own := range owners {
		for _, mode := range []uint32{0o644, 0o6755, 0o2644} {
			for _, withCap := range []bool{false, true} {
				if withCap && mode == 0o2644 {
					continue
				}
				out = append(out, &Scenario{
					Name: fmt.Sprintf("chown/own=%s,mode=%#o,cap=%v", own, mode, withCap),
					Setup: func(d *Disk) {
						for i := range chownTargets {
							name := fmt.Sprintf("f%d", i)
							d.File(name, own, mode)
							if withCap {
								d.Xattr(name, capability, CapNetRaw(2, 0))
							}
						}
					},
					Op: func(e *Env) {
						for i, to := range chownTargets {
							name := fmt.Sprintf("f%d", i)
							e.Did("chown to "+to, unix.Lchown(name, e.UID(to[0]), e.GID(to[1])))
							e.Mode("after chown to "+to, name)
						}
					},
				})
			}
		}
		out = append(out, &Scenario{
			Name: "chown-other-types/own=" + own,
			Setup: func(d *Disk) {
				d.Mkdir("d", own, 0o6755)
				d.Symlink("absent", "l", own)
				d.Node("fifo", own, unix.S_IFIFO|0o644, 0)
			},
			Op: func(e *Env) {
				for _, name := range []string{"d", "l", "fifo"} {
					e.Did("chown "+name, unix.Lchown(name, e.UID('B'), e.GID('B')))
					e.Did("chown back "+name, unix.Lchown(name, e.UID('A'), e.GID('A')))
				}
			},
		})
	}
	return out
}

// '-' leaves an id, 'X' and 'Y' are outside most maps.
var chownTargets = []string{"--", "A-", "-A", "B-", "-B", "AA", "BB", "AB", "BA", "X-", "-X", "XX", "AX", "XA", "Y-", "-Y", "R-", "-R"}
