package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/idmount/idmount/internal/testenv"
)

func init() { testenv.Handle("conformance", runHandler) }

// A bench is one source with one map: its mounts by backend, and an agent for
// each caller.
type bench struct {
	source string
	fstype string
	m      *Map
	agents map[string]*testenv.Agent
	oracle map[string]Result // by scenario and caller
	native string
	cases  int
}

func newBench(t testing.TB, source, fstype string, m *Map) *bench {
	t.Helper()
	b := &bench{source: source, fstype: fstype, m: m, agents: map[string]*testenv.Agent{}, oracle: map[string]Result{}}
	for _, c := range Callers {
		b.agents[c.Name] = testenv.StartAgent(t, c.Make(m))
	}
	b.native = MountOracle(t, source, m)
	return b
}

// run runs one case in a fresh directory through the mount at mnt.
func (b *bench) run(s *Scenario, caller, mnt string) (Result, error) {
	b.cases++
	dir := caseDir(b.source, b.cases)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	d := &Disk{Dir: dir, Map: b.m}
	d.Mkdir("", "AA", 0o777)
	s.Setup(d)
	if d.Err != nil {
		return nil, fmt.Errorf("prepare %s: %w", s.Name, d.Err)
	}
	seen := filepath.Join(mnt, filepath.Base(dir))
	var r Result
	if err := b.agents[caller].Call("conformance", caseRequest{s.Name, b.m.Name, caller, seen}, &r); err != nil {
		return nil, err
	}
	r.snapshot("root sees", seen)
	r.snapshot("disk", dir)
	return r, nil
}

// expected is the result on the native mount.
func (b *bench) expected(s *Scenario, caller string) (Result, error) {
	key := s.Name + "\x00" + caller
	if r, ok := b.oracle[key]; ok {
		return r, nil
	}
	r, err := b.run(s, caller, b.native)
	if err == nil {
		b.oracle[key] = r
	}
	return r, err
}

// check runs a scenario by the callers and reports what differs from the
// native mount and is not known.
func (b *bench) check(t *testing.T, s *Scenario, callers []CallerClass, backend, mnt string, report *Report) {
	for _, c := range callers {
		want, err := b.expected(s, c.Name)
		if err != nil {
			t.Errorf("caller %s: native: %v", c.Name, err)
			continue
		}
		got, err := b.run(s, c.Name, mnt)
		if err != nil {
			t.Errorf("caller %s: %s: %v", c.Name, backend, err)
			continue
		}
		report.Cases++
		shown := 0
		for _, d := range compare(want, got) {
			at := Case{Scenario: s.Name, Caller: c.Name, Backend: backend, Source: b.fstype, Map: b.m.Name}
			if report.explain(at, d) {
				continue
			}
			if shown++; shown <= 5 {
				t.Errorf("caller %s: %s: native %s, %s %s", c.Name, d.Key, d.Want, backend, d.Got)
			}
		}
		if shown > 5 {
			t.Errorf("caller %s: and %d more", c.Name, shown-5)
		}
	}
}
