package sys

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestRing(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := NewRing(2)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		testenv.Skip(t, testenv.NeedKernel, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	// More often than there are entries: each is used again.
	for i := range 20 {
		fd, want := -1, unix.EBADF
		if i%2 == 1 {
			fd, want = int(null.Fd()), unix.EOPNOTSUPP // /dev/null takes no command of this number
		}
		ring.Command(fd, 12345, nil, [32]byte{})
		if err := ring.Submit(true); err != nil {
			t.Fatal(err)
		}
		if errno, ok := ring.Refused(); want == unix.EBADF && (!ok || errno != want) {
			t.Errorf("command %d: refused %v, %v; want %v", i, errno, ok, want)
		}
		errno, ok := ring.Completed()
		if !ok || want == unix.EBADF && errno != want {
			t.Errorf("command %d: completed %v, %v; want %v", i, errno, ok, want)
		}
		if errno, ok := ring.Completed(); ok {
			t.Errorf("command %d is completed twice: %v", i, errno)
		}
	}
}

func TestPossibleCPUs(t *testing.T) {
	n, err := PossibleCPUs()
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	if online := strings.Count(string(stat), "\ncpu"); n < online {
		t.Errorf("%d possible processors, and %d are there", n, online)
	}
}
