package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
)

// withoutHandles makes a file system over a new directory as if its source
// could not open by handle, with few descriptors.
func withoutHandles(t *testing.T, budget int) (*FS, string) {
	t.Helper()
	dir := t.TempDir()
	return withoutHandlesIn(t, dir, budget), dir
}

func withoutHandlesIn(t *testing.T, dir string, budget int) *FS {
	t.Helper()
	source, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(source, Options{Map: idmap.Identity()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.close()
		source.Close()
	})
	f.mounts.close()
	f.mounts.root, f.mounts.byID = nil, map[int32]*mount{}
	var st unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	var key keyBuf
	f.root.key = string(key.ofInode(&st))
	f.fds.setBudget(budget)
	return f
}

func lookup(t *testing.T, f *FS, dir uint64, name string) uint64 {
	t.Helper()
	var out fuse.EntryOut
	if s := f.Lookup(nil, &fuse.InHeader{NodeId: dir}, name, &out); s != fuse.OK {
		t.Fatalf("look up %s: %v", name, s)
	}
	return out.NodeId
}

func getattr(f *FS, id uint64) (fuse.Attr, fuse.Status) {
	in, out := fuse.GetAttrIn{}, fuse.AttrOut{}
	in.NodeId = id
	s := f.GetAttr(nil, &in, &out)
	return out.Attr, s
}

func fds(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Far more files than descriptors: each stays reachable, by its own identity.
func TestDescriptorBudget(t *testing.T) {
	f, dir := withoutHandles(t, 8)
	const dirs, files = 5, 40
	ids := make(map[uint64]uint64) // node to inode number
	before := fds(t)
	for d := range dirs {
		sub := filepath.Join(dir, fmt.Sprint(d))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		parent := lookup(t, f, rootID, fmt.Sprint(d))
		for i := range files {
			path := filepath.Join(sub, fmt.Sprint(i))
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			ids[lookup(t, f, parent, fmt.Sprint(i))] = st.Ino
		}
	}
	if len(ids) != dirs*files {
		t.Fatalf("%d nodes for %d files", len(ids), dirs*files)
	}
	if used := fds(t) - before; used > 8 {
		t.Errorf("%d descriptors used, the budget is 8", used)
	}
	for id, ino := range ids {
		if a, s := getattr(f, id); s != fuse.OK || a.Ino != ino {
			t.Fatalf("node %d: inode %d, %v; want %d", id, a.Ino, s, ino)
		}
	}
	for id := range ids {
		f.Forget(id, 1)
	}
	if n := f.nodes.len(); n != dirs+1 {
		t.Errorf("%d nodes left, want %d", n, dirs+1)
	}
}

// A name that leads to another file now must not stand for the old one.
func TestEvictedNodeIsNotConfused(t *testing.T) {
	f, dir := withoutHandles(t, 1)
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a := lookup(t, f, rootID, "a")
	lookup(t, f, rootID, "b")
	lookup(t, f, rootID, "c") // a has no descriptor any more
	if err := os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if _, s := getattr(f, a); s != fuse.Status(unix.ESTALE) {
		t.Errorf("status %v, want ESTALE", s)
	}
}

// A file that is renamed or loses a name through the mount stays reachable.
func TestEvictedNodeFollowsItsNames(t *testing.T) {
	f, dir := withoutHandles(t, 1)
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "b2")); err != nil {
		t.Fatal(err)
	}
	a, b := lookup(t, f, rootID, "a"), lookup(t, f, rootID, "b")
	lookup(t, f, rootID, "c")
	in := fuse.RenameIn{Newdir: rootID}
	in.NodeId = rootID
	if s := f.Rename(nil, &in, "a", "moved"); s != fuse.OK {
		t.Fatal(s)
	}
	if s := f.Unlink(nil, &fuse.InHeader{NodeId: rootID}, "b"); s != fuse.OK {
		t.Fatal(s)
	}
	lookup(t, f, rootID, "c")
	for name, id := range map[string]uint64{"a": a, "b": b} {
		if _, s := getattr(f, id); s != fuse.OK {
			t.Errorf("%s: %v", name, s)
		}
	}
}

