package fusefs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// TestWaitsEndBeforeTheKernelsLimit: where the kernel aborts a connection with a request
// that is too old, who waits for a lock or a lease is answered before, may ask again, and
// the mount lives on.
func TestWaitsEndBeforeTheKernelsLimit(t *testing.T) {
	testenv.RequireRoot(t)
	if testing.Short() {
		testenv.Skip(t, testenv.ShortRun, "waits 40 s")
	}
	const limit, wait = 15 * time.Second, 40 * time.Second
	source := openTmpfs(t)
	f, err := New(source, Options{Map: idmap.Identity(), Transport: TransportDevice})
	if err != nil {
		t.Fatal(err)
	}
	f.timeout = uint16(limit / time.Second)
	tree := serve(t, f)
	t.Cleanup(func() { // when the files are closed
		tree.Close()
		f.Wait()
		source.Close()
	})
	if f.kernel.Flags&fuse.CAP_REQUEST_TIMEOUT == 0 {
		testenv.Skip(t, testenv.NeedKernel, "FUSE_REQUEST_TIMEOUT, Linux 6.15")
	}
	dir, mnt := throughFD(source), throughFD(tree)
	open := func(path string) *os.File {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	}
	noPoll(t, filepath.Join(mnt, "probe"))
	holder, waiter := open(filepath.Join(mnt, "lock")), open(filepath.Join(mnt, "lock"))
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(holder.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	leased := open(filepath.Join(dir, "lease"))
	testenv.WaitFor(t, "no lease can be had", func() bool {
		_, err := unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
		return err == nil
	})

	// repeat calls until there is another error than the one that says that it took too long.
	type outcome struct {
		err   error
		again int
	}
	repeat := func(tooLong unix.Errno, call func() error) <-chan outcome {
		done := make(chan outcome, 1)
		go func() {
			var o outcome
			for {
				began := time.Now()
				if o.err = call(); !errors.Is(o.err, tooLong) {
					break
				}
				// Go's own signals make EINTR as well.
				if time.Since(began) > limit/2 {
					o.again++
				}
			}
			done <- o
		}()
		return done
	}
	began := time.Now()
	waits := map[string]<-chan outcome{
		"lock": repeat(unix.EAGAIN, func() error {
			lock := unix.Flock_t{Type: unix.F_WRLCK}
			return unix.FcntlFlock(waiter.Fd(), unix.F_OFD_SETLKW, &lock)
		}),
		"lease": repeat(unix.EINTR, func() error {
			fd, err := unix.Open(filepath.Join(mnt, "lease"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}),
	}
	for time.Since(began) < wait {
		time.Sleep(time.Second)
		if _, err := os.Stat(filepath.Join(mnt, "lock")); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	}
	holder.Close()
	if _, err := unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Error(err)
	}
	for name, done := range waits {
		testenv.Returns(t, name+" is waited for", func() {
			if o := <-done; o.err != nil || o.again < 2 {
				t.Errorf("%s: %v, after %d waits that took too long", name, o.err, o.again)
			}
		})
	}
}
