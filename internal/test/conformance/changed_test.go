package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// TestChanged: what the kernel has judged by owners, a mode or an ACL that the source
// no longer has is judged again, at once and whatever is cached.
func TestChanged(t *testing.T) {
	testenv.RequireRoot(t)
	p := planFromEnv(t)
	for name, cache := range map[string]idmount.Cache{
		"ttl":      {Mode: idmount.CacheTTL, TTL: time.Hour}, // nothing is invalidated
		"coherent": {},
		"none":     {Mode: idmount.CacheNone},
	} {
		t.Run(name, func(t *testing.T) {
			p.changed(t, idmount.Options{Cache: cache})
		})
	}
}

// changed runs ChangedScenarios with options. In a quick run it is a part of them, each by
// two callers: the one who is the owner in many, and another one than the scenario before.
func (p plan) changed(t *testing.T, o idmount.Options) {
	report := NewReport(slices.Concat(KnownDifferences, sourceDifferences, afterChange))
	p.each(t, func(t *testing.T, b *bench) {
		every := 1
		switch {
		case p.full:
		case b.fstype == p.sources[0] && o.Cache.Mode == idmount.CacheTTL:
			every = 3
		default:
			every = 13
		}
		for j, backend := range p.backends {
			t.Run(backend, func(t *testing.T) {
				b.each(t, func(w *worker) { w.mount = MountWith(t, b.source, b.m, backend, o) })
				for i, s := range ChangedScenarios {
					if (i+j)%every != 0 {
						continue
					}
					t.Run(s.Name, func(t *testing.T) {
						t.Parallel()
						w := <-b.workers
						defer func() { b.workers <- w }()
						w.pinned(t, func() {
							callers := Callers
							if !p.full {
								callers = []CallerClass{CallerByName("user-A"), Callers[i%len(Callers)]}
							}
							for _, c := range callers {
								b.checkChanged(t, w, s, c.Name, backend, o.Cache, report)
							}
						})
					})
				}
			})
		}
	})
	if text := report.summary(); text != "" {
		t.Logf("unexplained differences:\n%s", text)
	}
}

// checkChanged is check for one of ChangedScenarios.
func (b *bench) checkChanged(t *testing.T, w *worker, s *Scenario, caller, backend string, cache idmount.Cache, report *Report) {
	want, err := b.expected(w, s, caller)
	if err != nil {
		t.Fatalf("caller %s: native: %v", caller, err)
	}
	if cache.Mode == idmount.CacheTTL {
		want = slices.DeleteFunc(slices.Clone(want), shownToCaller)
	}
	before, err := b.expected(w, unchanged(s), caller)
	if err != nil {
		t.Fatalf("caller %s: native, unchanged: %v", caller, err)
	}
	var differences []Difference
	for _, wait := range waits(cache) {
		w.noticed = wait
		got, err := b.run(w, s, caller, b.source, w.mount)
		w.noticed = 0
		if err != nil {
			t.Fatalf("caller %s: %s: %v", caller, backend, err)
		}
		if (cache.Mode == idmount.CacheTTL || notByItsName(s.Name)) && refusedAsBefore(before, got) {
			return
		}
		if cache.Mode == idmount.CacheTTL {
			got = slices.DeleteFunc(got, shownToCaller)
		}
		if differences = report.Differences(Case{s.Name, caller, backend, b.fstype, b.m.Name}, want, got, nil); len(differences) == 0 {
			return
		}
	}
	for _, d := range differences {
		t.Errorf("caller %s: %s: native %s, %s %s", caller, d.Key, d.Want, backend, d.Got)
	}
}

// waits are how long a case waits after its change. With CacheCoherent the kernel is
// told of that in milliseconds, or later if the machine is busy.
func waits(cache idmount.Cache) []time.Duration {
	if cache.Mode != idmount.CacheCoherent {
		return []time.Duration{0}
	}
	return []time.Duration{30 * time.Millisecond, time.Second, 10 * time.Second}
}

// unchanged is a scenario without its change.
func unchanged(s *Scenario) *Scenario {
	same := *s
	same.Name = s.Name + " (unchanged)"
	same.Change = nil
	return &same
}

// refusedAsBefore reports whether a call was refused with the error that it gives
// natively without the change. That is what the kernel does by itself, and FUSE can't
// have it ask first: with a TTL, and where chmod(2) and its like don't come by the name
// that the server has had expire.
func refusedAsBefore(before, got Result) bool {
	for _, f := range got {
		if strings.HasPrefix(f.Key, "op ") {
			return before.value(f.Key) == f.Value && (f.Value == "EPERM" || f.Value == "EACCES" || f.Value == "EOVERFLOW")
		}
	}
	return false
}

// notByItsName reports whether what a scenario does is done by a descriptor, or by another
// link than the one by which the file was changed.
func notByItsName(scenario string) bool {
	_, op, _ := strings.Cut(scenario[strings.Index(scenario, "/")+1:], "/")
	switch op {
	case "fchmod-setuid", "fchmod", "fchgrp", "futimens", "fsetxattr", "fremovexattr", "setflags",
		"unlink-sticky", "rename-sticky", "rename-onto-sticky":
		return true
	}
	return false
}

// shownToCaller: what stat(2) and its like show goes by what the kernel has.
func shownToCaller(f Fact) bool { return strings.HasPrefix(f.Key, "caller sees ") }

// afterChange are the differences that only cases after a change show.
var afterChange = []Known{
	{
		Reason:   "the kernel judges before the server says that a caller is not in the map",
		Scenario: "changed-directory/.*", Backend: "translate", Key: "op .*", Want: "EOVERFLOW", Got: "EACCES|EPERM",
	},
	{
		Reason:   "to set flags, the kernel opens the file again, as nobody has to natively",
		Scenario: "changed-file/.*/setflags", Key: "op setflags", Want: "EPERM", Got: "EACCES",
	},
	{
		Reason:   "the kernel drops S_ISGID by the group that it knows, before it asks",
		Scenario: "changed-.*/(f?chmod|chmod-setgid)", Key: ".* mode", Want: "0.*", Got: "0.*", Equal: setgidDropped,
	},
	{
		Reason:   "the kernel reads a root id by the map before it asks",
		Scenario: "changed-file/.*/set-capability", Backend: "relay", Key: "op setxattr", Want: "EPERM", Got: "EINVAL",
	},
}

// setgidDropped reports whether two modes are the same but for S_ISGID.
func setgidDropped(want, got string) bool {
	var w, g uint32
	_, err := fmt.Sscanf(want+" "+got, "%o %o", &w, &g)
	return err == nil && w == g|unix.S_ISGID
}
