package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var binaryDir string

var buildBinary = sync.OnceValues(func() (string, error) {
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	dir, err := os.MkdirTemp("", "idmount-binary")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "idmount")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/idmount")
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(gomod)))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/idmount: %w\n%s", err, out)
	}
	return path, nil
})

// Binary builds ./cmd/idmount, static, once in a test run and returns its
// path. Main removes it. IDMOUNT_BINARY names a ready one instead.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("IDMOUNT_BINARY"); path != "" {
		return path
	}
	path, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// runsBinary reports whether a process runs the program that Binary has built.
func runsBinary(pid string) bool {
	exe, err := os.Readlink("/proc/" + pid + "/exe") // has " (deleted)" behind it after removeBinary
	return err == nil && binaryDir != "" && strings.HasPrefix(exe, binaryDir+"/")
}

func removeBinary() {
	if binaryDir != "" {
		_ = os.RemoveAll(binaryDir)
	}
}
