package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// A source that does not answer for one file with capabilities holds back no other.
func TestFileCapsWaitForNoOtherFile(t *testing.T) {
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	defer source.Close()
	fileCap := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // revision 2, CAP_NET_BIND_SERVICE
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
		first <- f.keepFileCap(nodes[0], fds[0], func() unix.Errno { close(hangs); <-hang; return 0 })
	}()
	<-hangs
	others := make(chan struct{})
	go func() {
		defer close(others)
		for i := 1; i < files; i++ {
			if errno := f.keepFileCap(nodes[i], fds[i], func() unix.Errno { return 0 }); errno != 0 {
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
