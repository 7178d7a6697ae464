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

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// watched serves a source with a cache that a watch keeps coherent. It skips where the
// kernel has not all that takes.
func watched(t *testing.T, source *os.File, o Options) (f *FS, mnt string) {
	t.Helper()
	o.Map = idmap.Identity()
	f, err := New(source, o)
	if err != nil {
		t.Fatal(err)
	}
	tree := serve(t, f)
	t.Cleanup(func() {
		tree.Close()
		f.Wait()
	})
	if kept, cause := f.Caching(); cause != nil {
		testenv.Skip(t, testenv.NeedKernel, fmt.Sprintf("cache %v: %v", kept, cause))
	}
	mnt = throughFD(tree)
	noPoll(t, mnt+"/probe")
	if err := unix.Unlink(mnt + "/probe"); err != nil {
		t.Fatal(err)
	}
	return f, mnt
}

func modeOf(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode & 07777
}

// Whatever is lost and how often, all nodes are invalidated once, nothing is kept
// meanwhile, nothing is stale afterwards, and then the kernel keeps things again.
func TestLostChanges(t *testing.T) {
	testenv.RequireRoot(t)
	const files = 3000
	source := openTmpfs(t)
	defer source.Close()
	src := throughFD(source)
	for i := range files {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	requests := new(Requests)
	f, mnt := watched(t, source, Options{Requests: requests})
	asked := func(i int) uint64 { // requests for the attributes of a file that is known
		before := requests.count[opGetattr].Load() + requests.count[opLookup].Load() + requests.count[opStatx].Load()
		modeOf(t, filepath.Join(mnt, fmt.Sprint(i)))
		return requests.count[opGetattr].Load() + requests.count[opLookup].Load() + requests.count[opStatx].Load() - before
	}
	for i := range files {
		modeOf(t, filepath.Join(mnt, fmt.Sprint(i)))
	}
	// A change by this process is reported to nobody, as it is the server. This stands
	// for those of others whose events were lost.
	for i := range files {
		if err := os.Chmod(filepath.Join(src, fmt.Sprint(i)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if mode := modeOf(t, filepath.Join(mnt, "0")); mode != 0o600 {
		t.Fatalf("mode %o: nothing was kept, so this shows nothing", mode)
	}

	began := time.Now()
	for range 500 {
		f.watch.group.dispatch(&sys.Change{Mask: unix.FAN_Q_OVERFLOW})
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("to note that changes were lost took %v", took)
	}
	testenv.WaitFor(t, "nodes have not been invalidated", func() bool { return f.watch.walked.Load() >= files })
	for i := range files {
		if mode := modeOf(t, filepath.Join(mnt, fmt.Sprint(i))); mode != 0o640 {
			t.Fatalf("file %d has mode %o, want 640: it is stale", i, mode)
		}
	}
	if f.watch.isBehind() && asked(1)+asked(1) < 2 && f.watch.isBehind() {
		t.Error("attributes are kept while changes get lost")
	}
	testenv.WaitFor(t, "nothing is kept although no more changes get lost", func() bool { return !f.watch.isBehind() })
	if took := time.Since(began); took < leastQuiet {
		t.Errorf("what is read is kept again after %v, want %v at least", took, leastQuiet)
	}
	if n, most := f.watch.walked.Load(), int64(files+10); n > most {
		t.Errorf("%d invalidations for 500 losses with %d nodes, want %d at most", n, files, most)
	}
	asked(1)
	testenv.WaitFor(t, "each stat(2) is a request, although no more changes get lost", func() bool { return asked(1) == 0 })

	// And the next loss is noticed as the first was.
	if err := os.Chmod(filepath.Join(src, "1"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.watch.group.dispatch(&sys.Change{Mask: unix.FAN_Q_OVERFLOW})
	testenv.WaitFor(t, "a stale mode after the second loss", func() bool { return modeOf(t, filepath.Join(mnt, "1")) == 0o644 })
}

// Names that changed unnoticed are looked up again, at once since Linux 6.16.
func TestLostNames(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	src := throughFD(source)
	if err := os.WriteFile(filepath.Join(src, "gone"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, mnt := watched(t, source, Options{})
	if errno := f.conn.IncreaseEpoch(); errno == unix.ENOSYS {
		testenv.Skip(t, testenv.NeedKernel, "INC_EPOCH, Linux 6.16")
	}
	there := func(name string) bool {
		var st unix.Stat_t
		return unix.Lstat(filepath.Join(mnt, name), &st) == nil
	}
	if !there("gone") || there("new") {
		t.Fatal("wrong from the start")
	}
	if err := os.Rename(filepath.Join(src, "gone"), filepath.Join(src, "new")); err != nil {
		t.Fatal(err)
	}
	if there("new") {
		t.Fatal("the name was not kept, so this shows nothing")
	}
	f.watch.group.dispatch(&sys.Change{Mask: unix.FAN_Q_OVERFLOW})
	testenv.WaitFor(t, "a stale name", func() bool { return there("new") && !there("gone") })
}

// With more changes than the kernel takes notifications of, nothing waits, and nothing
// is stale in the end.
func TestFullNoticeQueue(t *testing.T) {
	f, dir := withoutHandles(t, 8)
	w := newWatch(f) // nobody takes from its queue
	defer w.close()
	for range maxNotices {
		w.tell(notice{id: rootID})
	}
	if w.isBehind() {
		t.Fatalf("%s: changes are lost with room in the queue", dir)
	}
	w.tell(notice{id: rootID})
	if !w.isBehind() {
		t.Error("a notice for which there is no room is lost unnoticed")
	}
}

func TestNoticeQueue(t *testing.T) {
	var q noticeQueue
	q.ready.L = &q.mu
	next, taken := uint64(1), uint64(1)
	for _, step := range []int{1, -1, 300, -100, 200, -400, 5, -5} {
		for range max(step, 0) {
			q.put(notice{id: next})
			next++
		}
		for range max(-step, 0) {
			if n, ok := q.take(); !ok || n.id != taken {
				t.Fatalf("took notice %d, %v; want %d", n.id, ok, taken)
			}
			taken++
		}
	}
	if cap(q.items) > keptNotices {
		t.Errorf("an empty queue keeps room for %d", cap(q.items))
	}
	q.close()
	if _, ok := q.take(); ok {
		t.Error("a closed queue gives something")
	}
}

// fanotifyGroups counts those of this process.
func fanotifyGroups(t *testing.T) (n int) {
	t.Helper()
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.Contains(to, "fanotify") {
			n++
		}
	}
	return n
}

// A user may have 128 fanotify groups. The file systems of one process share one, and it
// goes with the last of them. Each hears of its own source, and, where two have the same,
// of what the other does.
func TestFileSystemsShareAWatch(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	other := openTmpfs(t)
	defer other.Close()
	for _, s := range []*os.File{source, other} {
		if err := os.WriteFile(filepath.Join(throughFD(s), "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("mounts", func(t *testing.T) {
		_, a := watched(t, source, Options{})
		_, b := watched(t, source, Options{})
		_, c := watched(t, other, Options{})
		if n := fanotifyGroups(t); n != 1 {
			t.Errorf("three file systems have %d fanotify groups, want 1", n)
		}
		for i, mnt := range []string{a, b} {
			for _, m := range []string{a, b, c} {
				modeOf(t, m+"/f")
			}
			want := uint32(0o640 + i)
			if err := os.Chmod(mnt+"/f", os.FileMode(want)); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			testenv.WaitFor(t, "one mount does not hear of a change by way of another", func() bool {
				return modeOf(t, a+"/f") == want && modeOf(t, b+"/f") == want
			})
			if took := time.Since(began); took > CoherentBound/2 {
				t.Errorf("it took %v to hear of a change", took)
			}
		}
		if mode := modeOf(t, c+"/f"); mode != 0o600 {
			t.Errorf("the mount of another source shows mode %o", mode)
		}
	})
	if n := fanotifyGroups(t); n != 0 {
		t.Errorf("%d fanotify groups are left after the last unmount", n)
	}
}

// One file system that ends leaves the others of its source as they were.
func TestWatchOutlivesATwin(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	src := throughFD(source)
	if err := os.WriteFile(src+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, a := watched(t, source, Options{})
	t.Run("twin", func(t *testing.T) { watched(t, source, Options{}) })
	modeOf(t, a+"/f")
	cmd := exec.Command("chmod", "640", "/proc/self/fd/3/f") // another process
	cmd.ExtraFiles = []*os.File{source}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("chmod: %v: %s", err, out)
	}
	began := time.Now()
	testenv.WaitFor(t, "the mount does not hear of a change", func() bool { return modeOf(t, a+"/f") == 0o640 })
	if took := time.Since(began); took > CoherentBound/2 {
		t.Errorf("it took %v to hear of a change", took)
	}
}
