package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// needPrune skips where the kernel has no FUSE_NOTIFY_PRUNE.
func needPrune(t *testing.T, f *FS) {
	t.Helper()
	if errno := f.conn.Prune([]uint64{1 << 62}); errno == unix.ENOSYS {
		testenv.Skip(t, testenv.NeedKernel, "FUSE_NOTIFY_PRUNE, Linux 6.18")
	}
}

// atSource runs a program in the source as another process than the server.
func atSource(t *testing.T, source *os.File, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = throughFD(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// inodesOf returns how many inodes of a tmpfs are used.
func inodesOf(t *testing.T, dir string) uint64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Files - st.Ffree
}

// What is deleted at the source is free soon, directories too, although the server has
// descriptors of them, and whatever the kernel knows of what was in them.
func TestDeletedTreeIsFree(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	src := throughFD(source)
	empty := inodesOf(t, src)
	_, mnt := watched(t, source, Options{})
	const dirs, files = 40, 5
	for d := range dirs {
		// As deep as it is wide.
		dir := filepath.Join(src, "tree", fmt.Sprint(d/8), fmt.Sprint(d%8))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var st unix.Stat_t
	err := filepath.WalkDir(mnt+"/tree", func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() {
			_, err := os.ReadFile(path)
			return err
		}
		if unix.Lstat(path+"/there is no such file", &st) != unix.ENOENT { // and the kernel notes that
			t.Errorf("%s has what it should not", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// A file that has moved elsewhere leaves a name behind.
	atSource(t, source, "mv", "tree/0/0/0", "moved")

	atSource(t, source, "rm", "-r", "tree", "moved")
	testenv.WaitFor(t, "deleted directories are not free", func() bool { return inodesOf(t, src) == empty })
}

// Whoever works in a directory, or has a file open, when it is deleted at the source,
// goes on as at the source itself.
func TestDeletedInUse(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	src := throughFD(source)
	empty := inodesOf(t, src)
	f, mnt := watched(t, source, Options{})
	if err := os.MkdirAll(src+"/tree/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src+"/tree/dir/file", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	type worker struct {
		dir, file, path int
	}
	open := func(root string) (w worker) {
		for _, o := range []struct {
			fd    *int
			name  string
			flags int
		}{{&w.dir, "/tree/dir", unix.O_RDONLY | unix.O_DIRECTORY}, {&w.file, "/tree/dir/file", unix.O_RDONLY}, {&w.path, "/tree/dir/file", unix.O_PATH}} {
			fd, err := unix.Open(root+o.name, o.flags|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			*o.fd = fd
		}
		return w
	}
	look := func(w worker) string {
		var dir, file, path unix.Stat_t
		errDir, errFile, errPath := unix.Fstat(w.dir, &dir), unix.Fstat(w.file, &file), unix.Fstat(w.path, &path)
		buf := make([]byte, 1000)
		n, errList := unix.Getdents(w.dir, buf)
		text, errRead := unix.Pread(w.file, buf, 0)
		_, errMake := unix.Openat(w.dir, "new", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		errFind := unix.Fstatat(w.dir, "file", &unix.Stat_t{}, 0)
		return fmt.Sprint(errDir, dir.Nlink, errFile, file.Nlink, file.Size, errPath, path.Nlink, " list ", n, errList, " read ", text, errRead, errMake, errFind)
	}
	above, below := open(mnt), open(src)
	atSource(t, source, "rm", "-r", "tree")
	if want := look(below); !testenv.Becomes(func() bool { return look(above) == want }) {
		t.Errorf("through the mount:\n%s\nat the source:\n%s", look(above), want)
	}
	f.pruneDeleted()
	want := look(below)
	for range 50 {
		if got := look(above); got != want {
			t.Fatalf("after a while, through the mount:\n%s\nat the source:\n%s", got, want)
		}
	}
	for _, w := range []worker{above, below} {
		for _, fd := range []int{w.dir, w.file, w.path} {
			unix.Close(fd)
		}
	}
	testenv.WaitFor(t, "what was deleted is not free when it has been closed", func() bool { return inodesOf(t, src) == empty })
}

// servedOverlay is a served file system over an overlay, which has no file handles, its
// directory, that below its upper layer, and that of the mount.
func servedOverlay(t *testing.T) (f *FS, dir *os.File, mnt string) {
	t.Helper()
	path := testenv.Source(t, "overlay")
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if f, err = New(dir, Options{Map: idmap.Identity()}); err != nil {
		t.Fatal(err)
	}
	tree := serve(t, f)
	t.Cleanup(func() {
		tree.Close()
		f.Wait()
		dir.Close()
	})
	needPrune(t, f)
	noPoll(t, filepath.Join(throughFD(tree), "probe"))
	return f, dir, throughFD(tree)
}

// Without handles, files are held by descriptors, and the space of one that is deleted at
// the source is free some seconds later.
func TestDeletedFileIsFreeWithoutHandles(t *testing.T) {
	_, source, mnt := servedOverlay(t)
	src := throughFD(source)
	free := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(src, &st); err != nil {
			t.Fatal(err)
		}
		return st.Bfree
	}
	before := free()
	if err := os.MkdirAll(src+"/tree/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src+"/tree/dir/file", make([]byte, 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(mnt + "/tree/dir/file"); err != nil {
		t.Fatal(err)
	}
	atSource(t, source, "rm", "-r", "tree")
	testenv.WaitFor(t, "the space of a deleted file is not free", func() bool { return free() >= before })
}

// With more files known than there may be descriptors, those that nobody uses are
// forgotten. So who has a file, or works in a directory, is not disturbed by its getting
// another name at the source.
func TestColdNodesArePruned(t *testing.T) {
	f, source, mnt := servedOverlay(t)
	src := throughFD(source)
	const budget, files = 64, 200
	f.fds.mu.Lock()
	f.fds.setBudget(budget)
	f.fds.mu.Unlock()
	for _, dir := range []string{"/used", "/many"} {
		if err := os.Mkdir(src+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		if err := os.WriteFile(fmt.Sprintf("%s/many/%d", src, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(src+"/used/file", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Open(mnt+"/used", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	file, err := unix.Open(mnt+"/used/file", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	held := func() int {
		f.fds.mu.Lock()
		defer f.fds.mu.Unlock()
		return len(f.fds.ring)
	}
	for i := range files {
		modeOf(t, fmt.Sprintf("%s/many/%d", mnt, i))
		if i%8 == 0 {
			testenv.WaitFor(t, "nodes that nobody uses are not pruned", func() bool {
				if held() < budget-8 {
					return true
				}
				f.pruner.crowded() // again, if the kernel was slow to forget the last ones
				return false
			})
		}
	}
	atSource(t, source, "mv", "used/file", "used/renamed")
	atSource(t, source, "mv", "used", "moved")
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil || st.Size != 4 {
		t.Errorf("a file in use that was renamed at the source: %v, %d bytes", err, st.Size)
	}
	if err := unix.Fstatat(dir, "renamed", &st, 0); err != nil {
		t.Errorf("a name in a directory in use that was renamed at the source: %v", err)
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file)); err != nil || string(text) != "text" {
		t.Errorf("read it: %q, %v", text, err)
	}
	for i := range files {
		modeOf(t, fmt.Sprintf("%s/many/%d", mnt, i))
	}
}
