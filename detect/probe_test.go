package detect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// mountImage mounts a fresh image of a disk file system.
func mountImage(t *testing.T, fstype, path string) {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs." + fstype)
	if err != nil {
		testenv.Skip(t, testenv.NeedProgram, err.Error())
	}
	image := path + ".img"
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	// exec runs in this thread's namespace, because the thread is locked.
	if out, err := exec.Command("mount", "-t", fstype, "-o", "loop", image, path).CombinedOutput(); err != nil {
		t.Fatalf("mount -o loop: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func probe(t *testing.T, path string, o Options) *Report {
	t.Helper()
	r, err := Probe(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// needIdmappedTmpfs skips where the kernel does not idmap tmpfs (before 6.3),
// which the test takes for its example of a file system that can be idmapped.
func needIdmappedTmpfs(t *testing.T, dir string) {
	t.Helper()
	if r := probe(t, dir, Options{}); r.Idmap.Verdict == No {
		testenv.Skip(t, testenv.NeedKernel, "no idmapped tmpfs: "+r.Idmap.Reason)
	}
}

// The verdicts as tried on Linux 5.10, 6.1, 6.12 and 6.18. What the running
// kernel lacks altogether (mount_setattr, ALLOW_IDMAP, passthrough) is taken
// from its own answers; tmpfs can be idmapped since 6.3.
func TestProbeFileSystems(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	mountImage(t, "ext4", at("ext4"))
	mountImage(t, "ext2", at("ext2"))
	testenv.Mount(t, "tmpfs", at("tmpfs"), "")
	testenv.Mount(t, "ramfs", at("ramfs"), "")
	for _, d := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(at("tmpfs"), d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Mount(t, "overlay", at("overlay"), fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", at("tmpfs")))

	for _, tt := range []struct {
		fstype  string
		idmap   Verdict
		handles Verdict
		depth   int
	}{
		{"ext4", Yes, Yes, 1},
		{"ext2", No, Yes, 1},
		{"tmpfs", Yes, Yes, 1},
		{"ramfs", No, No, 1},
		{"overlay", No, No, 2},
	} {
		touch(t, filepath.Join(at(tt.fstype), "file"))
		before, fds := mountTable(t), openFiles(t)
		r := probe(t, at(tt.fstype), Options{})
		if diff := cmp.Diff(before, mountTable(t)); diff != "" {
			t.Errorf("%s: the mount table changed:\n%s", tt.fstype, diff)
		}
		if diff := cmp.Diff(fds, openFiles(t)); diff != "" {
			t.Errorf("%s: open files changed:\n%s", tt.fstype, diff)
		}
		if r.FSType != tt.fstype {
			t.Errorf("%s: type %q", tt.fstype, r.FSType)
		}
		if r.MountAPI.Verdict == Yes && r.Idmap.Verdict != tt.idmap && tt.fstype != "tmpfs" {
			t.Errorf("%s: idmap %+v, want %v", tt.fstype, r.Idmap, tt.idmap)
		}
		if r.FileHandles.Verdict != tt.handles {
			t.Errorf("%s: file handles %+v, want %v", tt.fstype, r.FileHandles, tt.handles)
		}
		if r.Fuse.Verdict != Yes {
			t.Errorf("%s: FUSE %+v", tt.fstype, r.Fuse)
			continue
		}
		if want := r.Protocol.has(flagAllowIdmap); (r.Relay.Verdict == Yes) != want {
			t.Errorf("%s: relay %+v, ALLOW_IDMAP %v", tt.fstype, r.Relay, want)
		}
		if r.Protocol.has(flagPassthrough) && r.StackDepth != tt.depth {
			t.Errorf("%s: passthrough %+v, depth %d, want %d", tt.fstype, r.Passthrough, r.StackDepth, tt.depth)
		}
		if testing.Verbose() {
			_ = r.WriteText(os.Stdout)
		}
	}
}

func TestProbeRecursive(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	needIdmappedTmpfs(t, dir)
	src := filepath.Join(dir, "src")
	testenv.Mount(t, "tmpfs", src, "")
	testenv.Mount(t, "tmpfs", filepath.Join(src, "good"), "")
	testenv.Mount(t, "ramfs", filepath.Join(src, "good/bad"), "")

	if r := probe(t, src, Options{}); r.Idmap.Verdict != Yes || r.Mounts != nil {
		t.Errorf("not recursive: %+v, %+v", r.Idmap, r.Mounts)
	}
	r := probe(t, src, Options{Recursive: true})
	want := "submount " + src + "/good/bad: the kernel has no idmapped mounts for ramfs (mount_setattr: invalid argument)"
	if r.Idmap.Verdict != No || r.Idmap.Reason != want {
		t.Errorf("got %v: %s\nwant no: %s", r.Idmap.Verdict, r.Idmap.Reason, want)
	}
	var got []string
	for _, m := range r.Mounts {
		got = append(got, fmt.Sprint(strings.TrimPrefix(m.Path, src), " ", m.FSType, " ", m.Finding.Verdict))
	}
	if diff := cmp.Diff([]string{" tmpfs yes", "/good tmpfs yes", "/good/bad ramfs no"}, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestProbeIdmappedSource(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	needIdmappedTmpfs(t, dir)
	ns, err := sys.NewUserNamespace(throwawayMap("uid_map"), throwawayMap("gid_map"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	tree, err := sys.OpenTree(dir, unix.OPEN_TREE_CLONE)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := sys.MountSetattr(tree, "", 0, attr); err != nil {
		t.Fatal(err)
	}
	mapped := filepath.Join(dir, "mapped")
	if err := os.Mkdir(mapped, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := sys.MoveMount(tree, mapped); err != nil {
		t.Fatal(err)
	}

	r := probe(t, mapped, Options{})
	want := Finding{Verdict: Yes, Reason: "the kernel idmaps tmpfs, on top of the map that the source has already"}
	if _, err := sys.OpenTreeAttr(nil, dir, 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		want = Finding{Verdict: No, Reason: "the source is idmapped already, and the kernel cannot replace its map (open_tree_attr: function not implemented)"}
	}
	if r.Idmap.Verdict != want.Verdict || r.Idmap.Reason != want.Reason {
		t.Errorf("got %+v, want %+v", r.Idmap, want)
	}
}

func TestProbeMaps(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	needIdmappedTmpfs(t, dir)
	few := []idmap.Extent{{Disk: 0, View: 100000, Count: 65536}}
	var many []idmap.Extent
	for i := range uint32(idmap.MaxExtents) {
		many = append(many, idmap.Extent{Disk: 1000000 + 2*i, View: 2000000 + 2*i, Count: 1})
	}
	for _, tt := range []struct {
		name       string
		uids, gids []idmap.Extent
		want       Verdict
		backend    Backend
	}{
		{"small", few, few, Yes, Native},
		{"uids only", few, nil, Yes, Native},
		{"gids only", nil, few, Yes, Native},
		{"too long", many, few, No, Translate},
		{"too long gids", few, many, No, Translate},
	} {
		m, err := idmap.New(tt.uids, tt.gids)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		r := probe(t, dir, Options{Map: &m})
		if r.Map.Verdict != tt.want {
			t.Errorf("%s: map %+v", tt.name, r.Map)
		}
		if r.Idmap.Verdict != Yes {
			t.Errorf("%s: idmap %+v", tt.name, r.Idmap)
		}
		c, err := Choose(r, Auto)
		if err != nil || c.Backend != tt.backend {
			t.Errorf("%s: chose %+v, %v; want %s", tt.name, c, err, tt.backend)
		}
	}
}

func TestProbeFile(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	needIdmappedTmpfs(t, dir)
	file := filepath.Join(dir, "file")
	touch(t, file)
	r := probe(t, file, Options{})
	for name, f := range map[string]Finding{"idmap": r.Idmap, "file handles": r.FileHandles, "fuse": r.Fuse} {
		if f.Verdict != Yes {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestProbeErrors(t *testing.T) {
	if _, err := Probe(context.Background(), filepath.Join(t.TempDir(), "missing"), Options{}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such path: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Probe(ctx, "/", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// What kernels before 5.2 get; the calls exist on all.
func TestProbeFuseClassic(t *testing.T) {
	testenv.PrivateMounts(t)
	before := mountTable(t)
	var r Report
	r.probeFuseClassic(context.Background(), unix.ENOSYS)
	if r.Fuse.Verdict != Yes || r.Relay.Verdict != No || r.Protocol == nil {
		t.Errorf("FUSE %+v, relay %+v", r.Fuse, r.Relay)
	}
	if diff := cmp.Diff(before, mountTable(t)); diff != "" {
		t.Errorf("the mount table changed:\n%s", diff)
	}
}

// EPERM must not become a No.
func TestProbeUnprivileged(t *testing.T) {
	if os.Getenv("DETECT_CHILD") != "" {
		r := probe(t, "/", Options{})
		// ENOSYS comes before EPERM.
		if r.MountAPI.Verdict == Yes || r.MountAPI.Verdict == No && !errors.Is(r.MountAPI.Err, unix.ENOSYS) {
			t.Errorf("mount api: %+v", r.MountAPI)
		}
		for name, f := range map[string]Finding{"idmap": r.Idmap, "user namespace": r.UserNS, "fuse": r.Fuse} {
			if f.Verdict != Unknown {
				t.Errorf("%s: %+v, want unknown", name, f)
			}
		}
		if r.Capabilities.Verdict != No {
			t.Errorf("capabilities: %+v", r.Capabilities)
		}
		if _, err := Choose(r, Auto); !errors.Is(err, ErrUnsupported) {
			t.Errorf("choose: %v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		testenv.Skip(t, testenv.NeedRoot, "needs root")
	}
	exe := filepath.Join(t.TempDir(), "detect.test")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(exe); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(exe, "-test.run", "^TestProbeUnprivileged$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "DETECT_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func mountTable(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(data), "\n")
}

func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
