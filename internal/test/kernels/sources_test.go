package kernels

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// A source is a file system to mount, as one kernel has it.
type source struct {
	name string
	// path is what is given to idmount; disk is the same tree as root may
	// prepare and inspect it. They differ where there is a server.
	path, disk string
	readOnly   bool
	recursive  bool
	squashed   bool // root is nobody there
	remote     bool
}

// A maker makes a source for one test.
type maker struct {
	name  string
	needs []string // file systems
	make  func(t *testing.T) *source
}

func ofType(fstype string, needs ...string) maker {
	return maker{fstype, needs, func(t *testing.T) *source {
		dir := testenv.Source(t, fstype)
		return &source{path: dir, disk: dir, remote: fstype == "fuse"}
	}}
}

// makers are the sources that need no server.
var makers = []maker{
	ofType("ext4", "ext4"),
	ofType("xfs", "xfs"),
	ofType("btrfs", "btrfs"),
	ofType("tmpfs", "tmpfs"),
	ofType("ext2", "ext2"),
	ofType("ext3", "ext3"),
	ofType("overlay", "overlay"),
	ofType("overlay-nfs_export", "overlay"),
	{"overlay-docker", []string{"overlay", "ext4"}, dockerOverlay},
	ofType("ramfs", "ramfs"),
	{"squashfs", []string{"squashfs"}, readOnlyImage("squashfs", "mksquashfs", "-quiet", "-no-progress")},
	{"erofs", []string{"erofs"}, readOnlyImage("erofs", "mkfs.erofs")},
	ofType("fuse", "fuse"),
	{"squashfuse", []string{"fuse"}, squashfuse},
	{"idmapped", []string{"tmpfs", "ext4"}, idmapped},
	{"bind-subdirectory", []string{"ext4"}, subdirectory},
	{"submounts", []string{"ext4", "ramfs"}, submounts},
}

// servers are what a guest may serve its sources with: NFS, two ways, and 9p.
var servers = []string{"no_root_squash", "root_squash", "9p"}

const (
	nfsDir   = "/mnt/nfs"
	ninePDir = "/mnt/9p"
)

// makersOf are the makers of a guest with that server.
func makersOf(server string) []maker {
	switch server {
	case "":
		return makers
	case "9p":
		return []maker{
			served("9p", "9p", ninePDir, "user"),
			served("9p-client", "9p", ninePDir, "client"),
		}
	}
	var all []maker
	for _, v := range []string{"4", "4.0", "3"} {
		name, fstype := "nfs"+v, "nfs4"
		if v == "3" {
			fstype = "nfs"
		}
		if server == "root_squash" {
			name += "-root_squash"
		}
		all = append(all, served(name, fstype, nfsDir, "v"+v))
	}
	return all
}

// served is a directory at dir/server that is mounted at dir/mnt.
func served(name, fstype, dir, mnt string) maker {
	return maker{name, []string{fstype}, func(t *testing.T) *source {
		// The server's side is inspected there, so each has a directory of its
		// own.
		disk := filepath.Join(dir, "server", name)
		must(t, os.Mkdir(disk, 0o755))
		return &source{path: filepath.Join(dir, mnt, name), disk: disk, squashed: strings.HasSuffix(name, "-root_squash"), remote: true}
	}}
}

