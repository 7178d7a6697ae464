package conformance

import (
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// plan is what a run covers.
type plan struct {
	full              bool
	whole             bool // no pattern leaves anything out
	sources, backends []string
	maps              []*Map
}

func planFromEnv(t *testing.T) plan {
	p := plan{sources: []string{"ext4", "overlay"}, backends: defaultBackends, maps: Maps[:quickMaps]}
	switch mode := os.Getenv("IDMOUNT_CONFORMANCE"); mode {
	case "", "quick":
	case "full":
		p.full, p.maps = true, Maps
		p.sources = []string{"ext4", "xfs", "btrfs", "tmpfs", "overlay", "ext2", "ramfs", "idmount"}
	default:
		t.Fatalf("IDMOUNT_CONFORMANCE %q: neither quick nor full", mode)
	}
	if list := os.Getenv("IDMOUNT_SOURCES"); list != "" {
		p.sources = strings.Split(list, ",")
	}
	if list := os.Getenv("IDMOUNT_BACKENDS"); list != "" {
		p.backends = strings.Split(list, ",")
	}
	if list := os.Getenv("IDMOUNT_MAPS"); list != "" {
		p.maps = nil
		for _, name := range strings.Split(list, ",") {
			p.maps = append(p.maps, MapByName(name))
		}
	}
	p.whole = flag.Lookup("test.run").Value.String() == "" && os.Getenv("IDMOUNT_MAPS") == ""
	return p
}

// scenarios are those that a source can carry.
func (p plan) scenarios(fstype string) []*Scenario {
	return slices.DeleteFunc(slices.Clone(Scenarios), func(s *Scenario) bool {
		return s.Slow && !p.full || !carries(fstype, s)
	})
}

// callers are all in a full run. In a quick one every scenario has a third of
// them, another one than the scenario before it.
func (p plan) callers(scenario int) []CallerClass {
	if p.full {
		return Callers
	}
	var out []CallerClass
	for i, c := range Callers {
		if (i+scenario)%3 == 0 {
			out = append(out, c)
		}
	}
	return out
}

// each runs a test on every source with every map.
func (p plan) each(t *testing.T, run func(t *testing.T, b *bench)) {
	for _, fstype := range p.sources {
		t.Run(fstype, func(t *testing.T) {
			source := mounted(t, fstype)
			reference := sync.OnceValue(func() string { return testenv.Source(t, likeness(fstype)) })
			for _, m := range p.maps {
				t.Run(m.Name, func(t *testing.T) { run(t, newBench(t, source, fstype, m, reference)) })
			}
		})
	}
}

func TestConformance(t *testing.T) {
	testenv.RequireRoot(t)
	conform(t, planFromEnv(t), optionsFromEnv(t))
}

// TestModes runs a part of the suite in every other cache mode, and as on
// kernels without passthrough.
func TestModes(t *testing.T) {
	testenv.RequireRoot(t)
	if optionsFromEnv(t) != (idmount.Options{}) {
		return // the whole run is in such a mode
	}
	for name, o := range map[string]idmount.Options{
		"none":                {Cache: idmount.Cache{Mode: idmount.CacheNone}},
		"ttl":                 {Cache: idmount.Cache{Mode: idmount.CacheTTL, TTL: 10 * time.Second}},
		"exclusive":           {Cache: idmount.Cache{Mode: idmount.CacheExclusive}},
		"without passthrough": {NoPassthrough: true},
		"io_uring":            {Transport: idmount.TransportRing},
	} {
		t.Run(name, func(t *testing.T) {
			if o.Transport == idmount.TransportRing {
				testenv.IOUring(t)
			}
			p := planFromEnv(t)
			p.sources, p.backends, p.maps = []string{"ext4"}, []string{"translate"}, Maps[:1]
			conform(t, p, o)
		})
	}
}

func conform(t *testing.T, p plan, o idmount.Options) {
	list := slices.Concat(KnownDifferences, sourceDifferences)
	if o.Cache.Mode == idmount.CacheExclusive {
		list = append(list, exclusively...)
	}
	if o.NoPassthrough {
		list = append(list, byRequests...)
	}
	report := NewReport(list)
	p.each(t, func(t *testing.T, b *bench) {
		for _, backend := range p.backends {
			t.Run(backend, func(t *testing.T) {
				b.each(t, func(w *worker) { w.mount = MountWith(t, b.source, b.m, backend, o) })
				for i, s := range p.scenarios(b.fstype) {
					t.Run(s.Name, func(t *testing.T) {
						t.Parallel()
						w := <-b.workers
						defer func() { b.workers <- w }()
						w.pinned(t, func() { b.check(t, w, s, p.callers(i), backend, report) })
					})
				}
			})
		}
	})
	t.Logf("%d cases", report.Cases)
	if path := os.Getenv("IDMOUNT_CONFORMANCE_TOTALS"); path != "" {
		if err := os.WriteFile(path, []byte(report.table(p.sources, p.maps, p.backends)), 0o644); err != nil {
			t.Error(err)
		}
	}
	if text := report.summary(); text != "" {
		t.Logf("unexplained differences:\n%s", text)
	}
	if p.full && p.whole && !t.Failed() {
		for _, reason := range report.unused(p.backends, p.sources) {
			t.Errorf("known difference not seen any more: %s", reason)
		}
	}
}
