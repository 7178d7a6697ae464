package idmount_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// bindMount mounts what is at one path at another, with MS_* flags.
func bindMount(t *testing.T, from, to string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind %s: %v", to, err)
	}
	t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH) })
	remount(t, to, flags)
}

func remount(t *testing.T, path string, flags uintptr) {
	t.Helper()
	if flags == 0 {
		return
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		t.Fatalf("remount %s: %v", path, err)
	}
}

func mkdirs(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// overlayOn mounts an overlay, which the kernel doesn't idmap.
func overlayOn(t *testing.T, path string, flags uintptr) {
	t.Helper()
	from := testenv.Source(t, "overlay")
	bindMount(t, from, path, flags)
}

// treeOf lists the mounts at and below a directory: path, type, and the flags that the
// kernel enforces.
func treeOf(t *testing.T, top string) []string {
	t.Helper()
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(top))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range all {
		var flags []string
		for option := range strings.SplitSeq(m.Options, ",") {
			if option != "idmapped" && option != "rw" && option != "relatime" {
				flags = append(flags, option)
			}
		}
		out = append(out, fmt.Sprintf("%s %s %s", strings.TrimPrefix(m.Mountpoint, top), m.FSType, strings.Join(flags, ",")))
	}
	slices.Sort(out)
	return out
}

func backendsOf(m *idmount.Mounted) map[string]idmount.Backend {
	got := map[string]idmount.Backend{"": m.Backend}
	for _, s := range m.Submounts {
		got[s.Path] = s.Backend
	}
	return got
}

