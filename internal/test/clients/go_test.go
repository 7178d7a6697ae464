package clients

import (
	_ "embed"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/treecmp"
)

// goModule is a script that writes a small module.
//
//go:embed testdata/module.sh
var goModule string

// goEnv is relative to the directory that it is used in.
const goEnv = `
	export GOCACHE="$PWD/cache" GOPATH="$PWD/gopath" GOTMPDIR="$PWD/tmp" HOME="$PWD" GOENV=off
	export GOTOOLCHAIN=local GOPROXY=off GOFLAGS='-trimpath -buildvcs=false' CGO_ENABLED=0 GOWORK=off
	mkdir -p tmp
	cd module
`

// builtBefore is a build cache that has the standard library, which takes most
// of the time and is the same for all.
func builtBefore(t testing.TB) string {
	dir := testenv.Dir(t)
	cmd := exec.Command("/bin/sh", "-eu")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(goModule + "find module -name '*.go' -exec sed -i 's/^.. comment.*/\\/\\/ another/' {} +\n" + goEnv +
		"go build -o ../program .\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return filepath.Join(dir, "cache")
}

func TestGoBuild(t *testing.T) {
	need(t, "go")
	testenv.RequireRoot(t)
	before := sync.OnceValue(func() string { return builtBefore(t) })
	each(t, []kind{native, relay, translate, exclusive}, "ext4", shift, func(s *stage) outcome {
		home := s.home("home", diskUser)
		out, err := exec.Command("cp", "-a", before(), filepath.Join(s.disk, "home/cache")).CombinedOutput()
		if err != nil {
			s.Fatalf("cp: %v\n%s", err, out)
		}
		s.sh(hostRoot, s.disk, "chown -R 1000:1000 home/cache")
		s.sh(user, home, goModule)

		printed := s.sh(user, home, goEnv+"go build -v -o ../first . 2>&1\n../first")
		if want := "example.org/module/inner\nexample.org/module\nhello from inner 1\n"; printed != want {
			s.Errorf("the first build printed %q, want %q", printed, want)
		}
		if again := s.sh(user, home, goEnv+"go build -v -o ../second . 2>&1\ncmp ../first ../second"); again != "" {
			s.Errorf("the second build printed %q; everything was built", again)
		}
		// A change of the same size, at once.
		s.sh(user, home, "sed -i s/inner\\ 1/inner\\ 2/ module/inner/inner.go")
		changed := s.sh(user, home, goEnv+"go build -v -o ../third . 2>&1\n../third")
		if !strings.HasSuffix(changed, "hello from inner 2\n") {
			s.Errorf("after a change: %q", changed)
		}
		if long() {
			s.goTest(home)
		}
		s.sh(user, home, "rm -rf .config tmp gopath cache") // times are in there, and names made of them
		return s.outcome(printed+changed, treecmp.Options{})
	})
}

// goTest looks at what go test caches by: times and sizes of what tests read.
func (s *stage) goTest(home string) {
	s.Helper()
	const test = goEnv + "go test -vet=off ./... 2>&1"
	first := s.sh(user, home, test)
	if again := s.sh(user, home, test); strings.Count(again, "(cached)") != 1 {
		s.Errorf("the second test printed\n%safter\n%s", again, first)
	}
	s.sh(user, home, "echo other >module/inner/testdata/input")
	if again := s.sh(user, home, test); strings.Contains(again, "(cached)") {
		s.Errorf("the test of changed data printed\n%s", again)
	}
}
