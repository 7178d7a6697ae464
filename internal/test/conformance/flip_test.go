package conformance

import (
	"encoding/json"
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

func init() { testenv.Handle("hammer chmod", hammerChmod) }

// hammerChmod has the caller set S_ISUID of a file for a time, by its name, by a
// descriptor and by a new one, and counts how often that worked.
func hammerChmod(arg json.RawMessage) (any, error) {
	var q struct {
		Path string
		For  time.Duration
	}
	if err := json.Unmarshal(arg, &q); err != nil {
		return nil, err
	}
	fd, err := unix.Open(q.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var set, bad int
	for end := time.Now().Add(q.For); time.Now().Before(end); {
		var st unix.Stat_t
		_ = unix.Stat(q.Path, &st)
		for _, err := range []error{unix.Chmod(q.Path, 0o4755), unix.Fchmod(fd, 0o4755), unix.Chmod(q.Path, 0o6755)} {
			switch err {
			case nil:
				set++
			case unix.EPERM:
			default:
				bad++
			}
		}
	}
	return [2]int{set, bad}, nil
}

// TestChmodWhileOwnerFlips: chown(2) clears S_ISUID, and nobody but the owner sets it. So
// a program of a user's is never root's and set-user-ID, whenever the owner changes.
func TestChmodWhileOwnerFlips(t *testing.T) {
	testenv.RequireRoot(t)
	m := Maps[0]
	for _, fstype := range []string{"ext4", "overlay"} {
		t.Run(fstype, func(t *testing.T) {
			source := testenv.Source(t, fstype)
			for name, c := range map[string]struct {
				backend string
				cache   idmount.Cache
			}{
				"relay coherent":     {"relay", idmount.Cache{}},
				"translate coherent": {"translate", idmount.Cache{}},
				"relay ttl":          {"relay", idmount.Cache{Mode: idmount.CacheTTL, TTL: time.Hour}},
				"translate ttl":      {"translate", idmount.Cache{Mode: idmount.CacheTTL, TTL: time.Hour}},
				"translate none":     {"translate", idmount.Cache{Mode: idmount.CacheNone}},
			} {
				t.Run(name, func(t *testing.T) {
					mnt := MountWith(t, source, m, c.backend, idmount.Options{Cache: c.cache})
					flip(t, m, source, mnt)
				})
			}
		})
	}
}

func flip(t *testing.T, m *Map, source, mnt string) {
	dir, err := os.MkdirTemp(source, "flip")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "program")
	if err := os.WriteFile(file, []byte("by a user"), 0o755); err != nil {
		t.Fatal(err)
	}
	uid, gid := m.owner("AA")
	if err := os.Chown(file, uid, gid); err != nil {
		t.Fatal(err)
	}
	var users []*testenv.Agent
	for range 2 {
		users = append(users, testenv.StartAgent(t, CallerByName("user-A").Make(m)))
	}
	var done sync.WaitGroup
	var left atomic.Int32
	var set, bad atomic.Int64
	for _, user := range users {
		left.Add(1)
		done.Go(func() {
			defer left.Add(-1)
			var result [2]int
			q := map[string]any{"Path": filepath.Join(mnt, filepath.Base(dir), "program"), "For": time.Second}
			if err := user.Call("hammer chmod", q, &result); err != nil {
				t.Error(err)
			}
			set.Add(int64(result[0]))
			bad.Add(int64(result[1]))
		})
	}
	flips := 0
	for ; left.Load() > 0; flips++ {
		if err := os.Chown(file, 0, 0); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			var st unix.Stat_t
			if err := unix.Stat(file, &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid == 0 && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
				t.Fatalf("after %d changes of the owner the file is root's, with mode %#o", flips, st.Mode)
			}
		}
		if err := os.Chown(file, uid, gid); err != nil {
			t.Fatal(err)
		}
		if flips%8 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	done.Wait()
	t.Logf("%d changes of the owner, S_ISUID set %d times", flips, set.Load())
	if set.Load() == 0 {
		t.Error("the owner could never set S_ISUID")
	}
	if bad.Load() > 0 {
		t.Errorf("%d calls failed otherwise than with EPERM", bad.Load())
	}
}
