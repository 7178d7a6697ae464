package native

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/mntopt"
	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/test/testenv"
)

// idmapMounts is testenv.PrivateMounts on a kernel that idmaps tmpfs.
func idmapMounts(t *testing.T) string {
	t.Helper()
	dir := testenv.PrivateMounts(t)
	one, two := mkdir(t, dir, "try/one"), mkdir(t, dir, "try/two")
	err := Mount(one, two, Options{Map: mapOf(t, 100000)})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		testenv.Skip(t, testenv.NeedKernel, "no idmapped tmpfs: "+err.Error()) // before 6.3
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(two, 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	path := filepath.Join(elem...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func mapOf(t *testing.T, view uint32) idmap.Map {
	t.Helper()
	e := []idmap.Extent{{Disk: 0, View: view, Count: 65536}}
	m, err := idmap.New(e, e)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func shift(t *testing.T, disk, view uint32) idmap.Map {
	t.Helper()
	e := []idmap.Extent{{Disk: disk, View: view, Count: 65536}}
	m, err := idmap.New(e, e)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wantOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal("stat", path, err)
	}
	if got, want := [2]uint32{st.Uid, st.Gid}, [2]uint32{uid, gid}; got != want {
		t.Errorf("%s: owner %v, want %v", path, got, want)
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

func TestMount(t *testing.T) {
	dir := idmapMounts(t)
	src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
	if err := os.WriteFile(filepath.Join(src, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("src", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	opts, err := mntopt.Parse("ro,nosuid,noatime,private")
	if err != nil {
		t.Fatal(err)
	}
	if err := Mount(filepath.Join(dir, "link"), dst, Options{Map: mapOf(t, 100000), Mount: opts}); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, filepath.Join(dst, "file"), 100000, 100000)
	f, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := mounts.Of(f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("ro,nosuid,noatime,idmapped", m.Options); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}

	// A file on a file.
	one := filepath.Join(dir, "one")
	if err := os.WriteFile(one, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Mount(filepath.Join(src, "file"), one, Options{Map: mapOf(t, 200000)}); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, one, 200000, 200000)
}

func TestMountUIDsOnly(t *testing.T) {
	dir := idmapMounts(t)
	src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
	m, err := idmap.New([]idmap.Extent{{Disk: 0, View: 100000, Count: 1}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Mount(src, dst, Options{Map: m}); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, dst, 100000, 65534)
}

func TestMountRecursive(t *testing.T) {
	dir := idmapMounts(t)
	src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
	testenv.Mount(t, "tmpfs", filepath.Join(src, "sub"), "mode=0755")
	if err := Mount(src, dst, Options{Map: mapOf(t, 100000), Recursive: true}); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, filepath.Join(dst, "sub"), 100000, 100000)
}

func TestMountRemapsIdmappedSource(t *testing.T) {
	dir := idmapMounts(t)
	src, one, two := mkdir(t, dir, "src"), mkdir(t, dir, "one"), mkdir(t, dir, "two")
	if err := Mount(src, one, Options{Map: mapOf(t, 100000)}); err != nil {
		t.Fatal(err)
	}
	// What is 0 in src is 100000 in one, and 200000 in two.
	err := Mount(one, two, Options{Map: shift(t, 100000, 200000)})
	if errors.Is(err, ErrIdmapped) {
		testenv.Skip(t, testenv.NeedKernel, "no open_tree_attr: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	wantOwner(t, two, 200000, 200000)
	wantOwner(t, one, 100000, 100000)

	three := mkdir(t, dir, "three")
	if err := Mount(one, three, Options{Map: mapOf(t, 200000)}); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, three, 65534, 65534) // nothing that one shows is below 65536
}

// Mounts of one tree that have different maps of their own take no common one.
func TestMountRefusesMixedMaps(t *testing.T) {
	dir := idmapMounts(t)
	src, tree, two := mkdir(t, dir, "src"), mkdir(t, dir, "tree"), mkdir(t, dir, "two")
	testenv.Mount(t, "tmpfs", tree, "")
	for _, name := range []string{"a", "b"} {
		if err := Mount(src, mkdir(t, tree, name), Options{Map: mapOf(t, 100000)}); err != nil {
			t.Fatal(err)
		}
	}
	err := Mount(tree, two, Options{Map: mapOf(t, 200000), Recursive: true})
	if errors.Is(err, ErrIdmapped) {
		testenv.Skip(t, testenv.NeedKernel, "no open_tree_attr: "+err.Error())
	}
	if want := "mount " + tree + "/a: the mounts of the tree have different maps"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestMountErrors(t *testing.T) {
	dir := idmapMounts(t)
	src, dst, file := mkdir(t, dir, "src"), mkdir(t, dir, "dst"), filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	testenv.Mount(t, "ramfs", filepath.Join(dir, "ram"), "")
	testenv.Mount(t, "tmpfs", filepath.Join(src, "good"), "")
	testenv.Mount(t, "overlay", filepath.Join(src, "good/over"), "lowerdir=/usr/bin:/usr/lib")

	opts := Options{Map: mapOf(t, 100000)}
	rec := Options{Map: mapOf(t, 100000), Recursive: true}
	for _, tt := range []struct {
		source, target string
		opts           Options
		want           string
	}{
		{dir + "/none", dst, opts, "open_tree " + dir + "/none: no such file or directory"},
		{src, dir + "/none", opts, "open_tree " + dir + "/none: no such file or directory"},
		{src, dst, Options{}, "mount " + src + ": the map is empty"},
		{dir + "/ram", dst, opts, "mount_setattr " + dir + "/ram (ramfs, flags idmap): invalid argument"},
		{src, dst, rec, "mount_setattr " + src + "/good/over (overlay, flags idmap): invalid argument"},
		{src, file, opts, "mount " + file + " (the source is a directory): not a directory"},
		{file, dst, opts, "mount " + dst + " (the source is not a directory): is a directory"},
	} {
		before := mountTable(t)
		err := Mount(tt.source, tt.target, tt.opts)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s on %s: got %v, want %s", tt.source, tt.target, err, tt.want)
		}
		if diff := cmp.Diff(before, mountTable(t)); diff != "" {
			t.Errorf("%s on %s: the mount table changed:\n%s", tt.source, tt.target, diff)
		}
	}
	// Without its submounts the same source is fine.
	if err := Mount(src, dst, opts); err != nil {
		t.Error(err)
	}
}
