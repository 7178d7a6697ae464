package mounttree

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// source is a tree of tmpfs mounts, some of which others cover.
func source(t *testing.T) string {
	t.Helper()
	testenv.RequireRoot(t)
	top := testenv.PrivateMounts(t)
	for _, path := range []string{"/a", "/a/b", "/c/gone", "/c", "/a/b", "/d/e/f"} {
		testenv.Mount(t, "tmpfs", top+path, "mode=0755")
	}
	if err := os.WriteFile(top+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(top+"/file", top+"/file", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(top+"/file", 0) })
	return top
}

func pointsBelow(t *testing.T, top string) []string {
	t.Helper()
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(top))
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, m := range all {
		points = append(points, m.Mountpoint[len(top):])
	}
	return points
}

func TestAssemble(t *testing.T) {
	top := source(t)
	before := pointsBelow(t, "/")
	clone, err := sys.OpenTree(top, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	var view *os.File
	var finished []string
	err = Private(func() error {
		tree, err := Open(clone)
		if err != nil {
			return err
		}
		defer tree.Close()
		var paths []string
		for _, m := range tree.Mounts {
			paths = append(paths, m.Path)
		}
		if diff := cmp.Diff([]string{"", "/a", "/c", "/d/e/f", "/file", "/a/b"}, paths); diff != "" {
			t.Errorf("mounts that can be seen (-want +got):\n%s", diff)
		}
		view, err = tree.Assemble(func(m *Mount) (*os.File, error) { return Clone(m.File) }, func(m *Mount, mnt *os.File) error {
			finished = append(finished, m.Path)
			return nil
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	// A mount is finished after those on it.
	if diff := cmp.Diff([]string{"/a/b", "/a", "/c", "/d/e/f", "/file", ""}, finished); diff != "" {
		t.Errorf("finished (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, pointsBelow(t, "/")); diff != "" {
		t.Errorf("seen meanwhile:\n%s", diff)
	}
	target := testenv.Dir(t)
	if err := sys.MoveMount(view, target); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(target, unix.MNT_DETACH)
	if diff := cmp.Diff([]string{"", "/a", "/a/b", "/c", "/d/e/f", "/file"}, pointsBelow(t, target)); diff != "" {
		t.Errorf("mount table (-want +got):\n%s", diff)
	}
}

// What fails in the middle leaves nothing: no mount, no descriptor (testenv.Main).
func TestAssembleFails(t *testing.T) {
	top := source(t)
	before := pointsBelow(t, "/")
	broken := errors.New("broken")
	for _, where := range []string{"", "/a", "/a/b", "/file"} {
		for _, inPiece := range []bool{true, false} {
			clone, err := sys.OpenTree(top, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
			if err != nil {
				t.Fatal(err)
			}
			fails := func(m *Mount, here bool) error {
				if here && m.Path == where {
					return broken
				}
				return nil
			}
			err = Private(func() error {
				tree, err := Open(clone)
				if err != nil {
					return err
				}
				defer tree.Close()
				_, err = tree.Assemble(func(m *Mount) (*os.File, error) {
					if err := fails(m, inPiece); err != nil {
						return nil, err
					}
					return Clone(m.File)
				}, func(m *Mount, _ *os.File) error { return fails(m, !inPiece) })
				return err
			})
			clone.Close()
			if !errors.Is(err, broken) {
				t.Errorf("%q: %v", where, err)
			}
		}
	}
	if diff := cmp.Diff(before, pointsBelow(t, "/")); diff != "" {
		t.Errorf("left:\n%s", diff)
	}
}

// SetAttrs is for kernels before 5.12, and works on all.
func TestSetAttrs(t *testing.T) {
	top := source(t)
	clone, err := sys.OpenTree(top, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	err = Private(func() error {
		tree, err := Open(clone)
		if err != nil {
			return err
		}
		defer tree.Close()
		for _, m := range tree.Mounts {
			mnt, err := Clone(m.File)
			if err != nil {
				return err
			}
			defer mnt.Close()
			with, err := tree.SetAttrs(mnt, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOATIME)
			if err != nil {
				t.Errorf("%q: %v", m.Path, err)
				continue
			}
			var fs unix.Statfs_t
			err = unix.Fstatfs(int(with.Fd()), &fs)
			with.Close()
			const all = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOATIME
			if err != nil || int64(fs.Flags)&all != unix.ST_NOSUID|unix.ST_NOATIME {
				t.Errorf("%q: flags %#x, %v", m.Path, fs.Flags, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
