package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// mapped mounts source at a new directory of dir with the map, and opens it.
func mapped(t *testing.T, dir, source, name string, m idmap.Map) *os.File {
	t.Helper()
	ns, err := sys.NewUserNamespace(m.UIDMapText(), m.GIDMapText())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	tree, err := sys.OpenTree(source, unix.OPEN_TREE_CLONE)
	if err == nil {
		defer tree.Close()
		err = sys.MountSetattr(tree, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		testenv.Skip(t, testenv.NeedKernel, "no idmapped tmpfs: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, name)
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := sys.MoveMount(tree, target); err != nil {
		t.Fatal(err)
	}
	return open(t, target)
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := sys.OpenTree(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOf(t *testing.T) {
	dir := testenv.PrivateMounts(t)
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	var many []idmap.Extent
	for i := range uint32(300) { // 4096 bytes hold no more
		many = append(many, idmap.Extent{Disk: 2 * i, View: 100000 + 3*i, Count: 1})
	}
	few := []idmap.Extent{{Disk: 0, View: 100000, Count: 65536}, {Disk: 70000, View: 5, Count: 1}, {Disk: 4000000000, View: 3000000000, Count: 1000}}
	one := []idmap.Extent{{Disk: 1000, View: 1001, Count: 1}}
	standIn := []idmap.Extent{{Disk: 4294967294, View: 4294967294, Count: 1}}
	for _, tc := range []struct {
		name                   string
		uids, gids, wantedGIDs []idmap.Extent
	}{
		{"few", few, one, one},
		{"many", many, many, many},
		{"no gids", few, nil, standIn},
	} {
		m, err := idmap.New(tc.uids, tc.gids)
		if err != nil {
			t.Fatal(err)
		}
		want, err := idmap.New(tc.uids, tc.wantedGIDs)
		if err != nil {
			t.Fatal(err)
		}
		f := mapped(t, dir, source, tc.name, m)
		got, has, err := MapOfTree(f, true)
		if errors.Is(err, sys.ErrMountMaps) {
			testenv.Skip(t, testenv.NeedKernel, err.Error())
		}
		if err != nil || !has || !got.Equal(want) {
			t.Errorf("%s: %v, %v, %v, want %v", tc.name, got, has, err, want)
		}
	}
	if m, has, err := MapOf(open(t, source)); has || err != nil || !m.IsZero() {
		t.Errorf("a mount without a map: %v, %v, %v", m, has, err)
	}
}
