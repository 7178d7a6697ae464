package sys_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// Events have to name files exactly as HandleAt does: nothing else ties them
// to the files that a server knows.
func TestChangesNameFilesAsHandleAtDoes(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(fstype, func(t *testing.T) {
			path := testenv.Source(t, fstype)
			dir, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			changes, err := sys.NewChanges()
			if errors.Is(err, unix.EINVAL) {
				testenv.Skip(t, testenv.NeedKernel, "fanotify with names, Linux 5.9")
			}
			if err != nil {
				t.Fatal(err)
			}
			defer changes.Close()
			if err := changes.Add(dir); err != nil {
				t.Fatal(err)
			}
			var st unix.Statfs_t
			if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			fsid := sys.FSID(&st)
			file := filepath.Join(path, "file")
			if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, 0o640); err != nil {
				t.Fatal(err)
			}
			wantDir, wantFile := handle(t, dir, ""), handle(t, dir, "file")
			if err := os.Chmod(path, 0o750); err != nil {
				t.Fatal(err)
			}
			seen := map[uint64]bool{}
			seenDir := false
			for !seen[unix.FAN_CREATE] || !seen[unix.FAN_MODIFY] || !seen[unix.FAN_ATTRIB] || !seenDir {
				err := changes.Read(func(c *sys.Change) {
					if c.FSID != fsid || int(c.Pid) != os.Getpid() {
						t.Errorf("event of file system %x by %d, want %x by %d", c.FSID, c.Pid, fsid, os.Getpid())
					}
					for _, bit := range []uint64{unix.FAN_CREATE, unix.FAN_MODIFY, unix.FAN_ATTRIB} {
						if c.Mask&bit == 0 {
							continue
						}
						if c.Mask&unix.FAN_ONDIR != 0 && bit == unix.FAN_ATTRIB {
							if string(c.File) != wantDir || c.Name != nil {
								t.Errorf("mask %#x: file %x, name %q, want %x and none", c.Mask, c.File, c.Name, wantDir)
							}
							seenDir = true
							continue
						}
						seen[bit] = true
						if string(c.Name) == "file" && string(c.Dir) != wantDir {
							t.Errorf("mask %#x: directory %x, want %x", c.Mask, c.Dir, wantDir)
						}
						if bit == unix.FAN_CREATE {
							if string(c.Name) != "file" {
								t.Errorf("name %q, want file", c.Name)
							}
						} else if string(c.File) != wantFile {
							t.Errorf("mask %#x: file %x, want %x", c.Mask, c.File, wantFile)
						}
					}
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestChangesCloseEndsRead(t *testing.T) {
	testenv.RequireRoot(t)
	changes, err := sys.NewChanges()
	if errors.Is(err, unix.EINVAL) {
		testenv.Skip(t, testenv.NeedKernel, "fanotify with names, Linux 5.9")
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- changes.Read(func(*sys.Change) {}) }()
	changes.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v, want %v", err, os.ErrClosed)
	}
}

func handle(t *testing.T, dir *os.File, name string) string {
	t.Helper()
	var buf [sys.MaxHandle]byte
	n, _, errno := sys.HandleAt(int(dir.Fd()), name, &buf)
	if errno != 0 {
		t.Fatal("name_to_handle_at:", errno)
	}
	return string(buf[:n])
}

func event(mask uint64, records ...[]byte) []byte {
	body := slices.Concat(records...)
	b := make([]byte, 24, 24+len(body))
	binary.NativeEndian.PutUint32(b, uint32(24+len(body)))
	b[4] = unix.FANOTIFY_METADATA_VERSION
	binary.NativeEndian.PutUint16(b[6:], 24)
	binary.NativeEndian.PutUint64(b[8:], mask)
	return append(b, body...)
}

func FuzzChanges(f *testing.F) {
	f.Add(event(unix.FAN_ATTRIB))
	f.Add(event(unix.FAN_CREATE, []byte{unix.FAN_EVENT_INFO_TYPE_FID, 0, 28, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}))
	f.Fuzz(func(t *testing.T, buf []byte) {
		_ = sys.ParseChanges(buf, func(c *sys.Change) {
			if len(c.Dir)+len(c.Name)+len(c.File) > len(buf) {
				t.Errorf("%d bytes made %d", len(buf), len(c.Dir)+len(c.Name)+len(c.File))
			}
		})
	})
}

// What is written by way of one mount is left out, time and again, until that is taken
// back, and what is written by way of another is not, nor what happens to names.
func TestChangesIgnoreWrites(t *testing.T) {
	path := testenv.Source(t, "tmpfs")
	changes, err := sys.NewChanges()
	if errors.Is(err, unix.EINVAL) {
		testenv.Skip(t, testenv.NeedKernel, "fanotify with names, Linux 5.9")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Close()
	clone, err := sys.OpenTree(path, unix.OPEN_TREE_CLONE)
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	own := "/proc/self/fd/" + strconv.Itoa(int(clone.Fd()))
	dir, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := changes.Add(dir); err != nil {
		t.Fatal(err)
	}
	if err := changes.IgnoreWrites(dir); err != nil {
		t.Fatal(err)
	}
	write := func(dir, name string) {
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for range 3 {
			if _, err := file.WriteString("data"); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(own, "own")
	write(path, "other")
	write(own, "own")
	if err := changes.HeedWrites(dir); err != nil {
		t.Fatal(err)
	}
	write(own, "heeded")
	write(path, "last")
	seen := make(map[string]uint64)
	for seen["last"]&unix.FAN_MODIFY == 0 {
		if err := changes.Read(func(c *sys.Change) { seen[string(c.Name)] |= c.Mask }); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]uint64{
		"own":    unix.FAN_CREATE,
		"other":  unix.FAN_CREATE | unix.FAN_MODIFY,
		"heeded": unix.FAN_CREATE | unix.FAN_MODIFY,
		"last":   unix.FAN_CREATE | unix.FAN_MODIFY,
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("masks (-want +got):\n%s", diff)
	}
}

func TestCloseEndsARead(t *testing.T) {
	changes, err := sys.NewChanges()
	if err != nil {
		testenv.Skip(t, testenv.NeedKernel, "fanotify with names, Linux 5.9")
	}
	done := make(chan error)
	go func() { done <- changes.Read(func(*sys.Change) {}) }()
	time.Sleep(10 * time.Millisecond) // it may wait by then, or not: it has to end
	if err := changes.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("read: %v, want closed", err)
	}
	if err := changes.Read(func(*sys.Change) {}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read again: %v, want closed", err)
	}
}