// Each mount of a tree is mounted by the kernel where it can, with its own flags.
func TestMixedTree(t *testing.T) {
	testenv.RequireRoot(t)
	for _, top := range []string{"ext4", "overlay"} {
		t.Run(top, func(t *testing.T) {
			source := testenv.Source(t, top)
			mkdirs(t, source+"/over/in", source+"/deep/er", source+"/again")
			write(t, source+"/again/f", "same")
			write(t, source+"/covered", "hidden")
			overlayOn(t, source+"/over", unix.MS_NOSUID|unix.MS_NOATIME)
			mkdirs(t, source+"/over/in")
			write(t, source+"/over/single", "one file")
			testenv.Mount(t, "tmpfs", source+"/over/in", "mode=0755")
			remount(t, source+"/over/in", unix.MS_NODEV|unix.MS_NOEXEC)
			mkdirs(t, source+"/over/in/4")
			bindMount(t, testenv.Source(t, "ext4"), source+"/over/in/4", unix.MS_RDONLY|unix.MS_NOSYMFOLLOW)
			// Stacked: the second is what counts.
			testenv.Mount(t, "ramfs", source+"/deep/er", "")
			testenv.Mount(t, "tmpfs", source+"/deep/er", "mode=0755")
			write(t, source+"/deep/er/seen", "")
			bindMount(t, source+"/over/single", source+"/covered", unix.MS_NODIRATIME)
			bindMount(t, source+"/again", source+"/deep", 0)

			target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Recursive: true})
			fuseBackend := idmount.Relay
			if len(m.Warnings) > 0 {
				t.Errorf("warnings: %q", m.Warnings)
			}
			for _, s := range m.Submounts {
				if s.Backend == idmount.Translate { // before Linux 6.12
					fuseBackend = idmount.Translate
				}
				if s.Reason == "" {
					t.Errorf("no reason for %s", s.Path)
				}
			}
			// What the kernel can idmap depends on its version, and is asked of each alone.
			want, types := map[string]idmount.Backend{}, map[string]string{}
			for _, path := range []string{"", "/over", "/over/in", "/over/in/4", "/covered", "/deep"} {
				info, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(source + path))
				if err != nil || len(info) != 1 {
					t.Fatal(info, err)
				}
				want[path], types[path] = fuseBackend, "fuse.idmount"
				report, err := detect.Probe(t.Context(), source+path, detect.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if report.Supports(idmount.Native).Verdict == detect.Yes {
					want[path], types[path] = idmount.Native, info[0].FSType
				}
			}
			if want["/over"] == idmount.Native {
				t.Fatal("the kernel idmaps overlays: another file system is needed here")
			}
			if diff := cmp.Diff(want, backendsOf(m)); diff != "" {
				t.Errorf("backends (-want +got):\n%s", diff)
			}
			tree := []string{
				" " + types[""] + " ", "/covered fuse.idmount nodiratime", "/deep " + types["/deep"] + " ",
				"/over fuse.idmount nosuid,noatime", "/over/in " + types["/over/in"] + " nodev,noexec",
				"/over/in/4 " + types["/over/in/4"] + " ro,nosymfollow",
			}
			if diff := cmp.Diff(tree, treeOf(t, target)); diff != "" {
				t.Errorf("mount table (-want +got):\n%s", diff)
			}
			for name, text := range map[string]string{"/covered": "one file", "/over/single": "one file", "/again/f": "same", "/deep/f": "same"} {
				if got, err := os.ReadFile(target + name); err != nil || string(got) != text {
					t.Errorf("%s: %q, %v", name, got, err)
				}
				if got := owner(t, target+name); got != "100000:100000" {
					t.Errorf("%s: owner %s", name, got)
				}
			}
			if err := os.WriteFile(target+"/over/in/4/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("create in a read-only submount: %v", err)
			}
			var one, other unix.Stat_t
			if err := errors.Join(unix.Stat(target+"/covered", &one), unix.Stat(target+"/over/single", &other)); err != nil {
				t.Fatal(err)
			}
			if one.Dev != other.Dev || one.Ino != other.Ino {
				t.Errorf("one file at two places: %d:%d and %d:%d", one.Dev, one.Ino, other.Dev, other.Ino)
			}
			if err := os.Rename(target+"/again/f", target+"/deep/g"); !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EOVERFLOW) {
				t.Errorf("rename to another mount: %v", err)
			}
			if err := unix.Rmdir(target + "/over"); err != unix.EBUSY {
				t.Errorf("rmdir of a mount point: %v", err)
			}
			// Whoever owns what is below gets it through the right mount.
			cmd := exec.Command("sh", "-c", "echo more >>over/single && touch over/new again/new over/in/new && cat covered")
			cmd.Dir = target
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 100000, Gid: 100000}}
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != "one filemore\n" {
				t.Errorf("as the owner: %q, %v", out, err)
			}
			for _, name := range []string{"/over/new", "/again/new", "/over/in/new"} {
				if got := owner(t, source+name); got != "0:0" {
					t.Errorf("%s belongs to %s in the source", name, got)
				}
			}
			if err := idmount.Unmount(target, false); err != nil {
				t.Fatal(err)
			}
			if left := treeOf(t, target); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PID)); err == nil && !strings.Contains(string(text), ") Z ") {
				t.Errorf("the server after umount: %s", text)
			}
		})
	}
}

// The end of one submount ends no other; the server stays as long as one needs it.
func TestMixedTreeEndsInParts(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "ext4")
	mkdirs(t, source+"/a", source+"/b")
	for _, name := range []string{"/a", "/b"} {
		testenv.Mount(t, "ramfs", source+name, "")
		write(t, source+name+"/f", name)
	}
	target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Recursive: true})
	if err := unix.Unmount(target+"/a", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(target + "/a/f"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("below the mount point that is free now: %v", err)
	}
	if _, err := os.ReadFile(target + "/b/f"); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(m.PID, 0); err != nil {
		t.Errorf("the server: %v", err)
	}
	if err := unix.Unmount(target+"/b", 0); err != nil {
		t.Fatal(err)
	}
	if m.Backend != idmount.Native { // before Linux 5.12 the server serves the top as well
		return
	}
	testenv.WaitFor(t, "the server stays when all that it serves is gone", func() bool { return unix.Kill(m.PID, 0) == unix.ESRCH })
	if _, err := os.ReadDir(target); err != nil {
		t.Errorf("the native part: %v", err)
	}
}

