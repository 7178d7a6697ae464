package bench

import (
	"fmt"
	"io"
	"strings"
)

// goal is what the project has set itself: a system's time as a multiple of the
// baseline's, by transport, and how many times faster than the fastest peer.
type goal struct {
	rows      []string
	exclusive bool    // in the mode for a source that is used through the mount alone
	dev, ring float64 // at most
	peers     float64 // at least; 1 is "faster, or level where both are at the limit"
}

var goals = []goal{
	{rows: []string{"read-seq", "read-random", "mmap-random", "write-seq"}, dev: 1.1, ring: 1.1, peers: 1},
	{rows: []string{"write4k", "append"}, dev: 1.5, ring: 1.2, peers: 10},
	{rows: []string{"walk-warm", "git-warm", "go-build"}, dev: 1.4, ring: 1.1, peers: 3},
	{rows: []string{"walk-cold"}, dev: 3, ring: 1.8, peers: 2},
	{rows: []string{"stat-cold", "open", "getxattr"}, dev: 30, ring: 8, peers: 1},
	{rows: []string{"create", "tar-x", "rm-rf"}, dev: 7, ring: 4, peers: 1},
	{rows: []string{"small-read", "open", "write4k", "git-warm", "go-build"}, exclusive: true, dev: 1.5, ring: 1.3, peers: 10},
}

// level is how close to a peer counts as level: within it the order of two
// systems changes from run to run.
const level = 0.95

var peerSystems = []string{"bindfs", "bindfs+multi", "fuse-overlayfs"}

// WriteGoals writes a Markdown table of what is to be reached and what is.
func (r *Report) WriteGoals(w io.Writer) error {
	t := &textWriter{w: w}
	t.printf("| workload | native | dev | ring | goal | reached | %s | against the fastest | goal | reached |\n", strings.Join(peerSystems, " | "))
	t.printf("|%s\n", strings.Repeat(" --- |", 9+len(peerSystems)))
	for _, g := range goals {
		for _, name := range g.rows {
			if row := r.Row(name); row != nil && row.Skipped == "" {
				g.write(t, row)
			}
		}
	}
	return t.err
}

// systems of the goal, by transport.
func (g goal) systems() (dev, ring string) {
	if g.exclusive {
		return "translate+exclusive", "translate+uring+exclusive"
	}
	return "translate", "translate+uring"
}

func (g goal) write(t *textWriter, row *RowReport) {
	title := row.Title
	if g.exclusive {
		title += ", `--cache=exclusive`"
	}
	base := "–"
	if b := row.Result(row.Baseline); b != nil {
		base = Duration(b.Value.Median)
	}
	dev, ring := g.systems()
	reached := []string{}
	for _, side := range []struct {
		system string
		limit  float64
	}{{dev, g.dev}, {ring, g.ring}} {
		if result := row.Result(side.system); result != nil && result.Ratio != nil {
			reached = append(reached, yesNo(result.Ratio.Median <= side.limit))
		} else {
			reached = append(reached, "–")
		}
	}
	t.printf("| %s | %s | %s | %s | %g / %g | %s |", title, base, row.ratioCell(dev), row.ratioCell(ring), g.dev, g.ring, strings.Join(reached, " / "))
	for _, peer := range peerSystems {
		t.printf(" %s |", row.ratioCell(peer))
	}
	factors, met := []string{}, []string{}
	for _, system := range []string{dev, ring} {
		factor := row.againstPeers(system)
		if factor == 0 {
			factors, met = append(factors, "–"), append(met, "–")
			continue
		}
		factors = append(factors, ratioText(factor)+"×")
		want := g.peers
		if want == 1 {
			want = level
		}
		met = append(met, yesNo(factor >= want))
	}
	aim := fmt.Sprintf("%g×", g.peers)
	if g.peers == 1 {
		aim = "faster"
	}
	t.printf(" %s | %s | %s |\n", strings.Join(factors, " / "), aim, strings.Join(met, " / "))
}

