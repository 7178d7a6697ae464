package idmount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// onTransports runs a test with each way that requests reach the server.
func onTransports(t *testing.T, test func(t *testing.T, o idmount.Options)) {
	testenv.RequireRoot(t)
	for _, transport := range []idmount.Transport{idmount.TransportDevice, idmount.TransportRing} {
		for _, backend := range []idmount.Backend{idmount.Relay, idmount.Translate} {
			t.Run(fmt.Sprintf("%v/%s", transport, backend), func(t *testing.T) {
				if transport == idmount.TransportRing {
					testenv.IOUring(t)
				}
				test(t, idmount.Options{Map: parse(t, "b:0:0:65536"), Backend: backend, Transport: transport})
			})
		}
	}
}

// lockers have a lock of path held, and n more callers wait for it.
func lockers(t *testing.T, path string, n int) (release func(), waiters *sync.WaitGroup, results chan error) {
	t.Helper()
	holder, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Close() })
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	waiters, results = new(sync.WaitGroup), make(chan error, n)
	for range n {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		waiters.Go(func() {
			err := error(unix.EINTR)
			for err == unix.EINTR { // a signal of Go's own
				err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
			}
			results <- err
			f.Close()
		})
	}
	return func() { holder.Close() }, waiters, results
}

// TestWaitingRequests: callers that wait for a lock keep nobody else waiting.
func TestWaitingRequests(t *testing.T) {
	onTransports(t, func(t *testing.T, o idmount.Options) {
		const n = 200
		source := testenv.Source(t, "tmpfs")
		write(t, source+"/lock", "")
		target, _ := mount(t, source, o)
		release, waiters, results := lockers(t, target+"/lock", n)
		for i := range 100 {
			testenv.Returns(t, "a file beside the lock", func() {
				write(t, fmt.Sprintf("%s/f%d", target, i), "text")
			})
		}
		release()
		testenv.Returns(t, "a lock that is free", waiters.Wait)
		for range n {
			if err := <-results; err != nil {
				t.Errorf("flock: %v", err)
			}
		}
	})
}

// TestLeaseWaiters: callers that wait until somebody gives up a lease at the source keep
// nobody else waiting, whether they open the file or truncate it, and however many they
// are. Each waits until the lease is given up, or until it is killed.
func TestLeaseWaiters(t *testing.T) {
	onTransports(t, func(t *testing.T, o idmount.Options) {
		n := 1100
		if o.Transport == idmount.TransportRing {
			n = 400 // of the 500 that there may be
		}
		source := testenv.Source(t, "tmpfs")
		write(t, source+"/file", "text")
		write(t, source+"/other", "text")
		target, _ := mount(t, source, o)
		holder, err := os.OpenFile(source+"/file", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer holder.Close()
		lease(t, holder)
		var waiters sync.WaitGroup
		var done atomic.Int32
		for i := range n {
			waiters.Go(func() {
				err := error(unix.EINTR)
				for err == unix.EINTR { // a signal of Go's own
					if i%200 == 0 { // the kernel has one ask at a time
						err = unix.Truncate(target+"/file", 2)
						continue
					}
					var fd int
					if fd, err = unix.Open(target+"/file", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
						unix.Close(fd)
					}
				}
				done.Add(1)
				if err != nil {
					t.Errorf("waiter %d: %v", i, err)
				}
			})
		}
		testenv.WaitFor(t, "not all wait", func() bool { return inCalls(unix.SYS_OPENAT, unix.SYS_TRUNCATE) >= n })
		for i := range 20 {
			write(t, fmt.Sprintf("%s/f%d", target, i), "text")
			if _, err := os.ReadFile(target + "/other"); err != nil {
				t.Error(err)
			}
		}
		// After fs.lease-break-time, 45 s, the kernel takes the lease away, and nobody waits.
		if n := done.Load(); n > 0 {
			t.Errorf("%d waited no longer, as others did", n)
		}
		if fd, err := unix.Open(target+"/file", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != unix.EWOULDBLOCK {
			unix.Close(fd)
			t.Errorf("open with O_NONBLOCK: %v, want EWOULDBLOCK", err)
		}
		impatient := exec.Command("sh", "-c", "exec 3>>\"$1\"", "sh", target+"/file")
		if err := impatient.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // it waits, or is killed before: both are fine
		_ = impatient.Process.Kill()
		testenv.Returns(t, "a waiter that is killed", func() { _ = impatient.Wait() })
		if impatient.ProcessState.Exited() {
			t.Errorf("a waiter ended before it was killed: %v", impatient.ProcessState)
		}
		if n := done.Load(); n > 0 {
			t.Errorf("%d did not wait", n)
		}
		if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
			t.Error(err)
		}
		testenv.Returns(t, "a file without a lease is waited for", waiters.Wait)
		if st, err := os.Stat(source + "/file"); err != nil || st.Size() != 2 {
			t.Errorf("the file has been truncated: %v, %v", st, err)
		}
	})
}

// inCalls counts the threads of this process that wait in one of the system calls.
func inCalls(numbers ...int) (n int) {
	tasks, _ := filepath.Glob("/proc/self/task/*/syscall")
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		number, _, _ := strings.Cut(string(text), " ")
		if no, err := strconv.Atoi(number); err == nil && slices.Contains(numbers, no) {
			n++
		}
	}
	return n
}

