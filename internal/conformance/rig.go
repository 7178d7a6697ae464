package conformance

import (
	"testing"

	"github.com/idmount/idmount/internal/testenv"
)

// A Rig runs single cases for the tests of other packages.
type Rig struct {
	b *bench
	w *worker
}

// NewRig starts an agent for each caller of the names.
func NewRig(t testing.TB, m *Map, callers []string) *Rig {
	t.Helper()
	r := &Rig{
		b: &bench{m: m, results: map[string]Result{}, byRoot: map[string]Result{}},
		w: &worker{agents: map[string]*testenv.Agent{}},
	}
	for _, name := range callers {
		r.w.agents[name] = testenv.StartAgent(t, CallerByName(name).Make(m))
	}
	return r
}

// Run runs one case in a new directory, which root prepares and inspects below
// disk and the caller sees below mnt.
func (r *Rig) Run(disk, mnt string, s *Scenario, caller string) (Result, error) {
	return r.b.run(r.w, s, caller, disk, mnt)
}

// Differences of a case that the report does not explain.
func (r *Report) Differences(c Case, want, got Result) []Difference {
	return r.unexplained(c, want, got)
}
