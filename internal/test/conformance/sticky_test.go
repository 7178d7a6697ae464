package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

// protections are the settings that stickyScenarios are about, by the highest
// value.
var protections = map[string]int{"hardlinks": 1, "symlinks": 1, "fifos": 2, "regular": 2}

// protect sets all of protections to a level, or their highest value below, until
// the test ends. They are the whole machine's.
func protect(t *testing.T, level int) {
	t.Helper()
	for name, highest := range protections {
		testenv.Setting(t, "/proc/sys/fs/protected_"+name, fmt.Sprint(min(level, highest)))
	}
}

// TestProtected: every level of fs.protected_* refuses the same on all backends,
// and something that the level before it does not.
func TestProtected(t *testing.T) {
	testenv.RequireRoot(t)
	p := planFromEnv(t)
	if !p.full {
		p.sources = p.sources[:1]
	}
	p.each(t, func(t *testing.T, b *bench) {
		w := <-b.workers
		defer func() { b.workers <- w }()
		mounts := map[string]string{}
		for _, backend := range p.backends {
			mounts[backend] = MountWith(t, b.source, b.m, backend, optionsFromEnv(t))
		}
		report := NewReport(slices.Concat(KnownDifferences, sourceDifferences))
		refused := -1
		for level := range 3 {
			t.Run(fmt.Sprint(level), func(t *testing.T) {
				protect(t, level)
				clear(b.results)
				for _, backend := range p.backends {
					w.mount = mounts[backend]
					for i, s := range stickyScenarios() {
						t.Run(backend+"/"+s.Name, func(t *testing.T) {
							w.pinned(t, func() { b.check(t, w, s, p.callers(i), backend, report) })
						})
					}
				}
			})
			n := refusals(b.results)
			if n <= refused {
				t.Errorf("level %d refuses %d calls natively, the one before it %d", level, n, refused)
			}
			refused = n
		}
	})
}

func refusals(results map[string]Result) (n int) {
	for _, r := range results {
		for _, fact := range r {
			if strings.HasPrefix(fact.Key, "op ") && (fact.Value == "EACCES" || fact.Value == "EPERM") {
				n++
			}
		}
	}
	return n
}
