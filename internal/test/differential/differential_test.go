package differential

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/internal/test/conformance"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A run that nothing is asked of makes the same calls every time, so that it
// fails by what has changed and not by its luck; others explore.
const (
	shortSeed  = 296934996        // the first of a run without SOAKTIME and SOAKSEED
	shortSeeds = 8                // and how many it takes
	shortRun   = 10 * time.Second // with SOAKSEED alone
)

// settings are what the environment asks for.
type settings struct {
	time     time.Duration
	seed     uint64
	seeds    uint64 // how many, 0 for as many as the time allows
	backends []string
	sources  []string
	maps     []string
	options  idmount.Options
}

func settingsOf(t *testing.T) settings {
	s := settings{
		time: shortRun, seed: shortSeed, seeds: shortSeeds, backends: []string{"relay", "translate"},
		sources: []string{"ext4"}, maps: []string{"shift"},
		options: idmount.Options{Cache: idmount.Cache{Mode: fusefs.CacheNone}, NoPassthrough: os.Getenv("SOAKPASSTHROUGH") == "no"},
	}
	var err error
	if os.Getenv("SOAKTIME") != "" || os.Getenv("SOAKSEED") != "" {
		s.seed, s.seeds = uint64(time.Now().UnixNano())%1e9, 0
	}
	if v := os.Getenv("SOAKTIME"); v != "" {
		if s.time, err = time.ParseDuration(v); err != nil {
			t.Fatalf("SOAKTIME: %v", err)
		}
		s.maps = []string{"shift", "uids-not-gids", "root", "identity"}
	}
	if v := os.Getenv("SOAKSEED"); v != "" {
		if s.seed, err = strconv.ParseUint(v, 0, 64); err != nil {
			t.Fatalf("SOAKSEED: %v", err)
		}
	}
	if v := os.Getenv("SOAKCACHE"); v != "" {
		if s.options.Cache, err = fusefs.ParseCache(v); err != nil {
			t.Fatalf("SOAKCACHE: %v", err)
		}
	}
	if v := os.Getenv("SOAKTRANSPORT"); v != "" {
		if s.options.Transport, err = fusefs.ParseTransport(v); err != nil {
			t.Fatalf("SOAKTRANSPORT: %v", err)
		}
		if s.options.Transport == fusefs.TransportRing {
			testenv.IOUring(t)
		}
	}
	for name, list := range map[string]*[]string{"SOAKBACKEND": &s.backends, "SOAKMAP": &s.maps, "IDMOUNT_SOURCES": &s.sources} {
		if v := os.Getenv(name); v != "" {
			*list = strings.Split(v, ",")
		}
	}
	return s
}

// universe is the worlds that are compared: the first is native.
type universe []*World

// notNative are the sources that the kernel can't idmap. What is compared with there is
// another mount by the same backend, the first that is asked for, that keeps nothing.
var notNative = []string{"overlay", "overlay-nfs_export", "ramfs"}

