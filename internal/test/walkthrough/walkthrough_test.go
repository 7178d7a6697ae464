package walkthrough_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/uml"
	"github.com/idmount/idmount/internal/test/walkthrough"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestBackends runs the walk-through on each backend by name.
func TestBackends(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range []string{"native", "relay", "translate"} {
		t.Run(backend, func(t *testing.T) {
			run(t, backend, testenv.Source(t, "ext4"), backend)
		})
	}
}

// TestSources runs it on sources that the kernel can't idmap, where auto has to
// choose FUSE and say why, and on translate, which kernels before 6.12 get.
func TestSources(t *testing.T) {
	testenv.RequireRoot(t)
	for _, fstype := range []string{"overlay", "ext2", "ramfs"} {
		t.Run(fstype, func(t *testing.T) {
			out := run(t, "auto", testenv.Source(t, fstype), "relay")
			if want := "native: the kernel has no idmapped mounts for " + fstype; !strings.Contains(out, want) {
				t.Errorf("the reason does not say %q:\n%s", want, out)
			}
			run(t, "translate", testenv.Source(t, fstype), "translate")
		})
	}
}

func run(t *testing.T, backend, dir, want string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-s", testenv.Binary(t), backend, dir, want)
	cmd.Stdin = strings.NewReader(walkthrough.Script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("walk-through, backend %s: %v\n%s", backend, err, out)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "walkthrough.") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	return string(out)
}

// TestLinux510 runs it on a kernel without mount_setattr, where auto has only
// translate.
func TestLinux510(t *testing.T) {
	testenv.RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*uml.DefaultTimeout)
	defer cancel()
	kernel, err := uml.Fetch(ctx, "bullseye", "")
	testenv.Fetched(t, err, uml.ErrUnavailable)
	script := filepath.Join(t.TempDir(), "walkthrough.sh")
	if err := os.WriteFile(script, []byte(walkthrough.Script), 0o755); err != nil {
		t.Fatal(err)
	}
	result, err := kernel.Run(ctx, uml.Options{
		Command: []string{"/bin/sh", script, testenv.Binary(t), "auto", "/tmp", "translate"},
		Modules: []string{"fuse"},
		Expose:  []string{filepath.Dir(script), filepath.Dir(testenv.Binary(t))},
	})
	if err != nil || result.ExitCode != 0 {
		t.Fatalf("exit code %d, %v\n%s", result.ExitCode, err, result.Output)
	}
	if !strings.Contains(result.Output, "mounted by translate") {
		t.Errorf("translate was not chosen:\n%s", result.Output)
	}
}