// A signal to the server takes all of the tree away, native parts too.
func TestMixedTreeEndsOnSignal(t *testing.T) {
	testenv.RequireRoot(t)
	for _, top := range []string{"ext4", "ramfs"} {
		source := testenv.Source(t, top)
		mkdirs(t, source+"/r", source+"/t")
		testenv.Mount(t, "ramfs", source+"/r", "")
		testenv.Mount(t, "tmpfs", source+"/t", "")
		mkdirs(t, source+"/t/below")
		testenv.Mount(t, "ramfs", source+"/t/below", "")
		target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Recursive: true})
		if n := len(treeOf(t, target)); n != 4 {
			t.Fatalf("%d mounts", n)
		}
		if err := unix.Kill(m.PID, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		testenv.WaitFor(t, "the tree is there after SIGTERM", func() bool {
			return len(treeOf(t, target)) == 0 && unix.Kill(m.PID, 0) == unix.ESRCH
		})
	}
}

// Root can't pass a directory of an owner that the map does not have, but what is
// mounted below it is part of the view, as natively.
func TestMountPointsOutOfReach(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range []idmount.Backend{idmount.Auto, idmount.Relay, idmount.Translate} {
		t.Run(string(backend), func(t *testing.T) {
			source := testenv.Source(t, "ext4")
			mkdirs(t, source+"/private/sub/deeper")
			testenv.Mount(t, "tmpfs", source+"/private/sub/deeper", "")
			mkdirs(t, source+"/private/sub/deeper/x")
			testenv.Mount(t, "ramfs", source+"/private/sub/deeper/x", "")
			for _, name := range []string{"/private/sub/deeper", "/private", ""} {
				if err := errors.Join(os.Chown(source+name, 70000, 70000), os.Chmod(source+name, 0o700)); err != nil {
					t.Fatal(err)
				}
			}
			target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Backend: backend, Recursive: true})
			if len(m.Warnings) > 0 || len(treeOf(t, target)) != 3 {
				t.Errorf("%d mounts, warnings %q", len(treeOf(t, target)), m.Warnings)
			}
			if got := owner(t, target); got != "65534:65534" {
				t.Errorf("owner of the top %s", got)
			}
			// Not by what the kernel was told while the mounts were put together.
			if err := os.Chmod(target, 0o755); !errors.Is(err, unix.EOVERFLOW) {
				t.Errorf("chmod of the top: %v", err)
			}
			if _, err := os.ReadDir(target + "/private"); !errors.Is(err, unix.EACCES) {
				t.Errorf("list: %v", err)
			}
		})
	}
}

// A tree with mounts that are ID-mapped already, each by another map.
func TestTreeOfIdmapped(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "ext4")
	for i, name := range []string{"/a", "/b"} {
		from := testenv.Source(t, "ext4")
		write(t, from+"/f", "")
		mkdirs(t, source+name)
		o := idmount.Options{Map: parse(t, fmt.Sprintf("b:0:%d:10", (i+1)*100)), Backend: idmount.Native}
		if _, err := idmount.Mount(context.Background(), from, source+name, o); err != nil {
			testenv.Skip(t, testenv.NeedKernel, err.Error())
		}
		t.Cleanup(func() { idmount.Unmount(source+name, false) })
	}
	target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Recursive: true})
	for name, want := range map[string]string{"/a/f": "100100:100100", "/b/f": "100200:100200"} {
		if got := owner(t, target+name); got != want {
			t.Errorf("%s: owner %s, want %s", name, got, want)
		}
	}
	t.Log(backendsOf(m), m.PID)
}

