package kernels

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/conformance"
	"github.com/idmount/idmount/internal/test/testenv"
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

// allCases is a number of cases that leaves none out.
const allCases = 1 << 20

// pickCases takes about n cases. A case is taken for what it is called alone, so
// that a new scenario changes nothing about the others.
func pickCases(n int, server string) []suiteCase {
	callers := callersFor(server)
	// As if there were so many scenarios: their number changes.
	const scenarios = 500
	limit := uint64(n) << 32 / uint64(scenarios*len(callers))
	var picked []suiteCase
	for _, s := range conformance.Scenarios {
		if s.Slow && n < allCases {
			continue
		}
		for _, c := range callers {
			hash := fnv.New64a()
			fmt.Fprintf(hash, "%s by %s", s.Name, c)
			if hash.Sum64()>>32 < limit {
				picked = append(picked, suiteCase{s.Name, c})
			}
		}
	}
	return picked
}

// callersFor are who asks sources of a server, "" being those without.
func callersFor(server string) []string {
	if server != "" {
		return servedCallers[server]
	}
	var names []string
	for _, c := range conformance.Callers {
		names = append(names, c.Name)
	}
	return names
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

// suite runs the cases on a mount of s, and notes in its cell how many those were
// and which rules they took.
func (g *guest) suite(t *testing.T, s *source, backend, mnt string, cell *Cell) error {
	rules := conformance.NewReport(slices.Concat(conformance.KnownDifferences, limits))
	features, err := featuresOf(s)
	if err != nil {
		return fmt.Errorf("what %s can store: %w", s.name, err)
	}
	n, wrong, first := 0, 0, ""
	for _, c := range g.cases {
		if !features.carries(c.Scenario) {
			continue
		}
		n++
		differences, err := g.differences(s, backend, mnt, c, rules)
		if err != nil {
			differences = append(differences, err.Error())
		}
		for _, d := range differences {
			t.Logf("%s by %s: %s", c.Scenario, c.Caller, d)
		}
		if len(differences) > 0 {
			wrong++
			if first == "" {
				first = fmt.Sprintf("%s by %s: %s", c.Scenario, c.Caller, differences[0])
			}
		}
	}
	cell.Cases += n
	cell.Rules = append(cell.Rules, rules.Used()...)
	switch {
	case n == 0:
		return fmt.Errorf("no case of %d is for %s, which has %+v", len(g.cases), s.name, features)
	case wrong > 0:
		return fmt.Errorf("%d of %d cases differ, first %s", wrong, n, first)
	}
	return nil
}

// differences of one case that nothing explains.
func (g *guest) differences(s *source, backend, mnt string, c suiteCase, rules *conformance.Report) ([]string, error) {
	scenario := scenarioByName(c.Scenario)
	want, reference, err := g.oracle.of(c)
	if err != nil {
		return nil, fmt.Errorf("oracle: %w", err)
	}
	source, err := g.withoutMap(s, scenario, conformance.DirectCaller(c.Caller))
	if err != nil {
		return nil, fmt.Errorf("without a mount of ours: %w", err)
	}
	got, err := g.run(g.rig, s, mnt, scenario, c.Caller)
	if err != nil {
		return nil, err
	}
	at := conformance.Case{Scenario: c.Scenario, Caller: c.Caller, Backend: backend, Source: g.Kernel + "/" + s.name, Map: mapName}
	direct := &conformance.Direct{Reference: reference, Source: source, Map: g.m, Caller: conformance.CallerByName(c.Caller).Make(g.m)}
	var out []string
	for _, d := range rules.Differences(at, want, got, direct) {
		out = append(out, fmt.Sprintf("%s: want %s, got %s", d.Key, d.Want, d.Got))
	}
	return out, nil
}

// run is Rig.Run for a source whose server may keep a removed file for a moment
// more than a directory can be kept for. An ENOTEMPTY of the case itself stays.
func (g *guest) run(rig *conformance.Rig, s *source, mnt string, scenario *conformance.Scenario, caller string) (conformance.Result, error) {
	r, err := rig.Run(s.disk, mnt, scenario, caller)
	var left *conformance.LeftBehind
	if s.remote && errors.As(err, &left) && errors.Is(left, unix.ENOTEMPTY) {
		return r, nil
	}
	return r, err
}

// withoutMap is what the source does by itself, for both backends.
func (g *guest) withoutMap(s *source, scenario *conformance.Scenario, caller string) (conformance.Result, error) {
	key := s.path + " " + suiteCase{scenario.Name, caller}.key()
	if r, ok := g.direct[key]; ok {
		return r, nil
	}
	r, err := g.run(g.plain, s, s.path, scenario, caller)
	if err == nil {
		g.direct[key] = r
	}
	return r, err
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

// featuresOf tries a file that is written on the server's side; a source that
// can't be written has no business in the suite, see checkReadOnly.
func featuresOf(s *source) (features, error) {
	// Another file each time: clients know a removed one for a while.
	file, err := os.CreateTemp(s.disk, "features")
	if err != nil {
		return features{}, err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(file.Chmod(0o666), file.Close()); err != nil {
		return features{}, err
	}
	// As the client of a server sees it.
	path := filepath.Join(s.path, filepath.Base(file.Name()))
	var f features
	for _, try := range []struct {
		has   *bool
		name  string
		value []byte
	}{
		{&f.acl, "system.posix_acl_access", conformance.ACLXattr(6, 4, 4, 0)},
		{&f.capability, "security.capability", conformance.CapNetRaw(2, 0)},
		{&f.trusted, "trusted.idmount", []byte("x")},
		{&f.user, "user.idmount", []byte("x")},
	} {
		switch err := unix.Setxattr(path, try.name, try.value, 0); err {
		case nil, unix.EPERM, unix.EACCES: // being refused is having it
			*try.has = true
		case unix.EOPNOTSUPP, unix.EINVAL:
		default:
			return features{}, fmt.Errorf("setxattr %s %s: %w", path, try.name, err)
		}
	}
	return f, nil
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

func (c suiteCase) key() string { return c.Scenario + " by " + c.Caller }

// recorded is what a scenario gives on ext4: on a native mount by each caller,
// and without one by those that stand for them.
type recorded struct{ Native, Direct map[string]conformance.Result }

// An oracle is a directory with a file for each scenario, which holds what was
// recorded on the kernel that the tests run on.
type oracle struct {
	dir      string
	caps     []byte
	scenario string // the one of now
	now      recorded
}

func (o *oracle) file(scenario string) string {
	return filepath.Join(o.dir, strings.ReplaceAll(scenario, "/", ":"))
}

// of returns what a native mount of ext4 gives, and what ext4 alone.
func (o *oracle) of(c suiteCase) (native, direct conformance.Result, err error) {
	if o.scenario != c.Scenario {
		text, err := os.ReadFile(o.file(c.Scenario))
		if err != nil {
			return nil, nil, err
		}
		var r recorded
		if err := json.Unmarshal(bytes.ReplaceAll(text, []byte(allCaps), o.caps), &r); err != nil {
			return nil, nil, err
		}
		o.scenario, o.now = c.Scenario, r
	}
	native, ok := o.now.Native[c.Caller]
	direct, ok2 := o.now.Direct[conformance.DirectCaller(c.Caller)]
	if !ok || !ok2 {
		return nil, nil, errors.New("it was not recorded")
	}
	return native, direct, nil
}

// record writes what the cases give on ext4 of this kernel.
func record(t *testing.T, dir string, cases []suiteCase) {
	o := oracle{dir: dir}
	m := conformance.MapByName(mapName)
	mapped := conformance.NewRig(t, m, callersOf(cases))
	plain := conformance.NewRig(t, conformance.DirectMap, directCallersOf(cases))
	source := testenv.Source(t, "ext4")
	native := conformance.MountOracle(t, source, m)
	all := map[string]*recorded{}
	for _, c := range cases {
		r := all[c.Scenario]
		if r == nil {
			r = &recorded{map[string]conformance.Result{}, map[string]conformance.Result{}}
			all[c.Scenario] = r
		}
		var err error
		if r.Native[c.Caller] == nil {
			r.Native[c.Caller], err = mapped.Run(source, native, scenarioByName(c.Scenario), c.Caller)
			must(t, err)
		}
		if d := conformance.DirectCaller(c.Caller); r.Direct[d] == nil {
			r.Direct[d], err = plain.Run(source, source, scenarioByName(c.Scenario), d)
			must(t, err)
		}
	}
	settings, err := json.Marshal(protections(t))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, protectionsFile), settings, 0o644))
	for name, r := range all {
		text, err := json.Marshal(r)
		must(t, err)
		must(t, os.WriteFile(o.file(name), bytes.ReplaceAll(text, bounding(t), []byte(allCaps)), 0o644))
	}
}

// protectionsFile is, beside what was recorded, under which fs.protected_* it was.
const protectionsFile = "protected"

// protections are these settings, by their files.
func protections(t *testing.T) map[string]string {
	values := map[string]string{}
	for _, name := range []string{"hardlinks", "symlinks", "fifos", "regular"} {
		path := "/proc/sys/fs/protected_" + name
		text, err := os.ReadFile(path)
		must(t, err)
		values[path] = strings.TrimSpace(string(text))
	}
	return values
}

// protect makes the settings those of the oracle. Debian's kernels begin with
// others.
func (o *oracle) protect(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(o.dir, protectionsFile))
	must(t, err)
	var values map[string]string
	must(t, json.Unmarshal(text, &values))
	for path, now := range protections(t) {
		if now != values[path] {
			testenv.Setting(t, path, values[path])
		}
	}
}

func directCallersOf(cases []suiteCase) []string {
	var names []string
	for _, name := range callersOf(cases) {
		if d := conformance.DirectCaller(name); !slices.Contains(names, d) {
			names = append(names, d)
		}
	}
	return names
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
