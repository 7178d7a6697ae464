package kernels

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/uml"
)

// TestQuota runs the conformance suite's scenarios about quotas where the kernel
// is sure to have quotas: Debian's has quota_v2 as a module, many others have none.
func TestQuota(t *testing.T) {
	suitePart(t, "trixie", "^TestQuota$", "TestQuota", "quota_v2")
}

// TestRing runs a part of the suite over io_uring, on another kernel than the
// machine's: of Debian's, only sid's is so new. It takes a minute or two, so it is
// for IDMOUNT_KERNELS=all.
func TestRing(t *testing.T) {
	if os.Getenv("IDMOUNT_KERNELS") != "all" {
		testenv.Skip(t, testenv.ShortRun, "IDMOUNT_KERNELS is not all")
	}
	suitePart(t, "sid", "^TestModes$/^io_uring$/^ext4$/^shift$/^translate$/^(create|link|open|rename|use)", "TestModes/io_uring/ext4/shift/translate")
}

// suitePart runs the tests of the conformance suite that pattern matches in a guest,
// where passes is one of them, or what they are all below.
func suitePart(t *testing.T, suite, pattern, passes string, modules ...string) {
	testenv.RequireRoot(t)
	if os.Getenv(taskEnv) != "" {
		return
	}
	k, err := uml.Fetch(t.Context(), suite, "")
	testenv.Fetched(t, err, uml.ErrUnavailable)
	program := filepath.Join(testenv.Dir(t), "conformance.test")
	build := exec.Command("go", "test", "-c", "-o", program, "../conformance")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	got, err := k.Run(t.Context(), uml.Options{
		Command: []string{program, "-test.v", "-test.run", pattern},
		Env:     []string{"IDMOUNT_BINARY=" + testenv.Binary(t)},
		Modules: append([]string{"fuse", "loop", "ext4"}, modules...),
		Expose:  []string{program, filepath.Dir(testenv.Binary(t))},
	})
	// A test that was skipped passes as well.
	if err != nil || got.ExitCode != 0 || !strings.Contains(got.Output, "--- PASS: "+passes+" (") {
		t.Errorf("exit code %d, %v\n%s", got.ExitCode, err, got.Output)
	}
	t.Logf("%v, %d passed", got.Elapsed.Round(time.Second), strings.Count(got.Output, "--- PASS: "))
}
