package fusefs

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

// A file system shows several mounts of one file system, a file among them.
func TestViews(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	path := throughFD(source)
	if err := errors.Join(os.Mkdir(path+"/dir", 0o700), os.Chown(path+"/dir", 70000, 70000), os.WriteFile(path+"/dir/file", []byte("text"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var views []*os.File
	for _, name := range []string{"dir/file", "dir"} {
		f, err := os.OpenFile(filepath.Join(path, name), unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		views = append(views, f)
	}
	// A file first: the FUSE root is a directory all the same.
	f, err := New(views[0], Options{Map: idmap.Identity()})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{FirstView, f.AddView(views[1])}
	tree := serve(t, f)
	if _, err := sys.CloneDetached(tree, names[1]); err == nil {
		t.Error("a view before Assemble")
	}
	f.Assemble(true)
	var mounts []*os.File
	for _, name := range names {
		mnt, err := sys.OpenTreeAt(tree, name, unix.OPEN_TREE_CLONE)
		if errors.Is(err, unix.EINVAL) {
			testenv.Skip(t, testenv.NeedKernel, "detached mounts are cloned in another way before Linux 6.15")
		}
		if err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, mnt)
	}
	f.Assemble(false)
	for _, mnt := range append(mounts, tree) {
		var st unix.Stat_t
		if err := unix.Fstat(int(mnt.Fd()), &st); err != nil {
			t.Error(err)
		}
		if mnt == mounts[1] && (st.Uid != 70000 || st.Mode&0o777 != 0o700) {
			t.Errorf("the directory: owner %d, mode %o", st.Uid, st.Mode)
		}
	}
	if text, err := os.ReadFile(throughFD(mounts[0])); err != nil || string(text) != "text" {
		t.Errorf("the file: %q, %v", text, err)
	}
	if text, err := os.ReadFile(throughFD(mounts[1]) + "/file"); err != nil || string(text) != "text" {
		t.Errorf("the file in the directory: %q, %v", text, err)
	}
	if _, err := os.Stat(throughFD(tree) + "/" + names[1]); err == nil {
		t.Error("a view after Assemble")
	}
	tree.Close()
	for _, mnt := range mounts {
		mnt.Close()
	}
	f.Wait()
}

// The kernel unmounts what is mounted on a name that it can't find again, and drops all
// names when it is told that changes were lost.
func TestLostChangesLeaveMounts(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	if err := os.MkdirAll(throughFD(source)+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := New(source, Options{Map: idmap.Identity()})
	if err != nil {
		t.Fatal(err)
	}
	tree := serve(t, f)
	f.Assemble(true)
	inner, err := sys.CloneDetached(tree, FirstView)
	if err != nil {
		t.Fatal(err)
	}
	tree.Close()
	target := testenv.Dir(t)
	if err := sys.MoveMount(inner, target); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", target+"/a/b", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	f.Assemble(false)
	if err := os.WriteFile(target+"/a/b/above", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f.watch.lost(errBacklog)
	testenv.WaitFor(t, "behind", func() bool { return !f.watch.isBehind() })
	if _, err := os.Stat(target + "/a/b/above"); err != nil {
		t.Errorf("what is mounted on the mount: %v", err)
	}
	unix.Unmount(target+"/a/b", 0)
	inner.Close()
	if err := unix.Unmount(target, 0); err != nil {
		t.Error(err)
	}
	f.Wait()
}

func TestCarriers(t *testing.T) {
	var c carriers
	if got := c.failure(1, "a", unix.EMFILE); got != unix.EMFILE {
		t.Errorf("without any: %v", got)
	}
	c.add(1, "a")
	for _, test := range []struct {
		dir         uint64
		name        string
		errno, want unix.Errno
	}{
		{1, "a", unix.EMFILE, unix.ENOMEM},
		{1, "a", unix.ESTALE, unix.ENOMEM},
		{1, "a", unix.ENOENT, unix.ENOENT},
		{1, "b", unix.EMFILE, unix.EMFILE},
		{2, "a", unix.EMFILE, unix.EMFILE},
	} {
		if got := c.failure(test.dir, test.name, test.errno); got != test.want {
			t.Errorf("%d/%s, %v: %v, want %v", test.dir, test.name, test.errno, got, test.want)
		}
	}
}
