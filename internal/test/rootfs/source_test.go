package rootfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// A source makes a file system of its kind below the directory work, with the
// archive's tree on it, and returns the path of the tree.
type source func(t testing.TB, work, archive string) string

// sources are the file systems that roots lie on: ext4 has idmapped mounts,
// ext2 and overlay have none.
var sources = map[string]source{
	"ext4": func(t testing.TB, work, archive string) string { return imageRoot(t, "ext4", work, archive) },
	"ext2": func(t testing.TB, work, archive string) string { return imageRoot(t, "ext2", work, archive) },
	"overlay": func(t testing.TB, work, archive string) string {
		// As a container engine does it: the image below, what the container
		// changes above, both on one disk.
		disk := image(t, "ext4", work)
		for _, dir := range []string{"lower", "upper", "work", "merged"} {
			mkdir(t, filepath.Join(disk, dir))
		}
		unpack(t, archive, filepath.Join(disk, "lower"))
		merged := filepath.Join(disk, "merged")
		options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", disk)
		mount(t, "overlay", merged, "overlay", options)
		return merged
	},
}

// imageRoot makes a file system in a file, with the tree in a directory of it:
// lost+found stays out of the comparison.
func imageRoot(t testing.TB, fstype, work, archive string) string {
	t.Helper()
	root := filepath.Join(image(t, fstype, work), "root")
	mkdir(t, root)
	unpack(t, archive, root)
	return root
}

// image makes a file system in a sparse file and mounts it.
func image(t testing.TB, fstype, work string) string {
	t.Helper()
	file := filepath.Join(work, "disk.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 1<<30); err != nil {
		t.Fatal(err)
	}
	// No journal: the image lives for a minute, and dpkg syncs a lot.
	features := "^has_journal"
	if fstype == "ext2" {
		features = "none,filetype,sparse_super,large_file,ext_attr"
	}
	run(t, "mkfs."+fstype, "-q", "-F", "-O", features, file)

	// mount(8) finds the loop device and lets the kernel free it with the last
	// mount (autoclear), even if the test dies.
	dir := filepath.Join(work, "disk")
	mkdir(t, dir)
	run(t, "mount", "-t", fstype, "-o", "loop,acl,user_xattr", file, dir)
	t.Cleanup(func() { testenv.Unmount(t, dir) })
	return dir
}

func mount(t testing.TB, device, dir, fstype, options string) {
	t.Helper()
	if err := unix.Mount(device, dir, fstype, 0, options); err != nil {
		t.Fatalf("mount %s (%s, %s): %v", dir, fstype, options, err)
	}
	t.Cleanup(func() { testenv.Unmount(t, dir) })
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// run runs a program that has to succeed.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
