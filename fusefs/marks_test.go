package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// openOverlay makes an overlay whose files have no handles to open by, with empty files.
func openOverlay(t *testing.T, files int) (source *os.File, path string) {
	t.Helper()
	unix.Umask(0)
	base := testenv.PrivateMounts(t)
	for _, name := range []string{"lower", "upper", "work", "dir"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(base, "lower", fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(base, "dir")
	testenv.Mount(t, "overlay", dir, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base))
	source, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	return source, throughFD(source)
}

// inodeMarks counts the marks on inodes that the process's fanotify groups have, which is
// what the kernel says of them.
func inodeMarks(t *testing.T) (n int) {
	t.Helper()
	infos, _ := filepath.Glob("/proc/self/fdinfo/*")
	for _, info := range infos {
		if text, err := os.ReadFile(info); err == nil {
			n += strings.Count(string(text), "\nfanotify ino:")
		}
	}
	return n
}

// changedByAnother changes the mode of a file as another process: a change of the server's
// own is no news to it.
func changedByAnother(t *testing.T, source *os.File, name, mode string) {
	t.Helper()
	cmd := exec.Command("chmod", mode, "/proc/self/fd/3/"+name)
	cmd.ExtraFiles = []*os.File{source}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("chmod: %v: %s", err, out)
	}
}

// limitMarks lets a process have few marks, whose groups retire early.
func limitMarks(t *testing.T, f *FS, limit int, retirement time.Duration) *fileMarks {
	t.Helper()
	m := f.watch.marks.Load()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit, m.retirement = limit, retirement
	return m
}

// However many files are in use, there is a limited number of marks, what is kept is never
// stale, and what is not marked is not kept.
func TestMarksAreLimited(t *testing.T) {
	testenv.RequireRoot(t)
	const files, limit = 200, 50
	source, src := openOverlay(t, files)
	f, mnt := watched(t, source, Options{})
	limitMarks(t, f, limit, time.Hour)
	for range 3 {
		for i := range files {
			modeOf(t, filepath.Join(mnt, fmt.Sprint(i)))
		}
	}
	if n := inodeMarks(t); n > 2*limit || n < limit {
		t.Errorf("%d marks with a limit of %d in each of two groups", n, limit)
	}
	began := time.Now()
	changedByAnother(t, source, "", "755") // as many as there are
	for i := range files {
		if err := os.Chmod(filepath.Join(src, fmt.Sprint(i)), 0o640); err != nil { // not reported, as it is the server's process
			t.Fatal(err)
		}
	}
	kept := 0
	for i := range files {
		if modeOf(t, filepath.Join(mnt, fmt.Sprint(i))) == 0o600 {
			kept++
		}
	}
	if kept > 2*limit {
		t.Errorf("the attributes of %d files are kept, want those of %d at most", kept, 2*limit)
	}
	if n := f.watch.marks.Load().current.number; n != 2 {
		t.Errorf("the current group is number %d, want the second", n)
	}
	t.Logf("%d of %d files are kept, after %v", kept, files, time.Since(began))
}

// A full group retires: another takes its place, for what is in use then, and the marks
// of the old one go.
func TestMarksRetire(t *testing.T) {
	testenv.RequireRoot(t)
	const files, limit = 40, 50
	source, _ := openOverlay(t, 2*files)
	f, mnt := watched(t, source, Options{})
	m := limitMarks(t, f, limit, 100*time.Millisecond)
	look := func(from int) {
		for i := range files {
			modeOf(t, filepath.Join(mnt, fmt.Sprint(from+i)))
		}
	}
	look(0)
	look(files)
	retired := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.retired == nil && m.current.number > 1
	}
	testenv.WaitFor(t, "a full group of marks stays", retired)
	if n := inodeMarks(t); n > limit {
		t.Errorf("%d marks, want %d at most", n, limit)
	}
	// What was marked by the old group is marked by the new one when it is kept again.
	f.watch.forget(f.root.id, true)
	for _, i := range []int{0, 2*files - 1} {
		name := fmt.Sprint(i)
		n := f.nodes.find(keyOfFile(t, mnt, source, name))
		if n == nil {
			t.Fatalf("no node of %s", name)
		}
		f.conn.InvalidateInode(n.id, -1, 0)
		modeOf(t, filepath.Join(mnt, name))
		changedByAnother(t, source, name, "640")
		began := time.Now()
		testenv.WaitFor(t, "a change is not seen after the group of marks has changed", func() bool {
			return modeOf(t, filepath.Join(mnt, name)) == 0o640
		})
		if took := time.Since(began); took > CoherentBound/2 {
			t.Errorf("it took %v to see a change", took)
		}
	}
}

