package kernels

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/conformance"
	"github.com/idmount/idmount/internal/testenv"
)

// mapName is the conformance suite's name of the map b:0:100000:65536.
const mapName = "shift"

// suiteCase is one case of the conformance suite.
type suiteCase struct{ Scenario, Caller string }

// servedCallers ask a server: users, and root where it is root there too. Who has
// capabilities and another id is bound by what the server lets that id do.
var servedCallers = map[string][]string{
	"root_squash":    {"user-A", "user-B", "user-B-in-group-A", "user-unmapped", "user-A-gid-unmapped", "user-unmapped-gid-A", "container-user"},
	"no_root_squash": {"user-A", "user-B", "user-B-in-group-A", "user-unmapped", "container-user", "R0", "C0"},
	"9p":             {"user-A", "user-B", "user-B-in-group-A", "user-unmapped", "container-user", "R0", "C0"},
}

// pickCases takes n cases, spread over all scenarios and callers but the rare
// ones, which ask for what many of the sources here do not have.
func pickCases(n int, server string) []suiteCase {
	var all []suiteCase
	for i, s := range conformance.Scenarios {
		if s.Slow || strings.HasPrefix(s.Name, "rare/") {
			continue
		}
		for j, c := range conformance.Callers {
			if server != "" && !slices.Contains(servedCallers[server], c.Name) {
				continue
			}
			// The callers of one scenario are far apart.
			if (i+j)%3 == 0 {
				all = append(all, suiteCase{s.Name, c.Name})
			}
		}
	}
	var picked []suiteCase
	for i := range n {
		picked = append(picked, all[i*len(all)/n])
	}
	return picked
}

func callersOf(cases []suiteCase) []string {
	var names []string
	for _, c := range cases {
		if !slices.Contains(names, c.Caller) {
			names = append(names, c.Caller)
		}
	}
	return names
}

// suite runs the cases on a mount of s and returns how many it ran.
func (g *guest) suite(t *testing.T, s *source, backend, mnt string) (int, error) {
	rules := conformance.NewReport(slices.Concat(conformance.KnownDifferences, limits))
	features := featuresOf(s)
	var wrong []string
	n := 0
	for _, c := range g.cases {
		scenario := scenarioByName(c.Scenario)
		if !features.carries(scenario.Name) {
			continue
		}
		want, err := g.oracle.result(g, s, scenario, c.Caller)
		if err != nil {
			return n, fmt.Errorf("oracle: %s by %s: %w", c.Scenario, c.Caller, err)
		}
		got, err := g.rig.Run(s.disk, mnt, scenario, c.Caller)
		if s.remote && errors.Is(err, unix.ENOTEMPTY) {
			continue // a removed file that was open has a name there for a moment more
		}
		if err != nil {
			return n, fmt.Errorf("%s by %s: %w", c.Scenario, c.Caller, err)
		}
		n++
		at := conformance.Case{Scenario: c.Scenario, Caller: c.Caller, Backend: backend, Source: g.Kernel + "/" + s.name, Map: mapName}
		for _, d := range rules.Differences(at, want, got) {
			wrong = append(wrong, fmt.Sprintf("%s by %s: %s: want %s, got %s", c.Scenario, c.Caller, d.Key, d.Want, d.Got))
		}
	}
	for _, w := range wrong {
		t.Log(w)
	}
	if len(wrong) > 0 {
		return n, fmt.Errorf("%d of %d cases and more differ, first %s", len(wrong), n, wrong[0])
	}
	return n, nil
}

func scenarioByName(name string) *conformance.Scenario {
	for _, s := range conformance.Scenarios {
		if s.Name == name {
			return s
		}
	}
	panic("no scenario " + name)
}

// features are what a source can store.
type features struct{ acl, capability, trusted, user bool }

