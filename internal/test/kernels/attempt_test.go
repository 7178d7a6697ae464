package kernels

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
)

// attempt makes a detached mount of path by a backend, with the calls alone
// and without package detect, and undoes it.
func attempt(path, backend string, recursive bool) error {
	const text = "0 100000 65536\n"
	ns, err := sys.NewUserNamespace(text, text)
	if err != nil {
		return err
	}
	defer ns.Close()
	idmap := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	var flags uint
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	if backend == "native" {
		tree, err := sys.OpenTree(path, unix.OPEN_TREE_CLONE|flags)
		if err != nil {
			return err
		}
		defer tree.Close()
		err = sys.MountSetattr(tree, "", flags, idmap)
		if err == unix.EPERM || isEPERM(err) {
			// Mapped already: Linux 6.15 can replace the map.
			again, err := sys.OpenTreeAttr(tree, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH, idmap)
			if err == nil {
				again.Close()
			}
			return err
		}
		return err
	}
	return attemptFuse(path, backend == "relay", idmap)
}

func isEPERM(err error) bool { return sys.Errno(unwrap(err)) == unix.EPERM }

func unwrap(err error) error {
	if e, ok := err.(*sys.Error); ok {
		return e.Err
	}
	return err
}

func attemptFuse(path string, relay bool, attr *unix.MountAttr) error {
	m, err := idmap.Parse([]string{"b:0:100000:65536"}, nil)
	if err != nil {
		return err
	}
	source, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	fs, err := fusefs.New(source, fusefs.Options{Map: m, Relay: relay})
	if err != nil {
		return err
	}
	dev, tree, err := sys.FuseMount(sys.FuseMountOptions{Source: "attempt", Subtype: "idmount", AllowOther: true, DefaultPermissions: true})
	if err != nil {
		return err
	}
	if err := fs.Start(dev); err != nil {
		dev.Close()
		tree.Close()
		return err
	}
	if relay {
		err = sys.MountSetattr(tree, "", 0, attr)
	}
	dev.Close()
	tree.Close()
	fs.Wait()
	return err
}
