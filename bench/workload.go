package bench

import (
	"context"
	"slices"
	"time"
)

// Unit is what a row's figures are.
type Unit string

// The units. In each of them less is better.
const (
	Nanoseconds Unit = "ns"    // an operation, or the whole of the work
	Bytes       Unit = "bytes" // an inode
)

// Row is one line of figures.
type Row struct {
	Name  string // in options and reports
	Title string // for people
	Unit  Unit   // "" is Nanoseconds
}

// workload is work that yields the rows.
type workload struct {
	name     string
	rows     []Row
	fullOnly bool              // too long, or too special, for a short run
	once     bool              // one round says enough
	fuseOnly bool              // measures a server: there is none for the others
	systems  func(System) bool // nil takes all

	programs []string // that it calls

	// shared and own prepare, once and without any mount: for all systems
	// together, and in each system's own directory.
	shared func(ctx context.Context, e *env) error
	own    func(ctx context.Context, e *env, dir string) error

	// run does the work once and says by its meter what is measured.
	run func(ctx context.Context, p *place, m *meter) error

	// alone replaces run where the harness's own mount is of no use: it is given
	// the system to mount as it likes.
	alone func(ctx context.Context, e *env, s System, m *meter) error
}

func (w *workload) takes(s System) bool {
	if w.fuseOnly && (s.Kind == Source || s.Kind == Native) {
		return false
	}
	return w.systems == nil || w.systems(s)
}

// workloads is all that there is, in the order of reports.
func workloads() []*workload {
	return slices.Concat(treeWorkloads(), callWorkloads(), dataWorkloads(), programWorkloads(), serverWorkloads())
}

// env is where workloads prepare.
type env struct {
	full     bool
	data     string // what the systems show, seen directly
	mounts   string // a directory for mount points
	empty    string // an empty directory, for peers that want one
	program  string
	systems  []System
	prepared map[string]bool
}

// size is a number for a short and for a full run.
func (e *env) size(short, full int) int {
	if e.full {
		return full
	}
	return short
}

// place is where a workload runs.
type place struct {
	env    *env
	system System
	shared string // prepared for all systems, not to be changed
	own    string // this system's own
}

// sample is one measurement of one row.
type sample struct {
	value    float64
	ops      int
	requests map[string]uint64 // of ours: all that came meanwhile
	extra    map[string]float64
}

// meter takes the time and the requests of a part of a workload.
type meter struct {
	rows    []Row
	counts  func() (map[string]uint64, error) // nil if nothing counts
	now     func() time.Time
	samples map[string]sample

	before map[string]uint64
	start  time.Time
	err    error
}

// begin starts the clock.
func (m *meter) begin() {
	if m.counts != nil {
		m.before, m.err = m.counts()
	}
	m.start = m.now()
}

// end stops the clock: what was done since begin was ops operations of a row.
func (m *meter) end(row string, ops int) {
	took := m.now().Sub(m.start)
	s := sample{value: float64(took.Nanoseconds()) / float64(ops), ops: ops}
	if m.counts != nil && m.err == nil {
		var after map[string]uint64
		if after, m.err = m.counts(); m.err == nil {
			s.requests = difference(after, m.before)
		}
	}
	m.record(row, s)
}

func (m *meter) record(row string, s sample) {
	if !slices.ContainsFunc(m.rows, func(r Row) bool { return r.Name == row }) {
		panic("bench: a workload measures row " + row + ", which it has not announced")
	}
	m.samples[row] = s
}

// difference of two counts, without those that did not change.
func difference(after, before map[string]uint64) map[string]uint64 {
	out := make(map[string]uint64)
	for op, n := range after {
		if d := n - before[op]; d > 0 {
			out[op] = d
		}
	}
	return out
}
