package kernels

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idmount/idmount/internal/testenv"
	"github.com/idmount/idmount/internal/uml"
)

// TestQuota runs the conformance suite's scenarios about quotas where the kernel
// is sure to have quotas: Debian's has quota_v2 as a module, many others have none.
func TestQuota(t *testing.T) {
	testenv.RequireRoot(t)
	if os.Getenv(taskEnv) != "" {
		return
	}
	k, err := uml.Fetch(t.Context(), "trixie", "")
	if errors.Is(err, uml.ErrUnavailable) {
		testenv.Skip(t, testenv.NeedKernel, err.Error())
	}
	must(t, err)
	suite := filepath.Join(testenv.Dir(t), "conformance.test")
	build := exec.Command("go", "test", "-c", "-o", suite, "../conformance")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	got, err := k.Run(t.Context(), uml.Options{
		Command: []string{suite, "-test.v", "-test.run", "^TestQuota$"},
		Env:     []string{"IDMOUNT_BINARY=" + testenv.Binary(t)},
		Modules: []string{"fuse", "loop", "ext4", "quota_v2"},
		Expose:  []string{suite, filepath.Dir(testenv.Binary(t))},
		Timeout: 5 * time.Minute,
	})
	// A test that was skipped passes as well.
	if err != nil || got.ExitCode != 0 || !strings.Contains(got.Output, "--- PASS: TestQuota (") {
		t.Errorf("exit code %d, %v\n%s", got.ExitCode, err, got.Output)
	}
	t.Logf("%v", got.Elapsed.Round(time.Second))
}
