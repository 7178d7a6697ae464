package fusefs

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// limitDescriptors lets this process open no more than n further descriptors, until
// what it returns is called.
func limitDescriptors(t testing.TB, n int) (restore func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	free, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0) // the lowest number that is free
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(free)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free + n), Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	restore = sync.OnceFunc(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(restore)
	return restore
}

// That there was no descriptor for a moment says nothing about the handles of a mount.
func TestMountIsNotJudgedWithoutDescriptors(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.PrivateMounts(t)
	dir := testenv.Dir(t)
	testenv.Mount(t, "tmpfs", dir, "mode=0755")
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.Mount(t, "tmpfs", sub, "mode=0755")
	source, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	f, err := New(source, Options{Map: idmap.Identity()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	fd, errno := openPath(int(source.Fd()), "sub")
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(fd)
	const id = 1 << 30 // of no mount that is known
	restore := limitDescriptors(t, 0)
	m, errno := f.mounts.get(id, fd, true)
	restore()
	if m != nil || errno != unix.ENFILE {
		t.Errorf("without descriptors: %v, %v, want ENFILE", m, errno)
	}
	if m, errno := f.mounts.get(id, fd, true); m == nil || errno != 0 {
		t.Errorf("with descriptors: %v, %v, want a mount with handles", m, errno)
	}
}