// missing returns the file systems of needs that the kernel lacks.
func missing(needs []string) []string {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return needs
	}
	return slices.DeleteFunc(slices.Clone(needs), func(name string) bool {
		if slices.Contains(strings.Fields(string(text)), name) {
			return true
		}
		// The kernel loads it when it is asked for.
		if err := unix.Mount("none", "/", name, unix.MS_RDONLY|unix.MS_SILENT, ""); err != unix.ENODEV {
			if err == nil {
				_ = unix.Unmount("/", unix.MNT_DETACH)
			}
			return true
		}
		return false
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		testenv.Skip(t, testenv.NeedProgram, err.Error())
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// dockerOverlay is laid out as Docker's overlay2: several lower directories by
// short links, relative to the working directory, and no index.
func dockerOverlay(t *testing.T) *source {
	home, dir := testenv.Source(t, "ext4"), testenv.Dir(t)
	must(t, os.Mkdir(filepath.Join(home, "l"), 0o700))
	for i, layer := range []string{"base", "middle", "box"} {
		must(t, os.MkdirAll(filepath.Join(home, layer, "diff"), 0o755))
		must(t, os.MkdirAll(filepath.Join(home, layer, "work"), 0o700))
		must(t, os.Symlink("../"+layer+"/diff", filepath.Join(home, "l", string(rune('A'+i)))))
	}
	must(t, os.WriteFile(filepath.Join(home, "base/diff/lower"), []byte("lower\n"), 0o644))
	script := fmt.Sprintf(`cd %s && exec mount -t overlay overlay -o lowerdir=l/B:l/A,upperdir=box/diff,workdir=box/work %s`, home, dir)
	command(t, "sh", "-c", script)
	t.Cleanup(func() { testenv.Unmount(t, dir) })
	return &source{path: dir, disk: dir}
}

// readOnlyImage makes a tree of a few owners to an image.
func readOnlyImage(fstype, mkfs string, options ...string) func(t *testing.T) *source {
	return func(t *testing.T) *source {
		tree, dir := testenv.Dir(t), testenv.Dir(t)
		fillReadOnly(t, tree)
		image := filepath.Join(t.TempDir(), "image")
		args := append([]string{image, tree}, options...)
		if fstype == "squashfs" {
			args = append([]string{tree, image}, options...)
		}
		command(t, mkfs, args...)
		command(t, "mount", "-t", fstype, "-o", "loop,ro", image, dir)
		t.Cleanup(func() { testenv.Unmount(t, dir) })
		return &source{path: dir, disk: dir, readOnly: true}
	}
}

func squashfuse(t *testing.T) *source {
	tree, dir := testenv.Dir(t), testenv.Dir(t)
	fillReadOnly(t, tree)
	image := filepath.Join(t.TempDir(), "image")
	command(t, "mksquashfs", tree, image, "-quiet", "-no-progress")
	command(t, "squashfuse", "-o", "allow_other", image, dir)
	t.Cleanup(func() { testenv.Unmount(t, dir) })
	return &source{path: dir, disk: dir, readOnly: true, remote: true}
}

// fillReadOnly makes what checkReadOnly looks at.
func fillReadOnly(t *testing.T, tree string) {
	for _, f := range []struct {
		name string
		id   int
		mode os.FileMode
	}{{"mine", 1000, 0o600}, {"group", 0, 0o640}, {"foreign", 70000, 0o600}} {
		path := filepath.Join(tree, f.name)
		must(t, os.WriteFile(path, []byte("data of "+f.name+"\n"), 0o600))
		gid := f.id
		if f.name == "group" {
			gid = 1000
		}
		must(t, os.Lchown(path, f.id, gid))
		must(t, os.Chmod(path, f.mode))
	}
	must(t, os.Chmod(tree, 0o755))
}

// idmapped is a native idmapped mount of a file system that the kernel idmaps:
// one more map on top.
func idmapped(t *testing.T) *source {
	below := testenv.Source(t, "ext4")
	const ids = "0 200000 100000\n200000 0 100000\n" // as well as those that are not seen
	ns, err := sys.NewUserNamespace(ids, ids)
	must(t, err)
	defer ns.Close()
	tree, err := sys.OpenTree(below, unix.OPEN_TREE_CLONE)
	must(t, err)
	defer tree.Close()
	err = sys.MountSetattr(tree, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	if err != nil {
		lacks(err)
	}
	dir := testenv.Dir(t)
	must(t, sys.MoveMount(tree, dir))
	t.Cleanup(func() { testenv.Unmount(t, dir) })
	// Disk ids are those that this mount shows: its 0 is 200000 below.
	return &source{path: dir, disk: dir}
}

func subdirectory(t *testing.T) *source {
	below, dir := testenv.Source(t, "ext4"), testenv.Dir(t)
	sub := filepath.Join(below, "a/b")
	must(t, os.MkdirAll(sub, 0o755))
	must(t, unix.Mount(sub, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { testenv.Unmount(t, dir) })
	return &source{path: dir, disk: dir}
}

// submounts has the work done on a mount below the source.
func submounts(t *testing.T) *source {
	top := testenv.Source(t, "ext4")
	for _, name := range []string{"tmpfs", "ext4"} {
		dir := filepath.Join(top, name)
		must(t, os.Mkdir(dir, 0o755))
		must(t, unix.Mount("test", dir, "tmpfs", 0, "mode=0755"))
		t.Cleanup(func() { testenv.Unmount(t, dir) })
	}
	return &source{path: top, disk: top, recursive: true}
}

// lacking is the panic of a maker whose source this kernel can't have.
type lacking struct{ reason string }

func lacks(err error) { panic(lacking{err.Error()}) }
