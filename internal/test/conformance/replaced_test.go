package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// TestReplacedName: a name that rename(2) replaces all the time is always there.
// The kernel looks again after one ESTALE, and not after a second.
func TestReplacedName(t *testing.T) {
	testenv.RequireRoot(t)
	m := MapByName("identity")
	for _, fstype := range []string{"ext4", "tmpfs", "overlay"} {
		t.Run(fstype, func(t *testing.T) {
			source := testenv.Source(t, fstype)
			for name, cache := range map[string]idmount.Cache{
				"coherent":  {},
				"ttl":       {Mode: idmount.CacheTTL, TTL: 50 * time.Millisecond},
				"none":      {Mode: idmount.CacheNone},
				"exclusive": {Mode: idmount.CacheExclusive},
			} {
				t.Run(name, func(t *testing.T) {
					mnt := MountWith(t, source, m, "translate", idmount.Options{Cache: cache})
					if name != "exclusive" { // which is not for changes of others
						t.Run("source", func(t *testing.T) { replaced(t, source, mnt) })
					}
					t.Run("mount", func(t *testing.T) { replaced(t, mnt, mnt) })
				})
			}
		})
	}
}

// replaced replaces a file below dir, and has it used below mnt meanwhile.
func replaced(t *testing.T, dir, mnt string) {
	name := fmt.Sprintf("file%d", cases.Add(1))
	file := filepath.Join(dir, name)
	fill := func(path string) error { return os.WriteFile(path, []byte("data"), 0o666) }
	if err := fill(file); err != nil {
		t.Fatal(err)
	}
	const times = 300
	var end atomic.Bool
	var users sync.WaitGroup
	seen := filepath.Join(mnt, name)
	for what, use := range map[string]func() error{
		"open":          func() error { return tryOpen(seen, unix.O_RDONLY) },
		"open to write": func() error { return tryOpen(seen, unix.O_RDWR) },
		"create":        func() error { return tryOpen(seen, unix.O_RDWR|unix.O_CREAT) },
		"stat":          func() error { var st unix.Stat_t; return unix.Stat(seen, &st) },
		"chmod":         func() error { return unix.Chmod(seen, 0o666) },
	} {
		users.Go(func() {
			calls, failed := 0, map[error]int{}
			for ; !end.Load(); calls++ {
				if err := use(); err != nil {
					failed[err]++
				}
			}
			if len(failed) > 0 {
				t.Errorf("%s: of %d calls, failed: %v", what, calls, failed)
			}
		})
	}
	for i := range times {
		next := fmt.Sprintf("%s.%d", file, i%2)
		if err := fill(next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
	}
	end.Store(true)
	users.Wait()
}

func tryOpen(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o666)
	if err == nil {
		unix.Close(fd)
	}
	return err
}
