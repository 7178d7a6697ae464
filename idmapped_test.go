package idmount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// The map of a mount of an idmapped source applies to what the source shows,
// with every backend: each id goes through the one map and then the other.
func TestMountOfIdmappedSource(t *testing.T) {
	source := testenv.Source(t, "tmpfs")
	own := parse(t, "b:0:5000:100", "b:100:0:50", "u:1000:200000:3000", "g:1000:300000:3000")
	on := parse(t, "b:5010:70000:50", "b:20:10:60", "u:201000:0:10", "g:301500:1:8")
	ids := []uint32{0, 9, 50, 10, 59, 60, 99, 100, 119, 120, 149, 150, 999, 1000, 1999, 2000, 2009, 2010, 2499, 2500, 2507, 2508, 4000, 70000}
	for _, uid := range ids {
		for _, gid := range ids {
			path := filepath.Join(source, fmt.Sprint(uid, "-", gid))
			if err := os.WriteFile(path, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.Lchown(path, int(uid), int(gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	shown, _ := mount(t, source, idmount.Options{Map: own, Backend: idmount.Native})
	both, err := own.Compose(on)
	if err != nil {
		t.Fatal(err)
	}
	for _, backend := range []idmount.Backend{idmount.Native, idmount.Relay, idmount.Translate, idmount.Auto} {
		t.Run(string(backend), func(t *testing.T) {
			target, _ := mount(t, shown, idmount.Options{Map: on, Backend: backend})
			for _, uid := range ids {
				for _, gid := range ids {
					var got unix.Stat_t
					name := fmt.Sprint(uid, "-", gid)
					if err := unix.Lstat(filepath.Join(target, name), &got); err != nil {
						t.Fatal(err)
					}
					wantUID, wantGID := uint32(65534), uint32(65534)
					if v, ok := both.ViewUID(idmap.DiskUID(uid)); ok {
						wantUID = uint32(v)
					}
					if v, ok := both.ViewGID(idmap.DiskGID(gid)); ok {
						wantGID = uint32(v)
					}
					if got.Uid != wantUID || got.Gid != wantGID {
						t.Errorf("%s is shown as %d:%d, want %d:%d", name, got.Uid, got.Gid, wantUID, wantGID)
					}
				}
			}
			// 70000 here is 5010 in the source, and 10 on the disk.
			path := filepath.Join(target, "50-50")
			if err := os.Lchown(path, 70000, 3); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(source, "50-50"), &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid != 10 || st.Gid != 2502 {
				t.Errorf("chown to 70000:3 stores %d:%d, want 10:2502", st.Uid, st.Gid)
			}
			if err := os.Lchown(filepath.Join(source, "50-50"), 50, 50); err != nil {
				t.Fatal(err)
			}
		})
	}
}
