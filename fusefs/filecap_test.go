package fusefs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

var fileCap = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // revision 2, CAP_NET_BIND_SERVICE

// A source that does not answer for one file with capabilities holds back no other.
func TestFileCapsWaitForNoOtherFile(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	f := new(FS)
	const files = 200
	fds := make([]int, files)
	nodes := make([]*node, files)
	for i := range files {
		path := filepath.Join(throughFD(source), fmt.Sprint(i))
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(path, xattrFileCap, fileCap, 0); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		fds[i], nodes[i] = int(file.Fd()), &node{id: uint64(i), typ: unix.S_IFREG}
	}
	hang, hangs := make(chan struct{}), make(chan struct{})
	first := make(chan unix.Errno)
	go func() {
		first <- f.keepFileCap(nodes[0], fds[0], invalidID, invalidID, func() unix.Errno { close(hangs); <-hang; return 0 })
	}()
	<-hangs
	others := make(chan struct{})
	go func() {
		defer close(others)
		for i := 1; i < files; i++ {
			if errno := f.keepFileCap(nodes[i], fds[i], invalidID, invalidID, func() unix.Errno { return 0 }); errno != 0 {
				t.Errorf("file %d: %v", i, errno)
			}
		}
	}()
	select {
	case <-others:
	case <-time.After(30 * time.Second):
		t.Error("other files wait for one that does not answer")
	}
	close(hang)
	<-others
	if errno := <-first; errno != 0 {
		t.Error(errno)
	}
	if n := len(f.capLocks.of); n != 0 {
		t.Errorf("%d locks are left", n)
	}
	for i, fd := range fds {
		if size, err := unix.Fgetxattr(fd, xattrFileCap, make([]byte, 24)); err != nil || size != len(fileCap) {
			t.Errorf("file %d: capabilities of %d bytes: %v", i, size, err)
		}
	}
}

// Capabilities that a chown(2) or setcap(8) at the source has removed or replaced during
// a change do not come back after it.
func TestFileCapsOfOthersMeanwhile(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	other := append([]byte{1, 0, 0, 2, 1}, fileCap[5:]...)
	for _, c := range []struct {
		name      string
		uid       uint32 // that the change gives the file
		meanwhile func(fd int) error
		want      []byte
	}{
		{"nothing", invalidID, func(int) error { return nil }, fileCap},
		{"chown", invalidID, func(fd int) error { return unix.Fchown(fd, 1000, -1) }, nil},
		{"chgrp", invalidID, func(fd int) error { return unix.Fchown(fd, -1, 1000) }, nil},
		{"the change is a chown", 1000, func(fd int) error { return unix.Fchown(fd, 1000, -1) }, fileCap},
		{"chown after that", 1000, func(fd int) error { return unix.Fchown(fd, 1001, -1) }, nil},
		{"setcap", invalidID, func(fd int) error { return unix.Fsetxattr(fd, xattrFileCap, other, 0) }, other},
	} {
		file, err := os.Create(filepath.Join(throughFD(source), c.name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		fd := int(file.Fd())
		if err := unix.Fsetxattr(fd, xattrFileCap, fileCap, 0); err != nil {
			t.Fatal(err)
		}
		errno := new(FS).keepFileCap(&node{typ: unix.S_IFREG}, fd, c.uid, invalidID, func() unix.Errno {
			if err := c.meanwhile(fd); err != nil {
				t.Error(err)
			}
			return 0
		})
		buf := make([]byte, maxFileCap)
		n, err := unix.Fgetxattr(fd, xattrFileCap, buf)
		if err != nil && err != unix.ENODATA {
			t.Error(err)
		}
		if got := buf[:max(n, 0)]; errno != 0 || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %v, capabilities %x, want %x", c.name, errno, got, c.want)
		}
	}
}
