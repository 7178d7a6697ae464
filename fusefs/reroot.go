package fusefs

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// innerRoot is the name of the directory that Reroot mounts. Mount tables show it
// (the fourth column of /proc/self/mountinfo).
const innerRoot = "view"

// Reroot returns a mount in place of tree, the detached mount of a file system that
// has been started: of a directory in its root that is the source as well. The
// caller closes both.
//
// The kernel makes the root of a FUSE file system before INIT has told it that
// there are ACLs, and so keeps none of that inode (the ACL_DONT_CACHE that stays
// since kernel commit 4b9a5458d02e: Linux 7.1.6, 6.18.42, 6.12.101, 6.6.148). It
// would ask for one whenever somebody who does not own the root passes through.
//
// After an error, such as that of a kernel that can't do it, tree is as good as it
// was, if slower.
func (f *FS) Reroot(tree *os.File) (*os.File, error) {
	f.rerooting.Store(true)
	defer f.rerooting.Store(false)
	inner, err := sys.CloneDetached(tree, innerRoot)
	if err != nil {
		f.log.Debug("the kernel keeps no ACL of the root", "source", f.source.Name(), "cause", err)
	}
	return inner, err
}

// inner answers with a node for the source that takes the root's place.
func (f *FS) inner(out *fuse.EntryOut) unix.Errno {
	u := f.path(f.root)
	if u.errno != 0 {
		return u.errno
	}
	defer u.done()
	var st unix.Stat_t
	if errno := sys.Stat(u.fd, &st); errno != 0 {
		return errno
	}
	fd, err := unix.FcntlInt(uintptr(u.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return sys.Errno(err)
	}
	n := f.nodes.supersede(f.root, f.newNode([]byte(f.root.key), &st))
	if n == nil {
		unix.Close(fd)
		return unix.ENFILE
	}
	f.fds.adopt(n, fd, pathOnly) // and never released
	f.describe(n, &st, out)
	return 0
}
