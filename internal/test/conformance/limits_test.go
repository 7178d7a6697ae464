package conformance

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// limit is something that a native mount does and a FUSE mount can't.
type limit struct {
	name   string
	source string // file system type; "" is ext4
	try    func(t *testing.T, src, mnt string) string
	native string // what try says on a native mount
	fuse   string // what it says on a FUSE mount
	doc    string // words of docs/semantics.md that say so

	mayBeNative bool // on a FUSE mount, too, at times
}

var limits = []limit{
	{
		name: "syncfs", try: trySyncfs,
		native: "on disk", fuse: "not on disk", doc: "syncfs(2)",
	},
	{
		name: "swapon", try: trySwapon,
		native: "ok", fuse: "EINVAL", doc: "swapon(2)",
	},
	{
		name: "freeze", try: tryFreeze,
		native: "ok", fuse: "ENOTSUP", doc: "FIFREEZE",
	},
	{
		name: "trim", try: tryTrim,
		native: "ok or EOPNOTSUPP", fuse: "ENOTTY", doc: "FITRIM",
	},
	{
		name: "fifo", try: tryFIFO,
		native: "a reader is there", fuse: "ENXIO", doc: "FIFO",
	},
	{
		name: "socket bound in the source", try: trySocket,
		native: "connected", fuse: "ECONNREFUSED", doc: "UNIX socket",
	},
	{
		name: "socket bound in the mount", try: func(t *testing.T, src, mnt string) string { return trySocket(t, mnt, src) },
		native: "connected", fuse: "ECONNREFUSED", doc: "UNIX socket",
	},
	{
		name: "write to a running program", try: tryWriteRunning,
		native: "ETXTBSY", fuse: "ok", doc: "ETXTBSY",
	},
	{
		name: "run a program open to write", try: tryRunWritten,
		native: "ETXTBSY", fuse: "ok", doc: "ETXTBSY",
	},
	{
		name: "list beside a change that waits for a thaw", try: tryFrozen,
		native: "at once", fuse: "after the thaw", doc: "frozen", mayBeNative: true,
	},
	{
		name: "maps", source: "overlay", try: tryMaps,
		fuse: "/prog", doc: "/proc/PID/maps",
	},
	{
		name: "remove a mount point at the source", try: tryMountPoint,
		native: "EBUSY, the mount stays", fuse: "ok, the mount is gone", doc: "mount point",
	},
	{
		name: "lseek", try: tryLseek,
		native: "EINVAL", fuse: "ok", doc: "lseek(2)",
	},
}

// TestLimits holds docs/semantics.md to what FUSE mounts do, and native ones.
func TestLimits(t *testing.T) {
	testenv.RequireRoot(t)
	text, err := os.ReadFile("../../../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	same := &Map{Name: "same", UIDs: []Extent{{0, 0, 65536}}, GIDs: []Extent{{0, 0, 65536}}}
	for _, l := range limits {
		t.Run(l.name, func(t *testing.T) {
			if !strings.Contains(string(text), l.doc) {
				t.Errorf("docs/semantics.md says nothing of %s", l.doc)
			}
			for _, backend := range []string{"native", "relay", "translate"} {
				want := l.fuse
				if backend == "native" {
					want = l.native
				}
				if want == "" {
					continue
				}
				t.Run(backend, func(t *testing.T) {
					fstype := l.source
					if fstype == "" {
						fstype = "ext4"
					}
					src := testenv.Source(t, fstype)
					mnt := MountWith(t, src, same, backend, optionsFromEnv(t))
					if got := l.try(t, src, mnt); got != want && !(l.mayBeNative && got == l.native) {
						t.Errorf("%q, want %q", got, want)
					}
				})
			}
		})
	}
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return ErrText(err)
}

// trySyncfs looks at a copy of the disk, which is what a loss of power leaves.
func trySyncfs(t *testing.T, src, mnt string) string {
	device := blockDevice(t, src)
	if err := unix.Mount("", src, "", unix.MS_REMOUNT, "commit=300"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mnt+"/f", []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(mnt)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Syncfs(int(root.Fd()))
	root.Close()
	if err != nil {
		return outcome(err)
	}
	image := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("dd", "if="+device, "of="+image, "iflag=direct", "bs=1M", "conv=sparse").CombinedOutput(); err != nil {
		t.Fatalf("dd: %v: %s", err, out)
	}
	later := testenv.Dir(t)
	if out, err := exec.Command("mount", "-o", "loop", image, later).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	defer testenv.Unmount(t, later)
	if got, _ := os.ReadFile(later + "/f"); string(got) != "precious" {
		return "not on disk"
	}
	return "on disk"
}

func blockDevice(t *testing.T, dir string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	name, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		t.Fatal(err)
	}
	return "/dev/" + filepath.Base(name)
}

func trySwapon(t *testing.T, src, mnt string) string {
	if err := os.WriteFile(src+"/swap", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkswap", src+"/swap").CombinedOutput(); err != nil {
		t.Fatalf("mkswap: %v: %s", err, out)
	}
	path, err := unix.BytePtrFromString(mnt + "/swap")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		return outcome(errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		t.Fatalf("swapoff: %v", errno)
	}
	return "ok"
}

// Of linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
	fiTrim   = 0xc0185879
)

