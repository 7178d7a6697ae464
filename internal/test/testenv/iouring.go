package testenv

import (
	"bytes"
	"os"
	"testing"
)

// IOUring switches FUSE over io_uring on until the test ends (Linux 6.14; it
// is off by default). Mounts that are made meanwhile use it.
func IOUring(t testing.TB) {
	t.Helper()
	const path = "/sys/module/fuse/parameters/enable_uring"
	if _, err := os.Stat(path); os.IsNotExist(err) {
		Skip(t, NeedKernel, "the kernel's FUSE has no io_uring")
	}
	if disabled, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); bytes.HasPrefix(disabled, []byte("2")) {
		Skip(t, NeedKernel, "io_uring is disabled for all")
	}
	Setting(t, path, "Y")
}