// Where the tree can't be put together, one FUSE mount shows all of it, with the
// flags of all: here since the root of the process is no mount.
func TestTreeAsOne(t *testing.T) {
	testenv.RequireRoot(t)
	root := filepath.Join(testenv.Dir(t), "root")
	mkdirs(t, root+"/proc", root+"/dev", root+"/src", root+"/mnt", root+"/run", root+"/tmp")
	bindMount(t, "/proc", root+"/proc", 0)
	bindMount(t, "/dev", root+"/dev", 0)
	if err := exec.Command("cp", testenv.Binary(t), root+"/idmount").Run(); err != nil {
		t.Fatal(err)
	}
	source := testenv.Source(t, "ext4")
	mkdirs(t, source+"/sub")
	bindMount(t, source, root+"/src", 0)
	testenv.Mount(t, "ramfs", root+"/src/sub", "")
	remount(t, root+"/src/sub", unix.MS_NOSUID|unix.MS_NODEV)
	write(t, root+"/src/sub/f", "")
	cmd := exec.Command("/idmount", "mount", "--recursive", "-m", "b:0:100000:65536", "/src", "/mnt")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(root+"/mnt", 0) })
	if !strings.Contains(string(out), "part of one FUSE mount") {
		t.Errorf("it says %q", out)
	}
	if got := owner(t, root+"/mnt/sub/f"); got != "100000:100000" {
		t.Errorf("owner %s", got)
	}
	if diff := cmp.Diff([]string{" fuse.idmount nosuid,nodev"}, treeOf(t, root+"/mnt")); diff != "" {
		t.Errorf("mount table (-want +got):\n%s", diff)
	}
}

// Hundreds of submounts are no problem, of few milliseconds each.
func TestManySubmounts(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "ext4")
	const many = 200
	for i := range many {
		dir := fmt.Sprintf("%s/%d", source, i)
		mkdirs(t, dir)
		fstype := "tmpfs"
		if i%10 == 0 {
			fstype = "ramfs"
		}
		testenv.Mount(t, fstype, dir, "")
	}
	began := time.Now()
	target, m := mount(t, source, idmount.Options{Map: idmap.Identity(), Recursive: true})
	t.Logf("%d submounts: mounted after %v", many, time.Since(began))
	if got := len(treeOf(t, target)); got != many+1 {
		t.Errorf("%d mounts; %q", got, m.Warnings)
	}
	began = time.Now()
	if err := idmount.Unmount(target, false); err != nil {
		t.Fatal(err)
	}
	t.Logf("unmounted after %v", time.Since(began))
}

// A user who may mount (fuse.conf, fstab) mounts and unmounts below the source all the
// time: what the kernel does not let his mount do can't be done at the target either.
func TestSubmountThatComesAndGoes(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "tmpfs")
	other := testenv.Source(t, "tmpfs")
	if err := os.Mkdir(source+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, other+"/file", "text")
	var stop atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		for !stop.Load() {
			tree, err := sys.OpenTree(other, unix.OPEN_TREE_CLONE)
			if err == nil {
				err = sys.MountSetattr(tree, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV})
			}
			if err == nil {
				err = sys.MoveMount(tree, source+"/sub")
			}
			if err != nil {
				t.Error(err)
				return
			}
			tree.Close()
			unix.Unmount(source+"/sub", unix.MNT_DETACH)
		}
	})
	defer done.Wait()
	defer stop.Store(true)
	seen := 0
	for try := 0; try < 40 || seen == 0 && try < 1000; try++ {
		target := testenv.Dir(t)
		o := idmount.Options{Map: idmap.Identity(), Backend: idmount.Translate, Recursive: true, Daemon: testenv.Binary(t)}
		if _, err := idmount.Mount(t.Context(), source, target, o); err != nil {
			continue // a mount went while it was looked at
		}
		var st unix.Statfs_t
		if _, err := os.Stat(target + "/sub/file"); err == nil {
			seen++
			if err := unix.Statfs(target+"/sub", &st); err != nil || st.Flags&unix.ST_NOSUID == 0 || st.Flags&unix.ST_NODEV == 0 {
				t.Errorf("flags %#x, %v: neither nosuid nor nodev", st.Flags, err)
			}
		}
		if err := idmount.Unmount(target, false); err != nil {
			t.Fatal(err)
		}
	}
	if seen == 0 {
		t.Error("the submount was never seen")
	}
}