// againstPeers is how many times faster a system is than the fastest peer, by
// the median of the rounds; 0 if there is nothing to compare.
func (r *RowReport) againstPeers(system string) float64 {
	ours := r.Result(system)
	if ours == nil || ours.Failed != "" {
		return 0
	}
	least := 0.0
	for _, name := range peerSystems {
		peer := r.Result(name)
		if peer == nil || peer.Failed != "" {
			continue
		}
		if of := ratios(peer.Values, ours.Values); len(of) > 0 {
			if factor := spread(of).Median; least == 0 || factor < least {
				least = factor
			}
		}
	}
	return least
}

func (r *RowReport) ratioCell(system string) string {
	result := r.Result(system)
	switch {
	case result == nil || result.Failed == "" && result.Ratio == nil:
		return "–"
	case result.Failed != "":
		return "failed"
	}
	return ratioText(result.Ratio.Median)
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "**no**"
}

// WritePeers writes a Markdown table of how many times faster we are than the
// fastest peer, in every row, by system.
func (r *Report) WritePeers(w io.Writer, systems []string) error {
	t := &textWriter{w: w}
	t.printf("| workload | %s |\n|%s\n", strings.Join(systems, " | "), strings.Repeat(" --- |", 1+len(systems)))
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Skipped != "" {
			continue
		}
		t.printf("| %s |", row.Title)
		for _, system := range systems {
			factor := row.againstPeers(system)
			switch {
			case factor == 0:
				t.printf(" – |")
			case factor < level:
				t.printf(" **%s** |", ratioText(factor))
			default:
				t.printf(" %s |", ratioText(factor))
			}
		}
		t.printf("\n")
	}
	return t.err
}

// WriteMarkdown writes a Markdown table of all rows for some systems.
func (r *Report) WriteMarkdown(w io.Writer, systems []string) error {
	t := &textWriter{w: w}
	t.printf("| workload | %s |\n|%s\n", strings.Join(systems, " | "), strings.Repeat(" --- |", 1+len(systems)))
	for i := range r.Rows {
		row := &r.Rows[i]
		t.printf("| %s |", row.Title)
		for _, system := range systems {
			cell := row.Skipped
			if cell == "" {
				cell = row.cell(system)
			}
			t.printf(" %s |", cell)
		}
		t.printf("\n")
	}
	return t.err
}

// WriteRequests writes a Markdown table of the requests that an operation takes.
func (r *Report) WriteRequests(w io.Writer, systems []string) error {
	t := &textWriter{w: w}
	t.printf("| workload | system | requests an operation |\n| --- | --- | --- |\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		for _, system := range systems {
			if result := row.Result(system); result != nil && result.Requests != nil && result.Ops > 0 {
				t.printf("| %s | %s | %s |\n", row.Title, system, requestsText(*result))
			}
		}
	}
	return t.err
}

// WriteMemory writes a Markdown table of what servers remember.
func (r *Report) WriteMemory(w io.Writer) error {
	t := &textWriter{w: w}
	t.printf("| system | inodes | walk | bytes an inode | descriptors of %d | after the kernel's caches were dropped |\n", descriptorLimit)
	t.printf("| --- | --- | --- | --- | --- | --- |\n")
	row := r.Row("memory")
	if row == nil {
		return t.err
	}
	for _, result := range row.Results {
		if result.Failed != "" {
			t.printf("| %s | failed: %s | | | | |\n", result.System, result.Failed)
			continue
		}
		x := result.Extra
		t.printf("| %s | %.0f | %s | %.0f | %.0f | %.0f MiB of %.0f MiB, %.0f descriptors |\n", result.System, x["inodes"],
			Duration(x["walk_ns"]), result.Value.Median, x["fds_after"], x["rss_dropped"]/(1<<20), x["rss_after"]/(1<<20), x["fds_dropped"])
	}
	return t.err
}
