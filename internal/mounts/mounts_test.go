package mounts

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
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

// A mount point is safe where nobody but root can rename it or a directory above.
func TestPlaceIsSafe(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	for _, d := range []struct {
		path string
		mode uint32
		uid  int
	}{
		{"root", 0o755, 0},
		{"root/in", 0o755, 0},
		{"user", 0o755, 1000},
		{"user/in", 0o755, 0},
		{"group", 0o775, 0},
		{"tmp", 0o1777, 0},
		{"tmp/root", 0o755, 0},
		{"tmp/user", 0o755, 1000},
		{"tmp/mount", 0o755, 0},
	} {
		path := filepath.Join(dir, d.path)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, d.uid, d.uid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(path, d.mode); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Mount(t, "tmpfs", dir+"/tmp/mount", "mode=0755")
	for path, want := range map[string]bool{
		"root/x":      true,
		"root/in/x":   true,
		"user/x":      false,
		"user/in/x":   false,
		"group/x":     false,
		"tmp/x":       false,
		"tmp/root/x":  true,
		"tmp/user/x":  false,
		"tmp/mount/x": false, // whose the covered directory is cannot be seen
	} {
		p, err := findPlace(filepath.Join(dir, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if p.safe != want {
			t.Errorf("%s: safe %v, want %v", path, p.safe, want)
		}
		p.close()
	}
}
