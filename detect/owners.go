package detect

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// asksServer reports whether a server outside of this kernel says who owns a file of a
// file system type.
func asksServer(fstype string) bool {
	base, _, _ := strings.Cut(fstype, ".")
	switch base {
	case "fuse", "fuseblk", "virtiofs", "9p", "nfs", "nfs4", "ceph", "cifs", "smb3", "afs":
		return true
	}
	return false
}

type owners struct{ uid, gid uint32 }

func (o owners) String() string { return fmt.Sprintf("%d:%d", o.uid, o.gid) }

// ownersOf asks the server, whatever the kernel has cached.
func ownersOf(f *os.File) (owners, error) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_UID|unix.STATX_GID, &st)
	if err != nil {
		return owners{}, &sys.Error{Op: "statx", Path: f.Name(), Err: err}
	}
	return owners{st.Uid, st.Gid}, nil
}

// another returns an id that id can be mapped to, so that the map shows.
func another(id uint32) uint32 {
	if id == 1 {
		return 2
	}
	return 1
}

// probeOwners says whether an idmapped clone of the source shows the owner that its map
// makes of the source's. FUSE servers that give each file to whom asks for it do not:
// the kernel tells them nobody's ids as soon as a file system can be idmapped.
func probeOwners(src *os.File, fstype string) Finding {
	const tries = 3 // somebody may change the owner meanwhile
	for try := 1; ; try++ {
		before, err := ownersOf(src)
		if err != nil {
			return unknown(err, "the owner of the source could not be asked for")
		}
		want := owners{another(before.uid), another(before.gid)}
		got, err := ownersThrough(src, before, want)
		if err != nil {
			return unknown(err, "whether an idmapped %s shows the right owners could not be tried", fstype)
		}
		if got == want {
			return yes("the owners are right")
		}
		after, err := ownersOf(src)
		if err != nil {
			return unknown(err, "the owner of the source could not be asked for")
		}
		if after == before || try == tries {
			return no(nil, "the kernel idmaps this %s, but its server then says wrong owners: the source is owned by %v, and with a map of that to %v by %v",
				fstype, before, want, got)
		}
	}
}

// ownersThrough returns who owns a clone of the source that maps the owner disk to view.
func ownersThrough(src *os.File, disk, view owners) (owners, error) {
	ns, err := sys.NewUserNamespace(fmt.Sprintf("%d %d 1\n", disk.uid, view.uid), fmt.Sprintf("%d %d 1\n", disk.gid, view.gid))
	if err != nil {
		return owners{}, err
	}
	defer ns.Close()
	tree, err := sys.OpenTreeAt(src, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		return owners{}, err
	}
	defer tree.Close()
	if err := sys.MountSetattr(tree, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}); err != nil {
		return owners{}, err
	}
	return ownersOf(tree)
}
