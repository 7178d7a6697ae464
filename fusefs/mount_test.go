package fusefs_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// served mounts source, served by this process, until the test ends.
func served(t *testing.T, source string, o fusefs.Options) string {
	t.Helper()
	testenv.RequireRoot(t)
	unix.Umask(0)
	if o.Map.IsZero() {
		o.Map = idmap.Identity()
	}
	dir, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	dev, tree, err := sys.FuseMount(sys.FuseMountOptions{Source: "test", Subtype: "idmount", AllowOther: true, DefaultPermissions: true, MaxRead: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	defer tree.Close()
	fs, err := fusefs.New(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Start(dev); err != nil {
		t.Fatal(err)
	}
	target := testenv.Dir(t)
	at, err := os.OpenFile(target, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if err := sys.MoveMountTo(tree, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		testenv.Unmount(t, target)
		fs.Wait()
	})
	return target
}
