package sys_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestHandleInode(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(fstype, func(t *testing.T) {
			path := testenv.Source(t, fstype)
			dir, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			for _, name := range []string{"one", "two"} {
				if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				var st unix.Stat_t
				if errno := sys.StatAt(int(dir.Fd()), name, &st); errno != 0 {
					t.Fatal("stat:", errno)
				}
				ino, ok := sys.HandleInode([]byte(handle(t, dir, name)))
				if !ok || ino != st.Ino {
					t.Errorf("%s: inode %d, %t, of a handle of inode %d", name, ino, ok, st.Ino)
				}
			}
		})
	}
	for _, handle := range []string{"", "abc", "\x01\x00\x00\x00abc", "\xff\xff\xff\xff12345678", "\x81\x00\x00\x0012345678"} {
		if ino, ok := sys.HandleInode([]byte(handle)); ok {
			t.Errorf("inode %d of the handle %q", ino, handle)
		}
	}
}
