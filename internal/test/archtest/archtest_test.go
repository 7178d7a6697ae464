package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/idmount/idmount"

// goPackage is what we read of go list's output.
type goPackage struct {
	Dir        string
	ImportPath string
	Imports    []string
	Deps       []string
	GoFiles    []string

	TestImports, XTestImports []string
}

func TestIdmapStandsAlone(t *testing.T) {
	for _, dep := range find(t, list(t), "idmap").Deps {
		if ours(dep) {
			t.Errorf("idmap depends on %s; it may depend on nothing of ours", dep)
		}
	}
}

var apart = []string{"detect", "native", "fusefs"}

// TestBackendsAreApart looks at all dependencies, not at the imports alone: a
// helper package that imports a backend would tie the others to it as well.
func TestBackendsAreApart(t *testing.T) {
	all := list(t)
	for _, name := range apart {
		for _, dep := range find(t, all, name).Deps {
			short := strings.TrimPrefix(dep, module+"/")
			if dep == module || short != name && slices.Contains(apart, short) {
				t.Errorf("%s depends on %s", name, dep)
			}
		}
	}
}

// seesSeveral lists who may import more than one of apart: the top alone, and
// the suites that compare backends.
var seesSeveral = []string{module, module + "/bench", module + "/cmd/idmount", module + "/internal/test/conformance"}

// TestTopAloneSeesSeveral is about direct imports; the tests of a package count
// as the package, so that a backend's tests don't tie it to another either.
func TestTopAloneSeesSeveral(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(seesSeveral, p.ImportPath) {
			continue
		}
		self := strings.TrimPrefix(p.ImportPath, module+"/")
		var seen []string
		for _, name := range apart {
			if name == self || slices.Contains(slices.Concat(p.Imports, p.TestImports, p.XTestImports), module+"/"+name) {
				seen = append(seen, name)
			}
		}
		if len(seen) > 1 {
			t.Errorf("%s sees %s; only the top may see several", p.ImportPath, strings.Join(seen, ", "))
		}
	}
}

// Raw calls are named, because x/sys/unix itself is everywhere for its constants.
var rawCall = regexp.MustCompile(`\b(unix|syscall)\.(Raw)?Syscall6?\(`)

// rawAllowed lists who else makes raw calls, and why. An entry that is not
// needed any more fails the test.
var rawAllowed = map[string]string{
	"internal/sys":              "this is its purpose",
	"fusefs":                    "the wire format",
	"internal/test/testenv":     "a test rig: its agents issue calls exactly as a caller would, on one thread",
	"internal/test/conformance": "a test rig: its scenarios issue calls that have no wrapper",
}

func TestRawCallsLiveInSys(t *testing.T) {
	needed := map[string]bool{"internal/sys": true, "fusefs": true}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		raw := func(format string, args ...any) {
			needed[name] = true
			if rawAllowed[name] == "" {
				t.Errorf(format, args...)
			}
		}
		if slices.Contains(p.Imports, "unsafe") {
			raw("%s imports unsafe", name)
		}
		for _, file := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if call := rawCall.Find(text); call != nil {
				raw("%s/%s makes a raw system call: %s…)", name, file, call)
			}
		}
	}
	for name := range rawAllowed {
		if !needed[name] {
			t.Errorf("%s makes no raw system calls any more: take it off the list", name)
		}
	}
}

// skip is a method of testing.TB; testenv.Skip is none.
var skip = regexp.MustCompile(`\b([[:alpha:]]\w*)\.(Skip|Skipf|SkipNow)\(`)

// TestSkipsGoThroughTestenv looks for tests that CI would not see are skipped.
func TestSkipsGoThroughTestenv(t *testing.T) {
	for _, p := range list(t) {
		if p.ImportPath == module+"/internal/test/testenv" {
			continue
		}
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range skip.FindAllSubmatch(text, -1) {
				if string(m[1]) != "testenv" {
					t.Errorf("%s skips by itself: %s", file, m[0])
				}
			}
		}
	}
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func find(t *testing.T, all []goPackage, name string) goPackage {
	t.Helper()
	for _, p := range all {
		if p.ImportPath == module+"/"+name {
			return p
		}
	}
	t.Fatalf("no package %s in the module", name)
	return goPackage{}
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,ImportPath,Imports,TestImports,XTestImports,Deps,GoFiles", module+"/...")
	cmd.Dir = "../../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if ours(p.ImportPath) {
			all = append(all, p)
		}
	}
}
