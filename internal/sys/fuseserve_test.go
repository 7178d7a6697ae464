package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// answerInit reads INIT, and answers it with errno or the least that the kernel takes.
func answerInit(t *testing.T, dev *os.File, errno unix.Errno) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(int(dev.Fd()), buf)
	if err != nil || n < 56 || binary.NativeEndian.Uint32(buf[4:]) != 26 {
		t.Errorf("read INIT: %d bytes, %v", n, err)
		return
	}
	out := make([]byte, 16+64)
	if errno != 0 {
		out = out[:16]
	}
	binary.NativeEndian.PutUint32(out, uint32(len(out)))
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
	copy(out[8:16], buf[8:16])
	if errno == 0 {
		binary.NativeEndian.PutUint32(out[16:], 7)
		binary.NativeEndian.PutUint32(out[20:], 31)
		binary.NativeEndian.PutUint32(out[36:], 1<<20) // max_write
	}
	if _, err := unix.Write(int(dev.Fd()), out); err != nil {
		t.Errorf("answer INIT: %v", err)
	}
}

func hasSyncInit(t *testing.T) bool {
	t.Helper()
	dev, err := OpenFuseDevice(FuseDevice)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	return fuseSyncInit(int(dev.Fd())) == 0
}

// TestFuseMountServed makes mounts in both orders. The last ones fail at each step: all
// calls return, read(2) of the device included.
func TestFuseMountServed(t *testing.T) {
	testenv.PrivateMounts(t)
	long := "/" + strings.Repeat("long/", 60)
	refused := errors.New("not served")
	for _, early := range []bool{false, true} {
		for _, source := range []string{"/the/source", long} {
			o := FuseMountOptions{Source: source, Subtype: "idmount", ServeEarly: early}
			tree, err := FuseMountServed(o, func(dev *os.File) error {
				answerInit(t, dev, 0)
				return nil
			})
			if err != nil {
				t.Fatalf("early %t: %v", early, err)
			}
			tree.Close()

			for name, serve := range map[string]func(dev *os.File) error{
				"refused": func(dev *os.File) error { answerInit(t, dev, unix.EIO); return refused },
				"unread":  func(*os.File) error { return refused },
			} {
				tree, err = FuseMountServed(o, serve)
				if tree != nil || !errors.Is(err, refused) {
					t.Errorf("early %t, %s: %v, %v", early, name, tree, err)
				}
				if early && hasSyncInit(t) && !errors.Is(err, unix.ENOTCONN) {
					t.Errorf("%s: %v, want the mount to fail, too", name, err)
				}
			}
		}
		// Refused before there is a connection, so that read(2) would wait for ever.
		o := FuseMountOptions{Source: "/the/source", MaxRead: 1 << 40, ServeEarly: early}
		_, err := FuseMountServed(o, func(*os.File) error { t.Error("served"); return nil })
		if err == nil || !strings.Contains(err.Error(), "max_read=1099511627776") {
			t.Errorf("early %t: %v", early, err)
		}
	}
}

// TestFuseMountEarlyOldKernel is FuseMountServed on a kernel that answers ENOTTY to
// FUSE_DEV_IOC_SYNC_INIT.
func TestFuseMountEarlyOldKernel(t *testing.T) {
	testenv.PrivateMounts(t)
	refused := errors.New("not served")
	for _, fail := range []bool{false, true} {
		dev, err := OpenFuseDevice(FuseDevice)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := fuseMountEarly(FuseMountOptions{Source: "/the/source"}, dev, func(dev *os.File) error {
			if fail {
				return refused
			}
			answerInit(t, dev, 0)
			return nil
		})
		if errors.Is(err, refused) != fail || tree == nil {
			t.Errorf("fail %t: %v, %v", fail, tree, err)
		}
		tree.Close()
		dev.Close()
	}
}

// TestWithCreationLabel has a file in place of the thread's: what is written is seen, and
// the kernel's own is refused without SELinux.
func TestWithCreationLabel(t *testing.T) {
	path := t.TempDir() + "/fscreate"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const label = "u:object_r:t:s0\x00"
	called := false
	errno := WithCreationLabel(path, []byte(label), func() {
		called = true
		if text, err := os.ReadFile(path); err != nil || string(text) != label {
			t.Errorf("in the call: %q, %v", text, err)
		}
	})
	if errno != 0 || !called {
		t.Errorf("%v, called %t", errno, called)
	}
	if errno := WithCreationLabel(path+"/none", []byte(label), func() { t.Error("called") }); errno != unix.ENOTDIR {
		t.Errorf("got %v", errno)
	}
	if RunsSELinux() {
		return
	}
	if errno := WithCreationLabel(CreationLabel, []byte(label), func() { t.Error("called") }); errno == 0 {
		t.Error("a kernel without SELinux takes a label")
	}
}

// TestFuseMountEarlyRequests has a request come as soon as INIT is answered, as SELinux
// sends one while the mount is being made.
func TestFuseMountEarlyRequests(t *testing.T) {
	testenv.PrivateMounts(t)
	done := make(chan struct{})
	var refusing sync.WaitGroup
	tree, err := FuseMountServed(FuseMountOptions{Source: "early", ServeEarly: true}, func(dev *os.File) error {
		answerInit(t, dev, 0)
		fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		refusing.Go(func() {
			again := os.NewFile(uintptr(fd), "fuse")
			defer again.Close()
			FuseRefuse(again, done)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	path := "/proc/self/fd/" + strconv.Itoa(int(tree.Fd()))
	if _, err := unix.Getxattr(path, "security.selinux", make([]byte, 10)); err != unix.ENODATA {
		t.Errorf("getxattr: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != unix.ENOSYS {
		t.Errorf("statfs: %v", err)
	}
	close(done)
	refusing.Wait()
	tree.Close()
}
