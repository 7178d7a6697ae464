package clients

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/internal/test/conformance"
	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/treecmp"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// patience is for one program. The machine may be busy with other things.
const patience = 10 * time.Minute

// A kind is how a source is mounted.
type kind struct {
	name    string
	backend string
	options idmount.Options
}

var (
	native    = kind{name: "native", backend: "native"}
	relay     = kind{name: "relay", backend: "relay"}
	translate = kind{name: "translate", backend: "translate"}
	// As before Linux 6.9.
	requests  = kind{name: "translate without passthrough", backend: "translate", options: idmount.Options{NoPassthrough: true}}
	exclusive = kind{name: "translate, exclusive", backend: "translate", options: idmount.Options{Cache: cache("exclusive")}}
	// The same with the kernel's translation.
	exclusiveRelay = kind{name: "relay, exclusive", backend: "relay", options: idmount.Options{Cache: cache("exclusive")}}
)

func cache(text string) idmount.Cache {
	c, err := idmount.ParseCache(text)
	if err != nil {
		panic(err)
	}
	return c
}

// long says that there is time.
func long() bool { return os.Getenv("IDMOUNT_CLIENTS") == "long" }

// amount is how much of something is done, by the time there is.
func amount(short, much int) int {
	if long() {
		return much
	}
	return short
}

// The maps. Root of the initial user namespace is in the second one's view alone.
var (
	shift   = conformance.MapByName("shift")
	unshift = &conformance.Map{
		Name: "unshift",
		UIDs: []conformance.Extent{{Disk: unshifted, View: 0, Count: 65536}},
		GIDs: []conformance.Extent{{Disk: unshifted, View: 0, Count: 65536}},
	}
)

const unshifted = 200000 // what unshift shows as 0

// An id is who a program runs as, user and group alike.
type id struct {
	number uint32
	caps   bool // with all capabilities, whoever it is
}

const diskUser = 1000 // who owns what is worked on

var (
	user     = id{number: 100000 + diskUser}  // diskUser in the view of shift
	root     = id{number: 100000, caps: true} // disk's root in the view of shift
	onDisk   = id{number: diskUser}           // for the source
	hostRoot = id{}                           // for the source, and the view of unshift
)

// A stage is one mount for one run of a client.
type stage struct {
	*testing.T
	kind
	disk string // the source
	dir  string // where it is mounted: the same directory for every kind
	env  []string
}

// An outcome is what is compared.
type outcome struct {
	printed    string
	disk, view treecmp.Tree
	options    treecmp.Options
}

// each runs a client on a fresh source of every kind. The first kind is what the
// others are compared with.
func each(t *testing.T, kinds []kind, fstype string, m *conformance.Map, client func(*stage) outcome) {
	t.Helper()
	testenv.RequireRoot(t)
	dir := testenv.Dir(t)
	var want *outcome
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := &stage{T: t, kind: k, dir: dir, disk: testenv.Source(t, fstype)}
			s.mount(m)
			got := client(s)
			if t.Failed() {
				return
			}
			if want == nil {
				want = &got
				return
			}
			if want.printed != got.printed {
				t.Errorf("printed on %s:\n%s\nhere:\n%s", kinds[0].name, want.printed, got.printed)
			}
			treecmp.Report(t, "disk after "+kinds[0].name+" and here", treecmp.Diff(want.disk, got.disk, got.options))
			treecmp.Report(t, "view of "+kinds[0].name+" and here", treecmp.Diff(want.view, got.view, got.options))
		})
		if want == nil {
			return // nothing to compare with
		}
	}
}

// mount shows the source at the stage's directory, which is a bind mount: no
// client learns from a path where it is.
func (s *stage) mount(m *conformance.Map) {
	s.Helper()
	idMap := m.IDMap(s)
	report, err := detect.Probe(s.Context(), s.disk, detect.Options{Map: &idMap})
	if err != nil {
		s.Fatal(err)
	}
	if _, err := detect.Choose(report, idmount.Backend(s.backend)); err != nil {
		testenv.Skip(s, testenv.NeedKernel, err.Error())
	}
	var mounted string
	if s.backend == "native" {
		mounted = conformance.MountOracle(s, s.disk, m)
	} else {
		mounted = conformance.MountWith(s, s.disk, m, s.backend, s.options)
	}
	if err := unix.Mount(mounted, s.dir, "", unix.MS_BIND, ""); err != nil {
		s.Fatalf("bind %s at %s: %v", mounted, s.dir, err)
	}
	s.Cleanup(func() { testenv.Unmount(s, s.dir) })
}

// home makes a directory on the disk that belongs to the user whom the programs
// run as, and returns its path in the view.
func (s *stage) home(name string, owner int) string {
	s.Helper()
	p := filepath.Join(s.disk, name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.Chown(p, owner, owner); err != nil {
		s.Fatal(err)
	}
	return filepath.Join(s.dir, name)
}

// sh runs a script in a directory, as somebody, and returns what it prints. The
// test ends if the script fails.
func (s *stage) sh(as id, dir, script string) string {
	s.Helper()
	out, err := s.try(as, dir, script)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// try is sh with an error.
func (s *stage) try(as id, dir, script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), patience) // for cleaning up, too
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-eu")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "TZ=UTC"}, s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: as.number, Gid: as.number}}
	if as.caps {
		cmd.SysProcAttr.AmbientCaps = permittedCaps()
	}
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("as %d in %s: %w\n%s\n%s%s", as.number, dir, err, script, out.Bytes(), errs.Bytes())
	}
	return out.String(), nil
}

// permittedCaps are the capabilities that this process may hand on.
func permittedCaps() (caps []uintptr) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil
	}
	for c := range uintptr(64) {
		if data[c/32].Permitted&(1<<(c%32)) != 0 {
			caps = append(caps, c)
		}
	}
	return caps
}

// outcome scans what a client has left.
func (s *stage) outcome(printed string, o treecmp.Options) outcome {
	s.Helper()
	return outcome{printed: printed, disk: treecmp.MustScan(s, s.disk), view: treecmp.MustScan(s, s.dir), options: o}
}

// need skips the test if a program is not installed.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			testenv.Skip(t, testenv.NeedProgram, err.Error())
		}
	}
}
