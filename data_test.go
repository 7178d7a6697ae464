package idmount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// A store to a mapping of a file that was opened with O_APPEND goes where it
// belongs, and not to the end.
func TestMappedStoreWithAppend(t *testing.T) {
	source := testenv.Source(t, "ext4")
	for _, backend := range backends {
		for _, pass := range []bool{true, false} {
			for _, mode := range []os.FileMode{0o644, os.ModeSetgid | 0o775} {
				t.Run(fmt.Sprintf("%s/passthrough=%v/%v", backend, pass, mode), func(t *testing.T) {
					target, _ := mount(t, source, idmount.Options{Map: parse(t, "b:0:0:65536"), Backend: backend, NoPassthrough: !pass})
					below := filepath.Join(source, "f")
					write(t, below, "0123456789")
					if err := os.Chmod(below, mode); err != nil {
						t.Fatal(err)
					}
					f, err := os.OpenFile(filepath.Join(target, "f"), os.O_RDWR|os.O_APPEND, 0)
					if err != nil {
						t.Fatal(err)
					}
					defer f.Close()
					data, err := unix.Mmap(int(f.Fd()), 0, 10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
					if err != nil {
						t.Fatal(err)
					}
					copy(data[2:], "ab")
					if err := unix.Msync(data, unix.MS_SYNC); err != nil {
						t.Error(err)
					}
					if err := unix.Munmap(data); err != nil {
						t.Error(err)
					}
					if _, err := f.WriteString("end"); err != nil {
						t.Error(err)
					}
					if got, err := os.ReadFile(below); string(got) != "01ab456789end" || err != nil {
						t.Errorf("the source has %q, %v, want %q", got, err, "01ab456789end")
					}
				})
			}
		}
	}
}
