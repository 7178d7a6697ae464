package testenv

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// PrivateMounts puts the test's thread into a mount namespace of its own and
// returns a directory that everybody may reach, with a fresh tmpfs. It is for
// test binaries without Main. The thread dies with the test, and the mounts with
// it; subtests run on other threads, and do not see them.
func PrivateMounts(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal("unshare:", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal("make / private:", err)
	}
	dir := Dir(t)
	Mount(t, "tmpfs", dir, "mode=0755")
	return dir
}

// Mount mounts a file system that needs no device at path, which is made if it
// is not there, until the test ends.
func Mount(t testing.TB, fstype, path, data string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", path, fstype, 0, data); err != nil {
		t.Fatalf("mount %s at %s: %v", fstype, path, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}
