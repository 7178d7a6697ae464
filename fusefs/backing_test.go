package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// servedTmpfs is a served file system over a tmpfs, with its directory and that
// of the mount. It skips without passthrough.
func servedTmpfs(t *testing.T) (f *FS, dir, mnt string) {
	t.Helper()
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	var err error
	if f, err = New(source, Options{Map: idmap.Identity()}); err != nil {
		t.Fatal(err)
	}
	tree := serve(t, f)
	t.Cleanup(func() {
		tree.Close()
		f.Wait()
		source.Close()
	})
	dir = throughFD(source)
	if err := os.WriteFile(filepath.Join(dir, "probe"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	noPoll(t, filepath.Join(throughFD(tree), "probe"))
	if out := openClose(t, f, "probe"); out.OpenFlags&fuse.FOPEN_PASSTHROUGH == 0 {
		testenv.Skip(t, testenv.NeedPassthru, fmt.Sprintf("OPEN answers %+v", out))
	}
	return f, dir, throughFD(tree)
}

// openClose opens a file of the root to be read, and closes it, as the kernel would.
func openClose(t *testing.T, f *FS, name string) fuse.OpenOut {
	t.Helper()
	return openCloseAs(t, f, name, unix.O_RDONLY)
}

func openCloseAs(t *testing.T, f *FS, name string, flags uint32) (out fuse.OpenOut) {
	t.Helper()
	in := fuse.OpenIn{Flags: flags}
	in.NodeId = lookup(t, f, rootID, name)
	if s := f.Open(nil, &in, &out); s != fuse.OK {
		t.Fatalf("open %s: %v", name, s)
	}
	release := fuse.ReleaseIn{InHeader: in.InHeader, Fh: out.Fh, Flags: in.Flags}
	f.Release(nil, &release)
	return out
}

// backingsOf counts the passthrough files of what is in the root.
func (f *FS) backingsOf(t *testing.T, names ...string) (n int) {
	t.Helper()
	for _, name := range names {
		id := lookup(t, f, rootID, name)
		u := f.nodes.get(id).uses()
		u.open.mu.Lock()
		if u.open.backing != 0 {
			n++
		}
		u.open.mu.Unlock()
		f.Forget(id, 1)
	}
	return n
}

// A file that is opened to be read, or again and again, has one passthrough file until
// it is not used for a while.
func TestBackingIsKept(t *testing.T) {
	f, dir, _ := servedTmpfs(t)
	for name, open := range map[string]struct {
		flags uint32
		times int // until it is kept
	}{
		"read":    {unix.O_RDONLY, 1},
		"written": {unix.O_WRONLY, 2},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		var id int32
		for time := range open.times {
			id = openCloseAs(t, f, name, open.flags).BackingID
			if n, want := f.backingsOf(t, name), (time+1)/open.times; n != want {
				t.Errorf("%s: %d passthrough files after %d times, want %d", name, n, time+1, want)
			}
		}
		again := 0
		for range 20 {
			if openCloseAs(t, f, name, open.flags).BackingID == id {
				again++
			}
		}
		if again < 10 { // a slow machine may have taken it back once or twice
			t.Errorf("%s: the passthrough file was used again %d times of 20", name, again)
		}
		testenv.WaitFor(t, name+" taken back", func() bool { return f.backingsOf(t, name) == 0 })
		if out := openCloseAs(t, f, name, open.flags); out.OpenFlags&fuse.FOPEN_PASSTHROUGH == 0 {
			t.Errorf("%s: after that: %+v, want passthrough", name, out)
		}
	}
}

// A file that the source deletes is not held until it has been unused for a while.
func TestBackingGoesWithNames(t *testing.T) {
	f, dir, _ := servedTmpfs(t)
	path := strings.Replace(filepath.Join(dir, "file"), "self", fmt.Sprint(os.Getpid()), 1)
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := lookup(t, f, rootID, "file")
	defer f.Forget(id, 1)
	testenv.WaitFor(t, "nothing else kept", func() bool { return f.backingsOf(t, "probe") == 0 })
	f.backings.mu.Lock()
	f.backings.timer = time.NewTimer(time.Hour) // nobody looks after them
	f.backings.mu.Unlock()
	openClose(t, f, "file")
	if out, err := exec.Command("rm", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	u := f.nodes.get(id).uses()
	testenv.WaitFor(t, "taken back", func() bool {
		u.open.mu.Lock()
		defer u.open.mu.Unlock()
		return u.open.backing == 0
	})
	if _, s := getattr(f, id); s != fuse.Status(unix.ESTALE) {
		t.Errorf("a deleted file: %v, want ESTALE", s)
	}
}

// The server has to see the writes to a file with set-id bits, whenever it got them.
// What others change it hears a moment later.
func TestBackingGoesWithSetID(t *testing.T) {
	f, dir, mnt := servedTmpfs(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for side, root := range map[string]string{"source": dir, "mount": mnt} {
		// By another process: what its own does the server takes for its own doing.
		path := strings.Replace(filepath.Join(root, "file"), "self", fmt.Sprint(os.Getpid()), 1)
		for _, mode := range []string{"755", "4755", "755", "2755"} {
			for range 3 {
				openClose(t, f, "file")
			}
			if out, err := exec.Command("chmod", mode, path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			passes := func() bool { return openClose(t, f, "file").OpenFlags&fuse.FOPEN_PASSTHROUGH != 0 }
			if side == "mount" && passes() != (mode == "755") {
				t.Errorf("mode %s, set on the mount: passthrough %v", mode, mode != "755")
			}
			testenv.WaitFor(t, "as mode "+mode+" wants", func() bool { return passes() == (mode == "755") })
		}
	}
}

func TestBackingsAreBounded(t *testing.T) {
	f, dir, _ := servedTmpfs(t)
	var names []string
	for i := range maxBackings + 50 {
		name := fmt.Sprint(i)
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		openClose(t, f, name)
		openClose(t, f, name)
	}
	if n := f.backingsOf(t, names...); n > maxBackings {
		t.Errorf("%d passthrough files are kept, want at most %d", n, maxBackings)
	}
	testenv.WaitFor(t, "all taken back", func() bool { return f.backingsOf(t, names...) == 0 })
}

// The blocks of a deleted file are free soon, and nobody at the source can tell
// that the server has used it.
func TestBackingPinsNothing(t *testing.T) {
	f, dir, mnt := servedTmpfs(t)
	free := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return st.Bfree
	}
	for _, side := range []string{mnt, dir} {
		before := free()
		if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 8<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		if now := free(); now > before-2000 {
			t.Fatalf("%d blocks are free with the file, and %d without", now, before)
		}
		testenv.WaitFor(t, "a lease on a file that is kept", func() bool {
			if f.backingsOf(t, "large") == 1 && leased(t, filepath.Join(dir, "large")) && f.backingsOf(t, "large") == 1 {
				return true
			}
			for range 2 {
				file, err := os.OpenFile(filepath.Join(mnt, "large"), os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				file.Close()
			}
			return false
		})
		if err := os.Remove(filepath.Join(side, "large")); err != nil {
			t.Fatal(err)
		}
		testenv.WaitFor(t, "blocks free", func() bool { return free() == before })
	}
}

// leased reports whether nobody else has a file open.
func leased(t *testing.T, path string) bool {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
	return err == nil
}
