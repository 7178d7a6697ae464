package rootfs

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/testenv"
)

// mountIDs mounts src at dst with first… for 0…, until the end of the test.
func mountIDs(t testing.TB, backend, src, dst string) {
	t.Helper()
	ids := fmt.Sprintf("0 %d %d\n", first, count)
	ns, err := sys.NewUserNamespace(ids, ids)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	tree, err := sys.OpenTree(src, unix.OPEN_TREE_CLONE)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := sys.MountSetattr(tree, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}); err != nil {
		t.Fatal(err)
	}
	if err := sys.MoveMount(tree, dst); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { testenv.Unmount(t, dst) })
}