func newUniverse(t testing.TB, fstype string, m *conformance.Map, backends []string, o idmount.Options) universe {
	source := testenv.Source(t, fstype)
	// The observer's files are nobody's business, and so is its umask.
	unix.Umask(0)
	var u universe
	if slices.Contains(notNative, fstype) {
		backends = backends[:1] // others differ in which error comes first
	}
	for i, backend := range append([]string{"native"}, backends...) {
		dir := filepath.Join(source, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		options := o
		if backend == "native" && slices.Contains(notNative, fstype) {
			backend, options.Cache.Mode = backends[0], fusefs.CacheNone
		}
		u = append(u, NewWorld(t, dir, m, backend, options))
	}
	return u
}

// run makes the steps in all worlds at once and returns the first difference,
// and the number of the step that it came with.
func (u universe) run(steps []Step, count *counter) (difference string, at int, err error) {
	notes := make([][]Note, len(u))
	errs := make([]error, len(u))
	var wg sync.WaitGroup
	for i, w := range u {
		wg.Go(func() { notes[i], errs[i] = w.Run(steps) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return "", 0, fmt.Errorf("%s: %w", u[i].Backend, err)
		}
	}
	count.add(steps, notes[0])
	for i := range steps {
		for k, w := range u[1:] {
			if d := differs(w.Backend, &steps[i], notes[0][i], notes[k+1][i]); d != "" {
				return w.Backend + ": " + d, i, nil
			}
		}
	}
	return "", 0, nil
}

func differs(backend string, s *Step, want, got Note) string {
	var out []string
	if !same(backend, s, want.Result, got.Result) {
		out = append(out, fmt.Sprintf("the call: native %s, got %s", want.Result, got.Result))
	}
	for i := range max(len(want.Seen), len(got.Seen)) {
		w, g := "nothing", "nothing"
		if i < len(want.Seen) {
			w = want.Seen[i]
		}
		if i < len(got.Seen) {
			g = got.Seen[i]
		}
		if w != g {
			out = append(out, fmt.Sprintf("native %s\n\t   got %s", w, g))
		}
	}
	return strings.Join(out, "\n\t")
}

// minimal leaves out of steps that differ what is not needed for that: first
// many steps at a time, then single ones, then what a step says. It returns nil
// if the steps do not differ again.
//
// The looks between steps are calls as well, which fill the kernel's caches or
// empty them. More of them tell better where a difference comes from, and may
// keep it from coming.
func minimal(u universe, steps []Step) []Step {
	differ := func(steps []Step) bool {
		d, _, err := u.run(steps, newCounter())
		return err == nil && d != ""
	}
	usual := u[0].batch
	u.look(1)
	if !differ(steps) {
		u.look(usual)
		if !differ(steps) {
			return nil
		}
	}
	for size := len(steps) / 2; size > 0; {
		removed := false
		for i := len(steps) - size; i >= 0; i -= size {
			if less := slices.Delete(slices.Clone(steps), i, i+size); len(less) > 0 && differ(less) {
				steps, removed = less, true
			}
		}
		if size > 1 || !removed {
			size /= 2
		}
	}
	for i := range steps {
		for _, simpler := range simplifications {
			less := slices.Clone(steps)
			simpler(&less[i])
			if less[i] != steps[i] && differ(less) {
				steps = less
			}
		}
	}
	return steps
}

var simplifications = []func(*Step){
	func(s *Step) { s.Umask = 0 }, func(s *Step) { s.Off = 0 }, func(s *Step) { s.Len = min(s.Len, 1) },
	func(s *Step) { s.Flags &= unix.O_ACCMODE | unix.O_CREAT }, func(s *Step) { s.Flags = 0 },
	func(s *Step) { s.Mode &^= 0o7000 }, func(s *Step) { s.Mode |= 0o777 }, func(s *Step) { s.By = "user-A" }, func(s *Step) { s.Path = "a" },
}

// look sets how many steps of one caller are made between two looks.
func (u universe) look(batch int) {
	for _, w := range u {
		w.batch = batch
	}
}

// counter counts steps by call and by what came of them.
type counter struct {
	steps int
	calls map[string]map[string]int
}

func newCounter() *counter { return &counter{calls: map[string]map[string]int{}} }

func (c *counter) add(steps []Step, notes []Note) {
	c.steps += len(steps)
	for i, s := range steps {
		if c.calls[s.Call] == nil {
			c.calls[s.Call] = map[string]int{}
		}
		outcome, _, _ := strings.Cut(notes[i].Result, " ")
		c.calls[s.Call][outcome]++
	}
}

func (c *counter) String() string {
	var lines []string
	for call, outcomes := range c.calls {
		var parts []string
		for o, n := range outcomes {
			parts = append(parts, fmt.Sprintf("%s %d", o, n))
		}
		sort.Strings(parts)
		lines = append(lines, call+": "+strings.Join(parts, ", "))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// script is what TestScript reads.
func script(u universe, steps []Step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "map %s\nbatch %d\n", u[0].m.Name, u[0].batch)
	for i := range steps {
		fmt.Fprintln(&b, steps[i].String())
	}
	return b.String()
}

func TestRandom(t *testing.T) {
	testenv.RequireRoot(t)
	s := settingsOf(t)
	share := s.time / time.Duration(len(s.sources)*len(s.maps))
	for _, fstype := range s.sources {
		for _, name := range s.maps {
			t.Run(fstype+"/"+name, func(t *testing.T) {
				m := conformance.MapByName(name)
				u := newUniverse(t, fstype, m, s.backends, s.options)
				count := newCounter()
				start := time.Now()
				sequence := sequences(m, s.options.Cache.Mode == fusefs.CacheNone)
				t.Logf("SOAKSEED=%d", s.seed)
				more := func(seed uint64) bool {
					if s.seeds > 0 {
						return seed < s.seed+s.seeds
					}
					return time.Since(start) < share
				}
				for seed := s.seed; more(seed); seed++ {
					check(t, seed, func(rt *rapid.T) {
						steps := sequence.Draw(rt, "steps")
						difference, at, err := u.run(steps, count)
						if err != nil {
							t.Fatalf("%v\n%s", err, script(u, steps))
						}
						if difference != "" {
							t.Logf("%s\nafter step %d, before the sequence is made smaller", difference, at)
							fewer := minimal(u, steps)
							if fewer == nil {
								t.Fatalf("once, and not again, in\n\n%s", script(u, steps))
							}
							again, _, err := u.run(fewer, count)
							if err != nil || again == "" {
								t.Fatalf("now and then, in\n\n%s", script(u, fewer))
							}
							t.Fatalf("%s\nin\n\n%s", again, script(u, fewer))
						}
					})
				}
				d := time.Since(start)
				t.Logf("seed %d: %d steps a world, backends %s, in %.1f s: %.0f steps/s in all worlds",
					s.seed, count.steps, strings.Join(s.backends, " "), d.Seconds(), float64(count.steps*len(u))/d.Seconds())
				if testing.Verbose() {
					t.Logf("outcomes on the native mount:\n%s", count)
				}
			})
		}
	}
}

// check is rapid.Check of a few sequences from a seed.
func check(t *testing.T, seed uint64, property func(*rapid.T)) {
	t.Helper()
	for name, value := range map[string]string{
		"rapid.seed": fmt.Sprint(seed), "rapid.checks": "20", "rapid.nofailfile": "true", "rapid.shrinktime": "20s",
	} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(quiet{t}, property)
}

// quiet leaves out what rapid says of each seed that passes.
type quiet struct{ *testing.T }

func (q quiet) Logf(format string, args ...any) {
	if !strings.HasPrefix(format, "[rapid] OK") {
		q.T.Logf(format, args...)
	}
}

func TestScript(t *testing.T) {
	testenv.RequireRoot(t)
	files, _ := filepath.Glob("testdata/*.txt")
	if file := os.Getenv("IDMOUNT_SCRIPT"); file != "" {
		files = []string{file}
	}
	s := settingsOf(t)
	if os.Getenv("IDMOUNT_SOURCES") == "" {
		s.sources = []string{"ext4", "tmpfs"} // which differ in times and links
	}
	for _, fstype := range s.sources {
		worlds := map[string]universe{}
		for _, file := range files {
			m, batch, steps := readScript(t, file)
			if worlds[m.Name] == nil {
				worlds[m.Name] = newUniverse(t, fstype, m, s.backends, s.options)
			}
			worlds[m.Name].look(batch)
			t.Run(fstype+"/"+filepath.Base(file), func(t *testing.T) {
				difference, at, err := worlds[m.Name].run(steps, newCounter())
				if err != nil {
					t.Fatal(err)
				}
				if difference != "" {
					t.Errorf("%s\nafter the last step of\n\n%s", difference, script(worlds[m.Name], steps[:at+1]))
				}
			})
		}
	}
}

func readScript(t *testing.T, file string) (m *conformance.Map, batch int, steps []Step) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m, batch = conformance.MapByName("shift"), usualBatch
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "map "); ok {
			m = conformance.MapByName(name)
			continue
		}
		if n, ok := strings.CutPrefix(line, "batch "); ok {
			if batch, err = strconv.Atoi(n); err != nil || batch < 1 {
				t.Fatalf("%s: %q", file, line)
			}
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseStep(line)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, *s)
	}
	return m, batch, steps
}

func TestStepsAsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, s := range sequences(conformance.Maps[0], true).Draw(t, "steps") {
			back, err := parseStep(s.String())
			if err != nil {
				t.Fatal(err)
			}
			if *back != s {
				t.Fatalf("%s\nis read as\n%s", s.String(), back.String())
			}
		}
	})
}