// lease takes a lease of a file that is open for both, as soon as nobody else has it open.
func lease(t *testing.T, f *os.File) {
	t.Helper()
	testenv.WaitFor(t, "no lease can be had", func() bool {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
		return err == nil
	})
}

// TestForcedUnmount: callers whose requests wait are told that it is over, and
// the server ends.
func TestForcedUnmount(t *testing.T) {
	onTransports(t, func(t *testing.T, o idmount.Options) {
		source := testenv.Source(t, "tmpfs")
		write(t, source+"/lock", "")
		target, m := mount(t, source, o)
		_, waiters, _ := lockers(t, target+"/lock", 20)
		if err := unix.Unmount(target, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		testenv.Returns(t, "a request of a mount that is gone", waiters.Wait)
		gone(t, m.PID)
	})
}

// TestServerKilled: a server that dies leaves errors behind, and no caller that
// waits.
func TestServerKilled(t *testing.T) {
	onTransports(t, func(t *testing.T, o idmount.Options) {
		source := testenv.Source(t, "tmpfs")
		write(t, source+"/lock", "")
		target, m := mount(t, source, o)
		release, waiters, _ := lockers(t, target+"/lock", 20)
		if err := unix.Kill(m.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		testenv.Returns(t, "a request to a server that is dead", waiters.Wait)
		if _, err := os.Lstat(target + "/other"); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("lstat: %v, want ENOTCONN", err)
		}
		release()
		if err := unix.Unmount(target, 0); err != nil {
			t.Error(err)
		}
		gone(t, m.PID)
	})
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	testenv.WaitFor(t, fmt.Sprintf("process %d runs", pid), func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(text, []byte(") Z "))
	})
}

// TestData: what is written arrives, in pieces of all sizes and by many at once.
func TestData(t *testing.T) {
	onTransports(t, func(t *testing.T, o idmount.Options) {
		for _, pass := range []bool{true, false} {
			for _, mode := range []idmount.Cache{{Mode: idmount.CacheCoherent}, {Mode: idmount.CacheExclusive}} {
				o.NoPassthrough, o.Cache = !pass, mode
				source := testenv.Source(t, "ext4")
				target, _ := mount(t, source, o)
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() {
						transfer(t, filepath.Join(target, fmt.Sprint(i)), uint64(i), i%2 == 0 && o.Cache.Mode != idmount.CacheExclusive)
					})
				}
				wg.Wait()
			}
		}
	})
}

// transfer writes and reads pieces of a file, and compares with what it should
// have.
func transfer(t *testing.T, path string, seed uint64, direct bool) {
	flags := os.O_RDWR | os.O_CREATE
	if direct {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	const page, size = 4096, 6 << 20
	want := make([]byte, size)
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.Munmap(mem) }()
	r := rand.New(rand.NewPCG(seed, 0))
	random := rand.NewChaCha8([32]byte{byte(seed)})
	end := 0
	for range 15 {
		n, off := 1+r.IntN(2<<20), r.IntN(4<<20)
		if direct {
			n, off = (n+page-1)/page*page, off/page*page
		}
		piece := mem[:n]
		_, _ = random.Read(piece)
		if _, err := f.WriteAt(piece, int64(off)); err != nil {
			t.Errorf("write %d bytes at %d: %v", n, off, err)
			return
		}
		copy(want[off:], piece)
		end = max(end, off+n)
		from := r.IntN(end)
		if direct {
			from = from / page * page
		}
		got := mem[:min(size-from, (1+r.IntN(512))*page)]
		n, _ = f.ReadAt(got, int64(from))
		if n < min(len(got), end-from) || !bytes.Equal(got[:n], want[from:from+n]) {
			t.Errorf("%s: %d bytes at %d of %d are not what was written", path, n, from, end)
			return
		}
	}
}

func TestTransportSwitchedOff(t *testing.T) {
	testenv.RequireRoot(t)
	const path = "/sys/module/fuse/parameters/enable_uring"
	if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), "N") {
		testenv.Skip(t, testenv.NeedKernel, "FUSE over io_uring is on, or not there")
	}
	o := idmount.Options{Map: parse(t, "b:0:0:65536"), Backend: idmount.Translate, Transport: idmount.TransportRing, Daemon: testenv.Binary(t)}
	_, err := idmount.Mount(context.Background(), testenv.Source(t, "tmpfs"), testenv.Dir(t), o)
	if err == nil || !strings.Contains(err.Error(), "echo Y > "+path) {
		t.Errorf("Mount: %v, want how to switch it on", err)
	}
	if _, err := idmount.ParseTransport("ring"); err == nil || !strings.Contains(err.Error(), "auto, dev or uring") {
		t.Errorf("ParseTransport: %v", err)
	}
}