func featuresOf(s *source) features {
	if err := os.WriteFile(s.disk+"/features", nil, 0o666); err != nil {
		return features{}
	}
	defer os.Remove(s.disk + "/features")
	// As the client of a server sees it; being refused is having it.
	has := func(name string, value []byte) bool {
		err := unix.Setxattr(s.path+"/features", name, value, 0)
		return err != unix.EOPNOTSUPP && err != unix.EINVAL
	}
	return features{
		acl:        has("system.posix_acl_access", conformance.ACLXattr(6, 4, 4, 0)),
		capability: has("security.capability", conformance.CapNetRaw(2, 0)),
		trusted:    has("trusted.idmount", []byte("x")),
		user:       has("user.idmount", []byte("x")),
	}
}

// carries reports whether a scenario says anything about a source.
func (f features) carries(name string) bool {
	group, _, _ := strings.Cut(name, "/")
	switch {
	case strings.HasPrefix(group, "acl"), strings.Contains(group, "default-acl"):
		return f.acl
	case strings.HasPrefix(group, "capability"), strings.Contains(name, "cap=true"):
		return f.capability
	case strings.HasPrefix(group, "xattr"):
		return f.user && f.trusted
	}
	return true
}

// oracle has the results of a native mount.
type oracle struct {
	recorded map[string]conformance.Result // of the host, by scenario and caller
	ext4     string                        // on this kernel; "" if it has no native mount
	native   string
	results  map[string]conformance.Result
}

func (c suiteCase) key() string { return c.Scenario + " by " + c.Caller }

// newOracle mounts ext4 natively if this kernel can, and else reads what was
// recorded.
func newOracle(t *testing.T, g *guest) oracle {
	o := oracle{results: map[string]conformance.Result{}}
	if len(missing([]string{"ext4"})) == 0 {
		dir := testenv.Source(t, "ext4")
		if attempt(dir, "native", false) == nil {
			o.ext4, o.native = dir, conformance.MountOracle(t, dir, g.m)
			return o
		}
	}
	text, err := os.ReadFile(g.Oracle)
	must(t, err)
	must(t, json.Unmarshal(bytes.ReplaceAll(text, []byte(allCaps), bounding(t)), &o.recorded))
	return o
}

func (o *oracle) result(g *guest, _ *source, s *conformance.Scenario, caller string) (conformance.Result, error) {
	key := suiteCase{s.Name, caller}.key()
	if o.ext4 == "" {
		r, ok := o.recorded[key]
		if !ok {
			return nil, fmt.Errorf("%s was not recorded", key)
		}
		return r, nil
	}
	if r, ok := o.results[key]; ok {
		return r, nil
	}
	r, err := g.rig.Run(o.ext4, o.native, s, caller)
	if err == nil {
		o.results[key] = r
	}
	return r, err
}

// record writes the results of a native mount of ext4 on this kernel.
func record(t *testing.T, file string, cases []suiteCase) {
	g := &guest{m: conformance.MapByName(mapName)}
	g.rig = conformance.NewRig(t, g.m, callersOf(cases))
	o := oracle{results: map[string]conformance.Result{}, ext4: testenv.Source(t, "ext4")}
	o.native = conformance.MountOracle(t, o.ext4, g.m)
	for _, c := range cases {
		_, err := o.result(g, nil, scenarioByName(c.Scenario), c.Caller)
		must(t, err)
	}
	text, err := json.Marshal(o.results)
	must(t, err)
	must(t, os.WriteFile(file, bytes.ReplaceAll(text, bounding(t), []byte(allCaps)), 0o644))
}

// allCaps stands in what is recorded for the capabilities of root, which a
// container may have fewer of than the guest.
const allCaps = "ALL-CAPABILITIES"

// bounding is the process's bounding set as in /proc/PID/status.
func bounding(t *testing.T) []byte {
	text, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, rest, ok := bytes.Cut(text, []byte("CapBnd:\t"))
	if !ok {
		t.Fatal("no CapBnd in /proc/self/status")
	}
	set, _, _ := bytes.Cut(rest, []byte("\n"))
	return set
}
