package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/conformance"
	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/walkthrough"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "try-open" {
		tryOpen(os.Args[2])
		return
	}
	testenv.Main(m)
}

// A task is what one guest has to do.
type task struct {
	Kernel  string   // its name in the matrix
	Sources []string // nil is all
	Server  string   // one of servers, or ""
	Cases   int      // of the conformance suite, for each cell
	Oracle  string   // directory with what ext4 was recorded to do
}

// taskEnv holds the task, as JSON, in the guest.
const taskEnv = "IDMOUNT_KERNELS_TASK"

// TestGuest is the guest's side of TestKernels.
func TestGuest(t *testing.T) {
	text := os.Getenv(taskEnv)
	if text == "" {
		return // no guest
	}
	var job task
	must(t, json.Unmarshal([]byte(text), &job))
	g := newGuest(t, job)
	for _, m := range makersOf(job.Server) {
		if job.Sources == nil || slices.Contains(job.Sources, m.name) {
			t.Run(m.name, func(t *testing.T) { g.source(t, m) })
		}
	}
}

// guest is one kernel at work.
type guest struct {
	task
	binary string
	m      *conformance.Map
	rig    *conformance.Rig // of the callers
	plain  *conformance.Rig // of those who stand for them without a mount of ours
	cases  []suiteCase
	oracle oracle
	direct map[string]conformance.Result // see withoutMap
}

func newGuest(t *testing.T, job task) *guest {
	g := &guest{task: job, binary: testenv.Binary(t), m: conformance.MapByName(mapName)}
	g.cases = pickCases(job.Cases, job.Server)
	g.rig = conformance.NewRig(t, g.m, callersOf(g.cases))
	g.plain = conformance.NewRig(t, conformance.DirectMap, directCallersOf(g.cases))
	g.oracle = oracle{dir: job.Oracle, caps: bounding(t)}
	g.oracle.protect(t)
	g.direct = map[string]conformance.Result{}
	return g
}

// scratch is where this test makes sources, another place in each run.
var scratch = regexp.MustCompile(`/tmp/TestGuest[^/ ]*/[0-9]+`)

func (g *guest) say(c Cell) {
	c.Kernel = g.Kernel
	c.Reason = scratch.ReplaceAllString(c.Reason, "SOURCE")
	fmt.Println(c.line())
}

func (g *guest) source(t *testing.T, m maker) {
	if lacks := missing(m.needs); len(lacks) > 0 {
		g.say(Cell{Source: m.name, Result: None, Reason: "the kernel has no " + strings.Join(lacks, ", ")})
		return
	}
	made := false
	defer func() {
		if l, ok := recover().(lacking); ok {
			g.say(Cell{Source: m.name, Result: None, Reason: "the kernel has no such source: " + l.reason})
		} else if !made {
			g.say(Cell{Source: m.name, Result: Fail, Reason: "the source could not be made"})
		}
	}()
	s := m.make(t)
	made = true
	s.name = m.name
	report := g.detect(t, s)
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) { g.cell(t, s, backend, report) })
	}
}

var backends = []string{"native", "relay", "translate"}

// finding is one of the findings of a report of detect.
type finding struct{ Verdict, Reason string }

// report is what detect --json says, as far as it is looked at here.
type report struct {
	FSType string
	Access string

	MountAPI  finding `json:"mount_api"`
	UserNS    finding `json:"user_namespace"`
	Map       finding `json:"map"`
	Idmap     finding
	Device    finding `json:"fuse_device"`
	Fuse      finding
	Relay     finding
	Translate finding `json:"translate_map"`
	Root      finding `json:"root_access"`
}

// says is what a report says of a backend: that it works, or why not.
func (r *report) says(backend string) (works bool, why string) {
	needs := map[string][]finding{
		"native":    {r.MountAPI, r.Map, r.UserNS, r.Idmap},
		"relay":     {r.Device, r.Fuse, r.Map, r.UserNS, r.Relay},
		"translate": {r.Translate, r.Device, r.Fuse},
	}[backend]
	for _, f := range needs {
		if f.Verdict != "yes" {
			return false, f.Reason
		}
	}
	return true, ""
}

func (g *guest) detect(t *testing.T, s *source) *report {
	args := []string{"detect", "--json"}
	if s.recursive {
		args = append(args, "--recursive")
	}
	out, err := exec.Command(g.binary, append(args, s.path)...).Output()
	must(t, err)
	r := new(report)
	must(t, json.Unmarshal(out, r))
	want := "daemon"
	if s.squashed {
		want = "caller"
	}
	if r.Access != want {
		t.Errorf("detect chooses access %s (%s), want %s", r.Access, r.Root.Reason, want)
	}
	return r
}

