package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// imageSizes are those of the sparse images, near the least that mkfs takes.
var imageSizes = map[string]int64{
	"ext2":  64 << 20,
	"ext3":  64 << 20,
	"ext4":  128 << 20,
	"xfs":   320 << 20,
	"btrfs": 256 << 20,

	"ext4-reserve": 24 << 20,
	"ext4-quota":   24 << 20,
}

var mkfs = map[string][]string{
	"ext2":  {"mkfs.ext2", "-q", "-F", "-I", "256", "-N", "65536"}, // a mount knows 8192 directories, deleted ones too
	"ext3":  {"mkfs.ext3", "-q", "-F", "-I", "256"},
	"ext4":  {"mkfs.ext4", "-q", "-F", "-m", "0"},
	"xfs":   {"mkfs.xfs", "-q", "-f"},
	"btrfs": {"mkfs.btrfs", "-q", "-f"},

	"ext4-reserve": {"mkfs.ext4", "-q", "-F", "-m", "25", "-O", "^has_journal"},
	"ext4-quota":   {"mkfs.ext4", "-q", "-F", "-m", "25", "-O", "^has_journal,quota", "-E", "quotatype=usrquota"},
}

// Limited returns the path of a small ext4 as Source does, a quarter of which is
// reserved for root. With quota, there is one for each user.
func Limited(t testing.TB, quota bool) string {
	t.Helper()
	RequireRoot(t)
	dir, kind, opts := Dir(t), "ext4-reserve", "loop"
	if quota {
		kind, opts = "ext4-quota", "loop,usrquota"
	}
	if err := mountImage(t, "ext4", kind, opts, dir); err != nil {
		if quota {
			Skip(t, NeedKernel, err.Error())
		}
		t.Fatal(err)
	}
	return dir
}

// Sources are the names that Source knows.
var Sources = []string{"ext4", "xfs", "btrfs", "tmpfs", "ext2", "ext3", "overlay", "overlay-nfs_export", "ramfs", "fuse"}

// Source returns the path of a fresh and empty mounted file system, owned by
// root with mode 0755, which is unmounted when the test ends. Everybody may
// reach it. The names are those of Sources; overlay has its layers on a tmpfs,
// and fuse is bindfs over a tmpfs.
func Source(t testing.TB, fstype string) string {
	t.Helper()
	RequireRoot(t)
	dir := Dir(t)
	var err error
	switch fstype {
	case "tmpfs", "ramfs":
		err = mountAt(t, "test", dir, fstype, "mode=0755")
	case "ext2", "ext3", "ext4", "xfs", "btrfs":
		err = mountImage(t, fstype, fstype, "loop", dir)
	case "overlay", "overlay-nfs_export":
		layers := Source(t, "tmpfs")
		for _, name := range []string{"lower", "upper", "work"} {
			if err := os.Mkdir(filepath.Join(layers, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		opts := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", layers)
		if fstype == "overlay-nfs_export" {
			opts += ",index=on,nfs_export=on"
		}
		err = mountAt(t, "test", dir, "overlay", opts)
	case "fuse":
		below := Source(t, "tmpfs")
		if err = run(t, "bindfs", "-o", "allow_other,suid,dev", below, dir); err == nil {
			t.Cleanup(func() { Unmount(t, dir) })
		}
	default:
		t.Fatalf("source %q is none of %v", fstype, Sources)
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		Skip(t, NeedProgram, err.Error())
	case errors.Is(err, unix.ENODEV):
		Skip(t, NeedFileSystem, err.Error())
	case err != nil:
		t.Fatal(err)
	}
	// mkfs leaves it there; "empty" is meant.
	_ = os.Remove(filepath.Join(dir, "lost+found"))
	return dir
}

// Dir returns a new directory that everybody may reach, unlike that of
// testing.TB.TempDir, which only its owner may enter.
func Dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mountAt(t testing.TB, source, target, fstype, opts string) error {
	if err := unix.Mount(source, target, fstype, 0, opts); err != nil {
		return fmt.Errorf("mount %s (%s, %s): %w", target, fstype, opts, err)
	}
	t.Cleanup(func() { Unmount(t, target) })
	return nil
}

// mountImage mounts a new image of one of the kinds that mkfs has.
func mountImage(t testing.TB, fstype, kind, opts, target string) error {
	image := filepath.Join(t.TempDir(), fstype+".img")
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	err = f.Truncate(imageSizes[kind])
	f.Close()
	if err != nil {
		return err
	}
	cmd := append(slices.Clone(mkfs[kind]), image)
	if err := run(t, cmd[0], cmd[1:]...); err != nil {
		return err
	}
	// mount(8) sets the device up as autoclear: it goes with the mount.
	if err := run(t, "mount", "-t", fstype, "-o", opts, image, target); err != nil {
		return err
	}
	t.Cleanup(func() { Unmount(t, target) })
	return nil
}

func run(t testing.TB, name string, args ...string) error {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return nil
}

// Unmount unmounts target. A mount that stays busy is detached, and the test
// fails: whoever keeps it busy has leaked something.
func Unmount(t testing.TB, target string) {
	t.Helper()
	var err error
	// A FUSE server closes its descriptors below a moment after it is gone.
	failed := t.Failed() // then what keeps it busy may never go
	Becomes(func() bool {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		return err != unix.EBUSY || failed
	})
	if err != nil {
		t.Errorf("umount %s: %v", target, err)
		_ = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}
