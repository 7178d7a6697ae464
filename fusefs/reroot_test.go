package fusefs

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
)

// Whoever does not own the root of the source goes through it without a request once
// the kernel knows its ACL, which is asked for once, and once for the root behind it.
func TestRerootKeepsACLs(t *testing.T) {
	source := openTmpfs(t)
	defer source.Close()
	path := throughFD(source)
	if err := unix.Chown(path, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkdir(filepath.Join(path, innerRoot), 0o700); err != nil {
		t.Fatal(err)
	}
	var n Requests
	f, err := New(source, Options{Map: idmap.Identity(), Requests: &n})
	if err != nil {
		t.Fatal(err)
	}
	tree := serve(t, f)
	inner, err := f.Reroot(tree)
	tree.Close()
	if err != nil {
		t.Fatal(err)
	}
	look := func(name string) (st unix.Stat_t) {
		if errno := sys.StatAt(int(inner.Fd()), name, &st); errno != 0 {
			t.Errorf("stat %q: %v", name, errno)
		}
		return st
	}
	if st := look("."); st.Uid != 1000 || st.Mode&0o777 != 0o755 {
		t.Errorf("the mount is of a directory of %d with mode %o", st.Uid, st.Mode)
	}
	if st := look(innerRoot); st.Mode&0o777 != 0o700 {
		t.Errorf("%s is no directory of the source any more: mode %o", innerRoot, st.Mode)
	}
	for range 10 {
		look(innerRoot)
	}
	if counts := n.Counts(); counts["GETXATTR"] > 2 {
		t.Errorf("requests: %v", counts)
	}
	inner.Close()
	f.Wait()
}
