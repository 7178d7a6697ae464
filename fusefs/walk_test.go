package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// Two renames at the source, and look-ups between them, have the server remember two
// directories as each other's parents.
func TestCircleOfParentsIsStale(t *testing.T) {
	f, dir := withoutHandles(t, 4)
	mkdir := func(name string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mkdir("a")
	mkdir("a/b")
	a := lookup(t, f, rootID, "a")
	b := lookup(t, f, a, "b") // found in a
	for _, names := range [][2]string{{"a/b", "b"}, {"a", "b/a"}} {
		if err := os.Rename(filepath.Join(dir, names[0]), filepath.Join(dir, names[1])); err != nil {
			t.Fatal(err)
		}
	}
	if again := lookup(t, f, b, "a"); again != a { // found in b
		t.Fatalf("node %d, and then %d", a, again)
	}
	for i := range 100 { // which closes the descriptors of both
		name := fmt.Sprint(i)
		mkdir(name)
		lookup(t, f, rootID, name)
	}
	for _, id := range []uint64{a, b} {
		if _, s := getattr(f, id); s != fuse.Status(unix.ESTALE) {
			t.Errorf("a directory in a circle: %v, want ESTALE", s)
		}
	}
	// The kernel looks the path up again.
	if again := lookup(t, f, lookup(t, f, rootID, "b"), "a"); again != a {
		t.Errorf("node %d, and then %d", a, again)
	}
	for _, id := range []uint64{a, b} {
		if _, s := getattr(f, id); s != fuse.OK {
			t.Errorf("after look-ups: %v", s)
		}
	}
}

// Directories that are nested as deep as anybody likes cost neither the stack nor time
// without bound.
func TestDeepDirectoriesWithoutHandles(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t) // which is gone at once, however deep
	defer source.Close()
	dir := throughFD(source)
	f := withoutHandlesIn(t, dir, 100)
	const deep = 2*maxSteps + 1000
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ids := []uint64{rootID}
	at := root
	for range deep {
		if err := unix.Mkdirat(at, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, "d", unix.O_PATH|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			t.Fatal(err)
		}
		at = next
		ids = append(ids, lookup(t, f, ids[len(ids)-1], "d"))
	}
	unix.Close(at)
	if _, s := getattr(f, ids[deep]); s != fuse.OK {
		t.Errorf("the last directory: %v", s)
	}
	began := time.Now()
	if _, s := getattr(f, ids[maxSteps-1]); s != fuse.OK {
		t.Errorf("%d directories down: %v", maxSteps-1, s)
	}
	t.Logf("%d steps took %v", maxSteps, time.Since(began))
	for range 3 {
		lookup(t, f, rootID, "d")
	}
	began = time.Now()
	if _, s := getattr(f, ids[2*maxSteps]); s != fuse.OK && s != fuse.Status(unix.ESTALE) {
		t.Errorf("%d directories down: %v", 2*maxSteps, s)
	}
	t.Logf("took %v", time.Since(began))
	// On the way up, most have a descriptor, which the one below has left.
	for i := maxSteps - 1; i > maxSteps-300; i-- {
		if _, s := getattr(f, ids[i]); s != fuse.OK {
			t.Fatalf("%d directories down, on the way up: %v", i, s)
		}
	}
}
