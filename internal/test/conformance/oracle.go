package conformance

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// MountOracle makes the native mount that backends are compared with, by the
// plain calls rather than by package native: the oracle and what is tested
// must not share a mistake.
func MountOracle(t testing.TB, source string, m *Map) string {
	t.Helper()
	target, err := tryOracle(t, source, m)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// tryOracle is MountOracle with an error, EINVAL if the kernel can't.
func tryOracle(t testing.TB, source string, m *Map) (string, error) {
	t.Helper()
	ns, err := sys.NewUserNamespace(text(m.UIDs), text(m.GIDs))
	if err != nil {
		return "", err
	}
	defer ns.Close()
	tree, err := sys.OpenTree(source, unix.OPEN_TREE_CLONE)
	if err != nil {
		return "", err
	}
	defer tree.Close()
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := sys.MountSetattr(tree, "", 0, attr); err != nil {
		return "", err
	}
	target := testenv.Dir(t)
	if err := sys.MoveMount(tree, target); err != nil {
		return "", err
	}
	t.Cleanup(func() { testenv.Unmount(t, target) })
	return target, nil
}
