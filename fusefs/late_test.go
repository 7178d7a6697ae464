package fusefs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// inUse counts the descriptors of open files.
func (t *openFiles) inUse() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.files[1:] {
		if o.node != nil && o.fd >= 0 {
			n++
		}
	}
	return n
}

// openedLate opens a file of the mount until the server has not opened it.
func openedLate(t *testing.T, f *FS, path string) *os.File {
	t.Helper()
	var file *os.File
	testenv.WaitFor(t, "opened by the kernel alone", func() bool {
		if file != nil {
			file.Close()
		}
		var err error
		if file, err = os.Open(path); err != nil {
			t.Fatal(err)
		}
		return f.files.inUse() == 0
	})
	t.Cleanup(func() { file.Close() })
	return file
}

// A file that the server has not opened can do all that others can, also when it
// has no name any more.
func TestLateFiles(t *testing.T) {
	f, dir, mnt := servedTmpfs(t)
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	source, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, unlinked := range []bool{false, true} {
		file := openedLate(t, f, filepath.Join(mnt, "file"))
		if n := f.files.inUse(); n != 0 {
			t.Fatalf("%d files are open before they are needed", n)
		}
		other := openedLate(t, f, filepath.Join(mnt, "file"))
		if unlinked {
			if err := os.Remove(filepath.Join(mnt, "file")); err != nil {
				t.Fatal(err)
			}
		}
		fd := int(file.Fd())

		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != 1<<20 || (st.Nlink == 0) != unlinked {
			t.Errorf("unlinked %v: fstat: %v, size %d, %d links", unlinked, err, st.Size, st.Nlink)
		}
		if b := make([]byte, 2); true {
			if n, err := file.ReadAt(b, 0); n != 2 || b[0] != 'x' || b[1] != 0 {
				t.Errorf("unlinked %v: read: %d bytes %q: %v", unlinked, n, b, err)
			}
		}
		if at, err := unix.Seek(fd, 0, unix.SEEK_HOLE); err != nil || at == 0 || at >= 1<<20 {
			t.Errorf("unlinked %v: SEEK_HOLE: %d: %v", unlinked, at, err)
		}
		if n := f.files.inUse(); n != 1 {
			t.Errorf("unlinked %v: %d files are open after SEEK_HOLE, want 1", unlinked, n)
		}
		if err := unix.Fsync(fd); err != nil {
			t.Errorf("unlinked %v: fsync: %v", unlinked, err)
		}
		if _, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); err != nil {
			t.Errorf("unlinked %v: FS_IOC_GETFLAGS: %v", unlinked, err)
		}
		if err := unix.Ftruncate(fd, 0); err != unix.EINVAL {
			t.Errorf("unlinked %v: ftruncate: %v, want EINVAL", unlinked, err)
		}

		// Locks are the source's, and each open file's own.
		if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
			t.Errorf("unlinked %v: flock: %v", unlinked, err)
		}
		for side, fd := range map[string]int{"source": int(source.Fd()), "mount": int(other.Fd())} {
			if err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err != unix.EWOULDBLOCK {
				t.Errorf("unlinked %v: flock on the %s: %v, want EWOULDBLOCK", unlinked, side, err)
			}
		}
		lock := unix.Flock_t{Type: unix.F_RDLCK, Len: 10}
		if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lock); err != nil {
			t.Errorf("unlinked %v: F_OFD_SETLK: %v", unlinked, err)
		}
		lock = unix.Flock_t{Type: unix.F_WRLCK, Len: 10}
		if err := unix.FcntlFlock(source.Fd(), unix.F_OFD_SETLK, &lock); err != unix.EAGAIN {
			t.Errorf("unlinked %v: F_OFD_SETLK on the source: %v, want EAGAIN", unlinked, err)
		}

		file.Close()
		testenv.WaitFor(t, "the lock gone", func() bool {
			return unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
		})
		other.Close()
		testenv.WaitFor(t, "closed in the server", func() bool { return f.files.inUse() == 0 })
		if err := unix.Flock(int(source.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Errorf("unlinked %v: flock on the source after close: %v", unlinked, err)
		}
		unix.Flock(int(source.Fd()), unix.LOCK_UN)
	}
}

// Who opens a file waits until others give up their leases, or have had enough.
func TestOpenWaitsForLease(t *testing.T) {
	f, dir, mnt := servedTmpfs(t)
	path := filepath.Join(dir, "file")
	for _, late := range []bool{false, true} {
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if late {
			openedLate(t, f, filepath.Join(mnt, "file")).Close()
		}
		holder, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		testenv.WaitFor(t, "a lease", func() bool {
			_, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
			return err == nil
		})
		// Not by this process, where a thread that never returns would stay.
		view := strings.Replace(filepath.Join(mnt, "file"), "self", fmt.Sprint(os.Getpid()), 1)
		began := time.Now()
		impatient := exec.Command("timeout", "0.1", "cat", view)
		if out, err := impatient.CombinedOutput(); impatient.ProcessState.ExitCode() != 124 {
			t.Errorf("late %v: open with a lease there: %v: %q, want it to wait until it is ended", late, err, out)
		}
		if took := time.Since(began); took > 30*time.Second { // lease-break-time is 45
			t.Errorf("late %v: it was ended after %v", late, took)
		}
		patient := exec.Command("cat", view)
		var out bytes.Buffer
		patient.Stdout = &out
		if err := patient.Start(); err != nil {
			t.Fatal(err)
		}
		testenv.WaitFor(t, "the lease asked for", func() bool {
			typ, err := unix.FcntlInt(holder.Fd(), unix.F_GETLEASE, 0)
			return err != nil || typ != unix.F_WRLCK
		})
		if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
			t.Error(err)
		}
		if err := patient.Wait(); err != nil || out.String() != "x" {
			t.Errorf("late %v: cat: %v: %q", late, err, out.String())
		}
		holder.Close()
		if err := os.Remove(filepath.Join(mnt, "file")); err != nil {
			t.Fatal(err)
		}
	}
}
