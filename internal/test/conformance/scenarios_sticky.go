package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// stickyScenarios: what the fs.protected_* settings of the kernel are about, with
// whatever they are set to: links, FIFOs and files of others in directories that
// many may write to.
func stickyScenarios() []*Scenario {
	var out []*Scenario
	for _, dir := range []struct {
		owner string
		mode  uint32
	}{
		{"AA", 0o1777}, {"BB", 0o1777}, {"UU", 0o1777}, {"UA", 0o1777}, {"RR", 0o1777}, {"BA", 0o1775}, {"BB", 0o777},
	} {
		out = append(out, &Scenario{
			Name: fmt.Sprintf("rare/sticky-dir=%s,mode=%#o", dir.owner, dir.mode),
			Setup: func(d *Disk) {
				d.File("target", "AA", 0o666)
				d.Mkdir("real", "AA", 0o777)
				d.Mkdir("to", "AA", 0o777)
				d.Mkdir("d", "AA", 0o777)
				for _, own := range owners {
					in := "d/" + own + "-"
					d.Symlink("../target", in+"link", own)
					d.Symlink("../to/new-"+own, in+"dangling", own)
					d.Symlink("../real", in+"dirlink", own)
					d.Node(in+"fifo", own, unix.S_IFIFO|0o666, 0)
					d.File(in+"file", own, 0o666)
					d.File(in+"private", own, 0o600)
					d.File(in+"setid", own, 0o6777)
				}
				d.do("owner of d", func() error { return d.own("d", dir.owner, dir.mode) })
			},
			Op: inSticky,
		})
	}
	return out
}

// inSticky is what the settings may refuse, each beside what they never do.
func inSticky(e *Env) {
	var st unix.Stat_t
	for _, own := range owners {
		in := "d/" + own + "-"
		e.Did("stat through link "+own, unix.Stat(in+"link", &st))
		e.Did("lstat link "+own, unix.Lstat(in+"link", &st))
		e.Open("open link "+own, in+"link", unix.O_RDONLY, 0)
		e.Open("open link to create "+own, in+"link", unix.O_RDWR|unix.O_CREAT, 0o644)
		e.Did("truncate through link "+own, unix.Truncate(in+"link", 4))
		e.Open("create through link "+own, in+"dangling", unix.O_RDWR|unix.O_CREAT, 0o644)
		e.Open("directory by link "+own, in+"dirlink", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		e.Did("stat behind link "+own, unix.Stat(in+"dirlink/.", &st))
		_, err := unix.Readlink(in+"link", make([]byte, 20))
		e.Did("readlink "+own, err)

		e.Open("open fifo "+own, in+"fifo", unix.O_RDWR|unix.O_NONBLOCK, 0)
		e.Open("open fifo to create "+own, in+"fifo", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CREAT, 0o644)
		e.Open("open file "+own, in+"file", unix.O_RDWR, 0)
		e.Open("open file to create "+own, in+"file", unix.O_RDWR|unix.O_CREAT, 0o644)
		e.Open("open file to create exclusively "+own, in+"file", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
		e.Open("open file to create and truncate "+own, in+"file", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o644)

		for _, name := range []string{"file", "private", "setid", "fifo", "link"} {
			e.Did("link "+name+" "+own, unix.Link(in+name, "to/"+name+"-"+own))
		}
	}
}
