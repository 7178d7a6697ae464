package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// nameScenarios: removing, moving and linking names.
func nameScenarios() []*Scenario {
	var out []*Scenario
	for _, dir := range []struct {
		owner string
		mode  uint32
	}{
		{"AA", 0o777}, {"AA", 0o755}, {"AA", 0o1777}, {"BB", 0o1777}, {"UU", 0o777}, {"UU", 0o1777}, {"AU", 0o777},
	} {
		for _, victim := range []string{"AA", "BB", "UU", "AU", "UA"} {
			out = append(out, &Scenario{
				Name: fmt.Sprintf("names/dir=%s,mode=%#o,victim=%s", dir.owner, dir.mode, victim),
				Setup: func(d *Disk) {
					d.Mkdir("d", "AA", 0o777)
					d.Mkdir("to", "AA", 0o777)
					d.File("to/taken", "AA", 0o666)
					for _, n := range []string{"unlink", "move", "over", "target", "exchange", "white", "noreplace", "link", "same", "away"} {
						d.File("d/"+n, victim, 0o666)
					}
					for _, n := range []string{"other1", "other2", "other3"} {
						d.File("d/"+n, "AA", 0o666)
					}
					d.Mkdir("d/rmdir", victim, 0o777)
					d.Mkdir("d/full", victim, 0o777)
					d.File("d/full/f", "AA", 0o666)
					d.Mkdir("d/movedir", victim, 0o777)
					d.Mkdir("d/linkhere", "AA", 0o777)
					d.do("owner of d", func() error { return d.own("d", dir.owner, dir.mode) })
				},
				Op: removeAndMove,
			})
		}
	}
	return out
}

func removeAndMove(e *Env) {
	rename := func(what, from, to string, flags uint) {
		e.Did(what, unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags))
	}
	e.Did("unlink", unix.Unlink("d/unlink"))
	e.Did("unlink absent", unix.Unlink("d/absent"))
	e.Did("unlink directory", unix.Unlink("d/rmdir"))
	e.Did("rmdir file", unix.Rmdir("d/link"))
	e.Did("rmdir", unix.Rmdir("d/rmdir"))
	e.Did("rmdir full", unix.Rmdir("d/full"))
	rename("rename", "d/move", "d/moved", 0)
	rename("rename away", "d/away", "to/away", 0)
	rename("rename to itself", "d/same", "d/same", 0)
	rename("rename over", "d/over", "d/target", 0)
	rename("rename over another's", "to/taken", "d/target", 0)
	rename("rename noreplace", "d/other1", "d/new1", unix.RENAME_NOREPLACE)
	rename("rename noreplace taken", "d/noreplace", "d/other2", unix.RENAME_NOREPLACE)
	rename("exchange", "d/exchange", "d/other2", unix.RENAME_EXCHANGE)
	rename("exchange absent", "d/other2", "d/absent", unix.RENAME_EXCHANGE)
	rename("whiteout", "d/white", "d/whitened", unix.RENAME_WHITEOUT)
	rename("whiteout over", "d/other3", "d/noreplace", unix.RENAME_WHITEOUT)
	rename("bad flags", "d/same", "d/bad", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE)
	rename("rename directory", "d/movedir", "to/movedir", 0)
	rename("rename directory below itself", "d/full", "d/full/x", 0)
	e.Did("link", unix.Link("d/link", "d/linked"))
	e.Did("link away", unix.Link("d/link", "to/linked"))
	e.Did("link taken", unix.Link("d/link", "d/same"))
	e.Did("link directory", unix.Link("d/linkhere", "d/dirlink"))
	e.Did("link in", unix.Link("to/taken", "d/linkhere/in"))
}
