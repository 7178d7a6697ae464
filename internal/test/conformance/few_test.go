package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// fewLimits are the RLIMIT_NOFILE of TestFewDescriptors.
var fewLimits = []int{64, 256}

// TestFewDescriptors runs scenarios by servers that may have few descriptors: the answers
// are those of the native mount, and afterwards there is room left. A quick run has every
// tenth scenario, by one caller.
func TestFewDescriptors(t *testing.T) {
	testenv.RequireRoot(t)
	p := planFromEnv(t)
	if os.Getenv("IDMOUNT_SOURCES") == "" {
		p.sources = []string{"ext4", "overlay"}
		if p.full {
			p.sources = append(p.sources, "ramfs")
		}
	}
	p.maps = p.maps[:1]
	report := NewReport(slices.Concat(KnownDifferences, sourceDifferences))
	p.each(t, func(t *testing.T, b *bench) {
		for _, limit := range fewLimits {
			for _, backend := range p.backends {
				t.Run(fmt.Sprintf("%d/%s", limit, backend), func(t *testing.T) { p.fewDescriptors(t, b, limit, backend, report) })
			}
		}
	})
	t.Logf("%d cases", report.Cases)
	if text := report.summary(); text != "" {
		t.Logf("unexplained differences:\n%s", text)
	}
}

func (p plan) fewDescriptors(t *testing.T, b *bench, limit int, backend string, report *Report) {
	o := optionsFromEnv(t)
	o.Map, o.Backend, o.Daemon = b.m.IDMap(t), idmount.Backend(backend), limitedDaemon(t, limit)
	o.Stacking = "0" // passthrough wherever it is possible
	var servers []*fewServer
	b.each(t, func(w *worker) {
		w.mount = testenv.Dir(t)
		m, err := idmount.Mount(t.Context(), b.source, w.mount, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { testenv.Unmount(t, w.mount) })
		servers = append(servers, watchDescriptors(t, m.PID))
	})
	t.Run("cases", func(t *testing.T) {
		for i, s := range p.scenarios(b.fstype) {
			if !p.full && i%10 != 0 {
				continue
			}
			if group, _, _ := strings.Cut(s.Name, "/"); group == "kill" && limit < 256 && !opensByHandle(b.fstype) {
				continue // dozens of files with set-id bits are open at a time, each of which takes a descriptor
			}
			callers := p.callers(i)
			if !p.full {
				callers = callers[i/10%len(callers):][:1]
			}
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				w := <-b.workers
				defer func() { b.workers <- w }()
				w.pinned(t, func() { b.check(t, w, s, callers, backend, report) })
			})
		}
	})
	for _, s := range servers {
		s.check(t, limit)
	}
}

// opensByHandle reports whether files of a source open by handle. Of others, the server
// keeps those open that are read and written by requests.
func opensByHandle(fstype string) bool { return fstype != "overlay" && fstype != "ramfs" }

// limitedDaemon is a program that runs idmount with a limit on its descriptors.
func limitedDaemon(t testing.TB, limit int) string {
	t.Helper()
	path := filepath.Join(testenv.Dir(t), "idmount")
	script := fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec '%s' \"$@\"\n", limit, testenv.Binary(t))
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// fewServer is a server whose descriptors are counted.
type fewServer struct {
	pid  int
	most atomic.Int32
	end  func()
}

func watchDescriptors(t testing.TB, pid int) *fewServer {
	s := &fewServer{pid: pid}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				s.most.Store(max(s.most.Load(), int32(s.count())))
			}
		}
	}()
	s.end = sync.OnceFunc(func() { close(stop); <-done })
	t.Cleanup(s.end)
	return s
}

func (s *fewServer) count() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
	return len(entries)
}

// check is for the end, when nobody uses the mount.
func (s *fewServer) check(t testing.TB, limit int) {
	t.Helper()
	s.end()
	now := s.count()
	t.Logf("%d descriptors of %d, and %d at most", now, limit, s.most.Load())
	if now == 0 {
		t.Error("the server is not there")
	}
	// What is kept has its share, and the rest is for requests.
	if room := limit / 8; now > limit-room {
		t.Errorf("%d descriptors of %d are kept, want %d to be free", now, limit, room)
	}
}

