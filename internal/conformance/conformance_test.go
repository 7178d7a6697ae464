package conformance

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/idmount/idmount/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// plan is what a run covers.
type plan struct {
	full              bool
	sources, backends []string
	maps              []*Map
}

func planFromEnv(t *testing.T) plan {
	p := plan{sources: []string{"ext4"}, backends: defaultBackends, maps: Maps[:quickMaps]}
	switch mode := os.Getenv("IDMOUNT_CONFORMANCE"); mode {
	case "", "quick":
	case "full":
		p.full, p.maps = true, Maps
		p.sources = []string{"ext4", "xfs", "btrfs", "tmpfs"}
	default:
		t.Fatalf("IDMOUNT_CONFORMANCE %q: neither quick nor full", mode)
	}
	if list := os.Getenv("IDMOUNT_SOURCES"); list != "" {
		p.sources = strings.Split(list, ",")
	}
	if list := os.Getenv("IDMOUNT_BACKENDS"); list != "" {
		p.backends = strings.Split(list, ",")
	}
	return p
}

func (p plan) scenarios() []*Scenario {
	if p.full {
		return Scenarios
	}
	return slices.DeleteFunc(slices.Clone(Scenarios), func(s *Scenario) bool { return s.Slow })
}

// callers are all in a full run. In a quick one every scenario has a fifth of
// them, another one than the scenario before it.
func (p plan) callers(scenario int) []CallerClass {
	if p.full {
		return Callers
	}
	var out []CallerClass
	for i, c := range Callers {
		if (i+scenario)%5 == 0 {
			out = append(out, c)
		}
	}
	return out
}

func TestConformance(t *testing.T) {
	testenv.RequireRoot(t)
	p := planFromEnv(t)
	report := NewReport(KnownDifferences)
	for _, fstype := range p.sources {
		t.Run(fstype, func(t *testing.T) {
			source := testenv.Source(t, fstype)
			for _, m := range p.maps {
				t.Run(m.Name, func(t *testing.T) {
					b := newBench(t, source, fstype, m)
					for _, backend := range p.backends {
						t.Run(backend, func(t *testing.T) {
							mnt := MountBackend(t, source, m, backend)
							for i, s := range p.scenarios() {
								t.Run(s.Name, func(t *testing.T) { b.check(t, s, p.callers(i), backend, mnt, report) })
							}
						})
					}
				})
			}
		})
	}
	t.Logf("%d cases", report.Cases)
	if text := report.summary(); text != "" {
		t.Logf("unexplained differences:\n%s", text)
	}
	// A part of the suite can't show everything.
	whole := p.full && flag.Lookup("test.run").Value.String() == "" && os.Getenv("IDMOUNT_SOURCES") == ""
	if whole && !t.Failed() {
		for _, reason := range report.unused(p.backends) {
			t.Errorf("known difference not seen any more: %s", reason)
		}
	}
}
