package conformance

import (
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

// A Rig runs single cases for the tests of other packages.
type Rig struct {
	t testing.TB
	b *bench
	w *worker
}

// NewRig starts an agent for each caller of the names.
func NewRig(t testing.TB, m *Map, callers []string) *Rig {
	t.Helper()
	r := &Rig{
		t: t,
		b: &bench{m: m, results: map[string]Result{}, byRoot: map[string]Result{}},
		w: &worker{agents: map[string]*testenv.Agent{}},
	}
	for _, name := range callers {
		r.start(name)
	}
	return r
}

func (r *Rig) start(caller string) {
	r.w.agents[caller] = testenv.StartAgent(r.t, CallerByName(caller).Make(r.b.m))
}

// Run runs one case in a new directory, which root prepares and inspects below
// disk and the caller sees below mnt. A case that hangs leaves the others as
// they are. With a LeftBehind the result is there nevertheless.
func (r *Rig) Run(disk, mnt string, s *Scenario, caller string) (Result, error) {
	if r.w.agents[caller].Dead() {
		r.start(caller)
	}
	return r.b.run(r.w, s, caller, disk, mnt)
}