// TestUsersLeaveDescriptors does what would use up the descriptors of a server that kept
// one for each, and then what others do.
func TestUsersLeaveDescriptors(t *testing.T) {
	testenv.RequireRoot(t)
	const limit, many = 256, 400
	for _, fstype := range []string{"ext4", "overlay"} {
		for _, backend := range defaultBackends {
			t.Run(fstype+"/"+backend, func(t *testing.T) {
				source, m := mounted(t, fstype), MapByName("identity")
				mnt := testenv.Dir(t)
				o := idmount.Options{Map: m.IDMap(t), Backend: idmount.Backend(backend), Daemon: limitedDaemon(t, limit), Stacking: "0"}
				mounted, err := idmount.Mount(t.Context(), source, mnt, o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { testenv.Unmount(t, mnt) })
				server := watchDescriptors(t, mounted.PID)
				others := func(after string) {
					t.Helper()
					for _, err := range []error{
						os.WriteFile(filepath.Join(mnt, "other"), []byte("text"), 0o644),
						os.Mkdir(filepath.Join(mnt, "otherdir"), 0o755),
						os.Remove(filepath.Join(mnt, "otherdir")),
						os.Remove(filepath.Join(mnt, "other")),
					} {
						if err != nil {
							t.Errorf("after %s: %v", after, err)
						}
					}
					if _, err := os.ReadDir(mnt); err != nil {
						t.Errorf("after %s: %v", after, err)
					}
					if n := server.count(); n > limit-limit/8 {
						t.Errorf("after %s: %d descriptors of %d", after, n, limit)
					}
				}
				name := func(i int) string { return filepath.Join(mnt, fmt.Sprint(i)) }

				for i := range many {
					if err := os.MkdirAll(name(i)+"/full", 0o755); err != nil {
						t.Fatal(err)
					}
					if err := unix.Rmdir(name(i)); err != unix.ENOTEMPTY {
						t.Errorf("rmdir: %v, want ENOTEMPTY", err)
					}
				}
				others("rmdir of full directories")
				var held []int
				for i := range many {
					fd, err := unix.Open(name(i)+"/full", unix.O_PATH|unix.O_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					held = append(held, fd)
					if err := os.RemoveAll(name(i)); err != nil {
						t.Error(err)
					}
				}
				others("removal of directories that are held")
				var st unix.Stat_t
				if err := unix.Fstat(held[many-1], &st); err != nil {
					t.Errorf("fstat of a directory that has just been removed: %v", err)
				}
				closeAll(held)

				var open []int
				for i := range many {
					fd, err := unix.Open(name(i), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
					if err != nil {
						t.Fatal(err)
					}
					open = append(open, fd)
				}
				others("files open for writing")
				for i, fd := range open {
					text := []byte(fmt.Sprint(i))
					if _, err := unix.Pwrite(fd, text, 0); err != nil {
						t.Errorf("write: %v", err)
					}
					if i%2 == 0 {
						if err := unix.Unlink(name(i)); err != nil {
							t.Error(err)
						}
					}
					if err := unix.Fsync(fd); err != nil {
						t.Errorf("fsync: %v", err)
					}
				}
				others("half of them unlinked")
				for i, fd := range open {
					got := make([]byte, 8)
					if n, err := unix.Pread(fd, got, 0); err != nil || string(got[:n]) != fmt.Sprint(i) {
						t.Errorf("file %d: read %q: %v", i, got[:n], err)
					}
				}
				closeAll(open)
				for i := 1; i < many; i += 2 {
					if err := os.Link(name(i), name(i)+"l"); err != nil {
						t.Error(err)
					}
					if err := os.Remove(name(i)); err != nil {
						t.Error(err)
					}
				}
				others("removal of one link of two")
				server.check(t, limit)
			})
		}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
