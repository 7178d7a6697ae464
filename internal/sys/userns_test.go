package sys

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestNewUserNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	const line = "0 100000 65536\n"
	for _, tt := range []struct{ name, uids, gids string }{
		{"both", line, line},
		{"several extents", "0 100000 10\n1000 5000 1\n", line},
		{"uids only", line, ""},
		{"gids only", "", line},
		{"identity", "0 0 4294967295\n", "0 0 4294967295\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns, err := NewUserNamespace(tt.uids, tt.gids)
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			typ, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE)
			if err != nil || typ != unix.CLONE_NEWUSER {
				t.Errorf("NS_GET_NSTYPE = %#x, %v", typ, err)
			}
		})
	}
	t.Run("leaves no child", func(t *testing.T) {
		if pid, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("wait4 = %d, %v; want no child", pid, err)
		}
	})
}

func TestNewUserNamespaceErrors(t *testing.T) {
	testenv.RequireRoot(t)
	for _, tt := range []struct {
		name, uids, gids, want string
	}{
		{"too long", strings.Repeat("1", os.Getpagesize()), "", "write uid_map (4096 bytes, the kernel takes 4095 at most): invalid argument"},
		{"too long gids", "", strings.Repeat("1", os.Getpagesize()), "write gid_map (4096 bytes, the kernel takes 4095 at most): invalid argument"},
		{"overlap", "0 0 10\n5 100 10\n", "", "write uid_map (of a new user namespace): invalid argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if os.Getpagesize() != 4096 {
				testenv.Skip(t, testenv.NeedKernel, "the texts are for pages of 4096 bytes")
			}
			ns, err := NewUserNamespace(tt.uids, tt.gids)
			if err == nil {
				ns.Close()
				t.Fatal("no error")
			}
			if err.Error() != tt.want || !errors.Is(err, unix.EINVAL) {
				t.Errorf("got %q, want %q", err, tt.want)
			}
		})
	}
}

// The child is a fork of a process whose other threads allocate, collect and
// get preempted: none of it may disturb the child or the parent's signals.
func TestNewUserNamespaceInBusyProcess(t *testing.T) {
	testenv.RequireRoot(t)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 3 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = make([]byte, 1<<16)
					runtime.Gosched()
				}
			}
		})
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				ns, err := NewUserNamespace("0 100000 65536\n", "0 100000 65536\n")
				if err != nil {
					t.Error(err)
					return
				}
				ns.Close()
			}
		})
	}
	wg.Wait()
	close(stop)
	busy.Wait()
}

func BenchmarkNewUserNamespace(b *testing.B) {
	testenv.RequireRoot(b)
	for b.Loop() {
		ns, err := NewUserNamespace("0 100000 65536\n", "0 100000 65536\n")
		if err != nil {
			b.Fatal(err)
		}
		ns.Close()
	}
}