func keyOfFile(t *testing.T, _ string, source *os.File, name string) []byte {
	t.Helper()
	var st unix.Stat_t
	if errno := sys.StatAt(int(source.Fd()), name, &st); errno != 0 {
		t.Fatal(errno)
	}
	var key keyBuf
	return key.ofInode(&st)
}

// The mark of a file goes when the kernel forgets the node.
func TestForgottenFilesAreNotMarked(t *testing.T) {
	testenv.RequireRoot(t)
	const files = 30
	source, src := openOverlay(t, files)
	f, mnt := watched(t, source, Options{})
	for i := range files {
		modeOf(t, filepath.Join(mnt, fmt.Sprint(i)))
	}
	if n := inodeMarks(t); n < files {
		t.Fatalf("%d marks for %d files", n, files)
	}
	for i := range files {
		if err := os.Remove(filepath.Join(mnt, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	testenv.WaitFor(t, "files that are forgotten stay marked", func() bool { return inodeMarks(t) <= 2 })
	m := f.watch.marks.Load()
	m.mu.Lock()
	if n := len(m.current.files); n > 2 {
		t.Errorf("%d entries of files that are forgotten", n)
	}
	if m.current.orphans != 0 {
		t.Errorf("%d marks are left without a node", m.current.orphans)
	}
	m.mu.Unlock()
	_ = src
}

// Changes of marked files that get lost make nothing stale.
func TestLostChangesOfMarkedFiles(t *testing.T) {
	testenv.RequireRoot(t)
	const files = 300
	source, src := openOverlay(t, files)
	f, mnt := watched(t, source, Options{})
	for i := range files {
		modeOf(t, filepath.Join(mnt, fmt.Sprint(i)))
	}
	for i := range files { // as in TestLostChanges
		if err := os.Chmod(filepath.Join(src, fmt.Sprint(i)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if mode := modeOf(t, filepath.Join(mnt, "0")); mode != 0o600 {
		t.Fatalf("mode %o: nothing was kept, so this shows nothing", mode)
	}
	m := f.watch.marks.Load()
	m.dispatch(m.current, &sys.Change{Mask: unix.FAN_Q_OVERFLOW})
	testenv.WaitFor(t, "nodes have not been invalidated", func() bool { return f.watch.walked.Load() >= files })
	for i := range files {
		if mode := modeOf(t, filepath.Join(mnt, fmt.Sprint(i))); mode != 0o640 {
			t.Fatalf("file %d has mode %o, want 640: it is stale", i, mode)
		}
	}
	testenv.WaitFor(t, "nothing is kept although no more changes get lost", func() bool { return !f.watch.isBehind() })
}

// Two file systems of a process that show the same overlay hear of what the other does, and
// what one forgets stays marked for the other.
func TestMarksAreShared(t *testing.T) {
	testenv.RequireRoot(t)
	source, _ := openOverlay(t, 3)
	t.Run("mounts", func(t *testing.T) {
		_, a := watched(t, source, Options{})
		t.Run("twin", func(t *testing.T) {
			_, b := watched(t, source, Options{})
			if n := fanotifyGroups(t); n != 1 {
				t.Errorf("two file systems have %d fanotify groups, want 1", n)
			}
			for i, mnt := range []string{a, b} {
				for _, m := range []string{a, b} {
					modeOf(t, m+"/0")
				}
				want := uint32(0o640 + i)
				if err := os.Chmod(mnt+"/0", os.FileMode(want)); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				testenv.WaitFor(t, "one mount does not hear of a change by way of another", func() bool {
					return modeOf(t, a+"/0") == want && modeOf(t, b+"/0") == want
				})
				if took := time.Since(began); took > CoherentBound/2 {
					t.Errorf("it took %v to hear of a change", took)
				}
			}
		})
		modeOf(t, a+"/0")
		changedByAnother(t, source, "0", "604")
		began := time.Now()
		testenv.WaitFor(t, "the mount does not hear of a change", func() bool { return modeOf(t, a+"/0") == 0o604 })
		if took := time.Since(began); took > CoherentBound/2 {
			t.Errorf("it took %v to hear of a change", took)
		}
	})
	if n := fanotifyGroups(t); n != 0 {
		t.Errorf("%d fanotify groups are left after the last unmount", n)
	}
}