// cell holds what detect says of a backend against the attempt and, where it
// works, tries the mount. What goes wrong fails the test and the cell.
func (g *guest) cell(t *testing.T, s *source, backend string, r *report) {
	c := Cell{Source: s.name, Backend: backend, Result: Fail, Reason: "see the output of the test"}
	defer func() { g.say(c) }()
	fail := func(format string, args ...any) {
		c.Reason = fmt.Sprintf(format, args...)
		t.Error(c.Reason)
	}
	works, why := r.says(backend)
	err := attempt(s.path, backend, s.recursive)
	if works != (err == nil) {
		fail("detect says %v (%s), the attempt ends with: %v", works, why, err)
		return
	}
	if err == nil && backend == "relay" && r.Access == "caller" {
		// The kernel offers it, but it can't do what this source asks for.
		c.Result, c.Reason = None, "with relay the kernel does not say who asks, and the source refuses root"
		return
	}
	if err != nil {
		c.Result, c.Reason = None, why
		if out, err := g.mount(s, backend, testenv.Dir(t)); err == nil {
			fail("mounted by %s all the same: %s", backend, out)
		}
		return
	}
	target := testenv.Dir(t)
	if out, err := g.mount(s, backend, target); err != nil {
		fail("mount: %v: %s", err, out)
		return
	}
	defer func() {
		if out, err := exec.Command(g.binary, "umount", target).CombinedOutput(); err != nil {
			_ = unix.Unmount(target, unix.MNT_DETACH)
			c.Result = Fail
			fail("umount: %v: %s", err, out)
		}
	}()
	switch {
	case s.readOnly:
		err = checkReadOnly(target)
	default:
		err = g.suite(t, s, backend, target, &c)
		if err == nil && s.recursive {
			err = g.suite(t, s.below("tmpfs"), backend, filepath.Join(target, "tmpfs"), &c)
		}
		// Linux 6.1 shows ACLs of its idmapped mounts untranslated, see limits.
		if err == nil && !s.squashed && !(s.name == "idmapped" && g.Kernel == "6.1") {
			err = g.walkThrough(s, backend)
		}
	}
	if err != nil {
		fail("%v", err)
		return
	}
	c.Result, c.Reason = Pass, ""
}

// below is the source's submount of a name.
func (s *source) below(name string) *source {
	sub := *s
	sub.disk, sub.path = filepath.Join(s.disk, name), filepath.Join(s.path, name)
	return &sub
}

func (g *guest) mount(s *source, backend, target string) (string, error) {
	args := []string{"mount", "--map", "b:0:100000:65536", "--backend", backend, "--stacking", "0"} // with passthrough wherever it is possible
	if s.recursive {
		args = append(args, "--recursive")
	}
	out, err := exec.Command(g.binary, append(args, s.path, target)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// walkThrough runs the demonstration on the source.
func (g *guest) walkThrough(s *source, backend string) error {
	cmd := exec.Command("sh", "-s", g.binary, backend, s.path, backend)
	cmd.Stdin = strings.NewReader(walkthrough.Script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("walk-through: %w: %s", err, strings.Join(lines[max(0, len(lines)-3):], " / "))
	}
	return nil
}

// checkReadOnly looks at what fillReadOnly has made.
func checkReadOnly(target string) error {
	for _, f := range []struct {
		name     string
		uid, gid uint32
		readable bool // by root, whom the map does not have
	}{{"mine", 101000, 101000, true}, {"group", 100000, 101000, true}, {"foreign", 65534, 65534, false}} {
		var st unix.Stat_t
		path := filepath.Join(target, f.name)
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("stat %s: %w", f.name, err)
		}
		if st.Uid != f.uid || st.Gid != f.gid {
			return fmt.Errorf("%s belongs to %d:%d, want %d:%d", f.name, st.Uid, st.Gid, f.uid, f.gid)
		}
		text, err := os.ReadFile(path)
		switch {
		case f.readable && string(text) != "data of "+f.name+"\n":
			return fmt.Errorf("read %s: %q, %v", f.name, text, err)
		case !f.readable && !errors.Is(err, unix.EACCES):
			return fmt.Errorf("read %s, which nobody may: %v, want EACCES", f.name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EOVERFLOW) {
		return fmt.Errorf("create on a read-only source: %v, want EROFS", err)
	}
	return nil
}