// treeIoctl is for calls about the whole file system of a directory.
func treeIoctl(t *testing.T, path string, request uint, arg unsafe.Pointer) error {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return ioctl(fd, request, arg)
}

func tryFreeze(t *testing.T, _, mnt string) string {
	if err := treeIoctl(t, mnt, fiFreeze, nil); err != nil {
		return outcome(err)
	}
	return outcome(treeIoctl(t, mnt, fiThaw, nil))
}

func tryTrim(t *testing.T, _, mnt string) string {
	all := [3]uint64{0, ^uint64(0), 0} // struct fstrim_range: start, length, least extent
	err := treeIoctl(t, mnt, fiTrim, unsafe.Pointer(&all))
	if err == nil || err == unix.EOPNOTSUPP { // as the disk below can
		return "ok or EOPNOTSUPP"
	}
	return outcome(err)
}

// tryFIFO opens one side in the mount and the other in the source.
func tryFIFO(t *testing.T, src, mnt string) string {
	if err := unix.Mkfifo(src+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := unix.Open(mnt+"/fifo", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(reader)
	writer, err := unix.Open(src+"/fifo", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome(err)
	}
	unix.Close(writer)
	return "a reader is there"
}

func trySocket(t *testing.T, bind, connect string) string {
	listener, err := net.Listen("unix", bind+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", connect+"/socket")
	if err != nil {
		return outcome(err.(*net.OpError).Err.(*os.SyscallError).Err)
	}
	conn.Close()
	return "connected"
}

// program puts one that waits for the end of its input at a path.
func program(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

// running runs a program until the test ends. It returns its process when it has
// answered, and so has been executed.
func running(t *testing.T, path string) int {
	t.Helper()
	cmd := exec.Command(path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func tryWriteRunning(t *testing.T, src, mnt string) string {
	program(t, src+"/prog")
	running(t, mnt+"/prog")
	fd, err := unix.Open(src+"/prog", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return outcome(err)
}

func tryRunWritten(t *testing.T, src, mnt string) string {
	program(t, src+"/prog")
	fd, err := unix.Open(src+"/prog", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = output(mnt + "/prog")
	return outcome(err)
}

// tryFrozen lists a directory in which somebody is about to make another, while the
// source is frozen.
func tryFrozen(t *testing.T, src, mnt string) string {
	if err := treeIoctl(t, src, fiFreeze, nil); err != nil {
		t.Fatal(err)
	}
	frozen := true
	thaw := func() {
		if frozen {
			frozen = false
			if err := treeIoctl(t, src, fiThaw, nil); err != nil {
				t.Error(err)
			}
		}
	}
	defer thaw()
	maker := begin(func() error { return unix.Mkdirat(unix.AT_FDCWD, mnt+"/new", 0o755) })
	testenv.WaitFor(t, "mkdirat(2) does not wait", func() bool { return maker.waits(unix.SYS_MKDIRAT) })
	dir, err := os.Open(mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	lister := begin(func() error {
		_, err := unix.Getdents(int(dir.Fd()), make([]byte, 4096))
		return err
	})
	result := "at once"
	testenv.WaitFor(t, "getdents64(2) neither ends nor waits", func() bool {
		if lister.waits(unix.SYS_GETDENTS64) {
			result = "after the thaw"
			return true
		}
		return len(lister.done) > 0
	})
	thaw()
	for _, c := range []*call{maker, lister} {
		if err := <-c.done; err != nil {
			t.Error(err)
		}
	}
	return result
}

// call is a system call in a thread of its own.
type call struct {
	tid  int
	done chan error
}

func begin(fn func() error) *call {
	c := &call{done: make(chan error, 1)}
	started := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		c.tid = unix.Gettid()
		close(started)
		c.done <- fn()
	}()
	<-started
	return c
}

// waits reports whether the thread is in a system call each time that it is looked at,
// for a while.
func (c *call) waits(number int) bool {
	for range 10 {
		if !c.inside(number) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// inside reports whether the thread sleeps in a system call.
func (c *call) inside(number int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", c.tid))
	first, _, _ := strings.Cut(string(text), " ")
	return err == nil && first == fmt.Sprint(number)
}

func tryMaps(t *testing.T, src, mnt string) string {
	program(t, src+"/prog")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", running(t, mnt+"/prog")))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 6 && strings.HasSuffix(fields[5], "/prog") {
			return fields[5]
		}
	}
	return "not there"
}

func tryMountPoint(t *testing.T, src, mnt string) string {
	if err := os.Mkdir(src+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("inside", mnt+"/d", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(mnt+"/d", unix.MNT_DETACH)
	if err := os.WriteFile(mnt+"/d/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	there := func() bool { _, err := os.Lstat(mnt + "/d/f"); return err == nil }
	if err := unix.Rmdir(src + "/d"); err != nil {
		if there() {
			return outcome(err) + ", the mount stays"
		}
		return outcome(err) + ", the mount is gone"
	}
	testenv.WaitFor(t, "the mount stays", func() bool { return !there() })
	return "ok, the mount is gone"
}

func tryLseek(t *testing.T, src, mnt string) string {
	if err := os.WriteFile(src+"/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(mnt+"/f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = unix.Seek(fd, 1<<45, unix.SEEK_SET)
	return outcome(err)
}