// Ids are never used twice, and stale ones are refused.
func TestForgottenIDs(t *testing.T) {
	f, dir := withoutHandles(t, 100)
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	seen := make(map[uint64]bool)
	for range 10 {
		id := lookup(t, f, rootID, "a")
		if seen[id] {
			t.Fatalf("id %d used twice", id)
		}
		seen[id] = true
		if again := lookup(t, f, rootID, "a"); again != id {
			t.Fatalf("one file has ids %d and %d", id, again)
		}
		f.Forget(id, 2)
		if _, s := getattr(f, id); s != fuse.Status(unix.ESTALE) {
			t.Fatalf("forgotten id: %v, want ESTALE", s)
		}
	}
	for _, id := range []uint64{0, 2, 1 << 31, 1 << 40, ^uint64(0)} {
		if _, s := getattr(f, id); s == fuse.OK {
			t.Errorf("id %d was never given", id)
		}
	}
}

func TestNamesStayInTheDirectory(t *testing.T) {
	f, _ := withoutHandles(t, 100)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "a\x00b"} {
		var out fuse.EntryOut
		if s := f.Lookup(nil, &fuse.InHeader{NodeId: rootID}, name, &out); s == fuse.OK {
			t.Errorf("look-up of %q succeeded", name)
		}
		in := fuse.MkdirIn{Mode: 0o755}
		in.NodeId = rootID
		if s := f.Mkdir(nil, &in, name, &out); s == fuse.OK {
			t.Errorf("mkdir of %q succeeded", name)
		}
	}
}

func TestRdev(t *testing.T) {
	for _, dev := range []uint64{unix.Mkdev(1, 3), unix.Mkdev(259, 1<<19+5), unix.Mkdev(4095, 1<<20-1)} {
		if got := diskRdev(wireRdev(dev)); got != dev {
			t.Errorf("device %#x comes back as %#x", dev, got)
		}
	}
}

// A file that was deleted at a server leaves its inode number to another.
func TestLostFileIsAnother(t *testing.T) {
	f, dir := withoutHandles(t, 100)
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := lookup(t, f, rootID, "f")
	if again := lookup(t, f, rootID, "f"); again != old {
		t.Fatalf("the same file is node %d, then %d", old, again)
	}
	n := f.nodes.get(old)
	// What a descriptor of the deleted file is like: it answers nothing.
	if err := unix.Close(n.held.fd); err != nil {
		t.Fatal(err)
	}
	n.held.fd = 1 << 20
	fresh := lookup(t, f, rootID, "f")
	if fresh == old {
		t.Fatal("another file with the inode number of a lost one is taken for it")
	}
	if _, s := getattr(f, fresh); s != fuse.OK {
		t.Errorf("the new file: %v", s)
	}
	if f.nodes.get(old) != n || f.nodes.find([]byte(n.key)).id != fresh {
		t.Error("the lost node is not known by its id alone")
	}
	f.Forget(old, 2)
	if f.nodes.get(old) != nil || f.nodes.find([]byte(n.key)).id != fresh {
		t.Error("forgetting the lost node takes the new one along")
	}
}

// A file of another type than the one that the inode number was known for is another
// one, whatever a server's client has cached of that.
func TestInodeNumberOfAnotherType(t *testing.T) {
	f, dir := withoutHandles(t, 100)
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	first := lookup(t, f, rootID, "f")
	if again := lookup(t, f, rootID, "f"); again != first {
		t.Fatalf("node %d, and then %d", first, again)
	}
	f.nodes.get(first).typ = unix.S_IFIFO
	if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: first}}, new(fuse.AttrOut)); s != fuse.Status(unix.ESTALE) {
		t.Errorf("attributes of a FIFO that is a regular file: %v, want ESTALE", s)
	}
	if s := f.Statx(nil, &fuse.StatxIn{InHeader: fuse.InHeader{NodeId: first}}, new(fuse.StatxOut)); s != fuse.Status(unix.ESTALE) {
		t.Errorf("statx of a FIFO that is a regular file: %v, want ESTALE", s)
	}
	second := lookup(t, f, rootID, "f")
	if n := f.nodes.get(second); second == first || n == nil || !n.isRegular() {
		t.Errorf("node %d is still that of a FIFO", second)
	}
	f.Forget(first, 1)
	f.Forget(second, 1)
}
