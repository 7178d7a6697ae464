package sys

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	path := filepath.Join(elem...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func idmapAttr(t *testing.T, uids, gids string) *unix.MountAttr {
	t.Helper()
	ns, err := NewUserNamespace(uids, gids)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
}

// skipWithoutTmpfs skips where the kernel does not idmap tmpfs, before 6.3.
func skipWithoutTmpfs(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		testenv.Skip(t, testenv.NeedKernel, "no idmapped tmpfs: "+err.Error())
	}
}

func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal("stat", path, err)
	}
	return [2]uint32{st.Uid, st.Gid}
}

func TestIdmappedMount(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	const line = "0 100000 65536\n"
	for _, tt := range []struct {
		name, uids, gids string
		want             [2]uint32
	}{
		{"both", line, line, [2]uint32{100000, 100000}},
		{"uids only", line, "", [2]uint32{100000, 65534}},
		{"gids only", "", line, [2]uint32{65534, 100000}},
	} {
		// No subtests: they run on other threads, in another namespace.
		src, dst := mkdir(t, dir, tt.name, "src"), mkdir(t, dir, tt.name, "dst")
		mnt, err := OpenTree(src, unix.OPEN_TREE_CLONE)
		if err != nil {
			t.Fatal(err)
		}
		defer mnt.Close()
		if err := MountSetattr(mnt, "", 0, idmapAttr(t, tt.uids, tt.gids)); err != nil {
			if tt.name == "both" {
				skipWithoutTmpfs(t, err)
			}
			t.Fatal(tt.name, err)
		}
		to, err := os.Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		if err := MoveMountTo(mnt, to); err != nil {
			t.Fatal(tt.name, err)
		}
		if got := owner(t, dst); got != tt.want {
			t.Errorf("%s: owner = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestOpenTreeAttrRemaps(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	src, one, two := mkdir(t, dir, "src"), mkdir(t, dir, "one"), mkdir(t, dir, "two")
	mnt, err := OpenTree(src, unix.OPEN_TREE_CLONE)
	if err != nil {
		t.Fatal(err)
	}
	defer mnt.Close()
	attr := idmapAttr(t, "0 100000 10\n", "0 100000 10\n")
	if err := MountSetattr(mnt, "", 0, attr); err != nil {
		skipWithoutTmpfs(t, err)
		t.Fatal(err)
	}
	if err := MoveMount(mnt, one); err != nil {
		t.Fatal(err)
	}

	again, err := OpenTree(one, unix.OPEN_TREE_CLONE)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	attr = idmapAttr(t, "0 200000 10\n", "0 200000 10\n")
	err = MountSetattr(again, "", 0, attr)
	if want := "mount_setattr " + one + " (flags idmap): operation not permitted"; err == nil || err.Error() != want {
		t.Errorf("second map: %v, want %s", err, want)
	}

	mnt, err = OpenTreeAttr(nil, one, unix.OPEN_TREE_CLONE, attr)
	if errors.Is(err, unix.ENOSYS) {
		testenv.Skip(t, testenv.NeedKernel, "no open_tree_attr: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer mnt.Close()
	if err := MoveMount(mnt, two); err != nil {
		t.Fatal(err)
	}
	if got, want := owner(t, two), [2]uint32{200000, 200000}; got != want {
		t.Errorf("owner = %v, want %v", got, want)
	}
}

func TestMountAPIErrors(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	none := filepath.Join(dir, "none")
	_, err := OpenTree(none, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	wantError(t, err, "open_tree "+none+" (flags clone|recursive): no such file or directory")

	root, err := OpenTree(dir, unix.OPEN_TREE_CLONE)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_, err = OpenTreeAt(root, "none", 0)
	wantError(t, err, "open_tree "+none+": no such file or directory")
	wantError(t, MoveMount(root, none), "move_mount "+none+": no such file or directory")
	_, err = OpenTreeAttr(root, "none", unix.OPEN_TREE_CLONE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID})
	if !errors.Is(err, unix.ENOSYS) {
		wantError(t, err, "open_tree_attr "+none+" (flags clone, flags nosuid): no such file or directory")
	}
	if err := MountSetattr(root, "", 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		return // before 5.12
	}
	wantError(t, MountSetattr(root, "none", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOATIME, Attr_clr: unix.MOUNT_ATTR__ATIME}),
		"mount_setattr "+none+" (flags noatime, clear atime): no such file or directory")
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestFuseMount(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	dst := mkdir(t, dir, "dst")
	dev, tree, err := FuseMount(FuseMountOptions{
		Source: "/the/source", Subtype: "idmount", AllowOther: true, DefaultPermissions: true,
		MaxRead: 65536, Attrs: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOATIME,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	defer tree.Close()
	if err := MoveMount(tree, dst); err != nil {
		t.Fatal(err)
	}
	got := mountLine(t, dst)
	for _, want := range []string{" - fuse.idmount /the/source ", "nodev,noatime", "user_id=0,group_id=0,default_permissions,allow_other,max_read=65536"} {
		if !strings.Contains(got, want) {
			t.Errorf("mountinfo %q lacks %q", got, want)
		}
	}
}

// TestFuseMountLabels has no SELinux to ask. The kernel without it refuses the option
// by its name, so that the option has reached it.
func TestFuseMountLabels(t *testing.T) {
	testenv.PrivateMounts(t)
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "selinuxfs") {
		testenv.Skip(t, testenv.NeedKernel, "a kernel without SELinux")
	}
	o := FuseMountOptions{Source: "/the/source", Labels: []FuseLabel{{"context", "u:r:t:s0:c1,c2"}}}
	_, _, err = FuseMount(o)
	for _, want := range []string{"fsconfig", "context=u:r:t:s0:c1,c2", "Unknown parameter 'context'"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	var data []string
	for _, p := range o.params(3, false) {
		data = append(data, p.String())
	}
	if want := `context="u:r:t:s0:c1,c2"`; !slices.Contains(data, want) {
		t.Errorf("mount(2) gets %q, want %s in it", data, want)
	}
}

func TestOpenFuseDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fuse")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, "/dev/null"} {
		if _, err := OpenFuseDevice(path); !errors.Is(err, ErrNotFuseDevice) {
			t.Errorf("%s: %v, want ErrNotFuseDevice", path, err)
		}
	}
}

// TestSetMountAttrs changes flags of an attached mount in both directions, by the call
// of this kernel and by that of older ones.
func TestSetMountAttrs(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	mnt, err := OpenTree(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mnt.Close()
	const all = unix.ST_RDONLY | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME
	for name, set := range map[string]func(*os.File, uint64) error{"mount_setattr": SetMountAttrs, "mount": setMountAttrsClassic} {
		for attrs, want := range map[uint64]int64{
			unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR_NODIRATIME: unix.ST_RDONLY | unix.ST_NOATIME | unix.ST_NODIRATIME,
			unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC:                                unix.ST_NODEV | unix.ST_NOEXEC,
			0: 0,
		} {
			if err := set(mnt, attrs); err != nil {
				t.Fatal(err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			if got := st.Flags & all; got != want {
				t.Errorf("%s, attributes %#x: flags %#x, want %#x", name, attrs, got, want)
			}
		}
	}
}

func TestFuseMountAt(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	dst := mkdir(t, dir, "dst")
	dev, err := FuseMountAt(FuseMountOptions{
		Source: "/the/source", Subtype: "idmount", AllowOther: true,
		Attrs: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_STRICTATIME,
	}, dst)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	got := mountLine(t, dst)
	for _, want := range []string{" - fuse.idmount /the/source ", " ro,nosuid - ", "user_id=0,group_id=0,allow_other"} {
		if !strings.Contains(got, want) {
			t.Errorf("mountinfo %q lacks %q", got, want)
		}
	}
}

func TestFuseMountErrorHasKernelLog(t *testing.T) {
	testenv.PrivateMounts(t)
	_, _, err := FuseMount(FuseMountOptions{Source: "/the/source", Subtype: "with.dot", MaxRead: 1 << 40})
	if err == nil || !strings.HasPrefix(err.Error(), "fsconfig /the/source (fuse.with.dot, max_read=1099511627776, kernel log: ") {
		t.Errorf("got %v", err)
	}
}

// mountLine is the last line of this thread's mountinfo for target.
func mountLine(t *testing.T, target string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); f[4] == target {
			found = line
		}
	}
	return found
}
