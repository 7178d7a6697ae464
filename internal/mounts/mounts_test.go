package mounts

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/testenv"
)

func TestBelow(t *testing.T) {
	testenv.RequireRoot(t)
	runtime.LockOSThread() // never unlocked: the namespace dies with the thread
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	mount := func(fstype, path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("test", path, fstype, 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	mount("tmpfs", dir)
	mount("ramfs", filepath.Join(dir, "a"))
	mount("tmpfs", filepath.Join(dir, "a/deep er")) // mountinfo escapes the space
	mount("ramfs", filepath.Join(dir, "ab"))

	for _, tt := range []struct {
		at, fstype string
		below      []string
	}{
		{"", "tmpfs", []string{"a", "ab", "a/deep er"}},
		{"a", "ramfs", []string{"a/deep er"}},
		{"a/deep er", "tmpfs", nil},
	} {
		// No subtests: they would run on other threads, in another namespace.
		f, err := os.Open(filepath.Join(dir, tt.at))
		if err != nil {
			t.Fatal(err)
		}
		m, err := Of(f)
		if err != nil {
			t.Fatal(err)
		}
		if m.FSType != tt.fstype || Idmapped(m) {
			t.Errorf("%s: type %s, idmapped %v; want %s", tt.at, m.FSType, Idmapped(m), tt.fstype)
		}
		subs, err := Below(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		var got []string
		for _, m := range subs {
			rel, _ := filepath.Rel(dir, m.Mountpoint)
			got = append(got, rel)
		}
		if diff := cmp.Diff(tt.below, got); diff != "" {
			t.Errorf("below %q (-want +got):\n%s", tt.at, diff)
		}
	}
}
