package fusefs

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

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
// was, if slower. But the FUSE root is a directory: a source that is none is seen
// through the returned mount alone, and nothing beside it is.
func (f *FS) Reroot(tree *os.File) (*os.File, error) {
	if f.single {
		f.Assemble(true)
		defer f.Assemble(false)
	}
	f.rerooting.Store(true)
	defer f.rerooting.Store(false)
	inner, err := sys.CloneDetached(tree, innerRoot)
	if err != nil {
		f.log.Debug("the kernel keeps no ACL of the root", "source", f.source.Name(), "cause", err)
	}
	return inner, err
}

// AddView makes source a view of the file system as well, as New's own is one. It
// is the root of another mount of the same file system, and may be no directory.
// The descriptor may be O_PATH, stays the caller's, and has to stay open until Wait
// returns. The name of the view is that of an entry of the FUSE root, which is there
// while Assemble is on.
//
// It is to be called before Start.
func (f *FS) AddView(source *os.File) (name string) {
	f.views = append(f.views, source)
	return viewName(len(f.views))
}

// FirstView is the name of the view that New's source is.
const FirstView = innerRoot

// Assemble begins, or ends, the time in which somebody mounts on directories of
// the views, before others see them: all views are entries of the FUSE root, and
// root passes every directory, also one whose owner the map does not have.
//
// The kernel has been told wrong owners and modes then. It is not to keep them, but
// looks at what it has of an inode in some calls: so whoever has opened a file
// meanwhile calls fstat(2) on it afterwards.
func (f *FS) Assemble(on bool) {
	f.rerooting.Store(on)
	f.assembling.Store(on)
}

// viewName is the name of view i; 0 is the source.
func viewName(i int) string {
	if i == 0 {
		return innerRoot
	}
	return innerRoot + "." + strconv.Itoa(i)
}

// viewSource returns the source of the view with a name.
func (f *FS) viewSource(name string) *os.File {
	number, ok := strings.CutPrefix(name, innerRoot+".")
	if !ok {
		return nil
	}
	i, err := strconv.Atoi(number)
	if err != nil || i < 1 || i > len(f.views) || viewName(i) != name {
		return nil
	}
	return f.views[i-1]
}

// inner answers a look-up of a view in the FUSE root.
func (f *FS) inner(name string, out *fuse.EntryOut) unix.Errno {
	if name == innerRoot {
		return f.innerSource(out)
	}
	source := f.viewSource(name)
	if source == nil {
		return unix.ENOENT
	}
	fd, err := unix.FcntlInt(source.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return sys.Errno(err)
	}
	n, errno := f.intern(fd, f.root, "", out)
	if errno != 0 {
		unix.Close(fd)
		return errno
	}
	f.fds.adopt(n, fd, pathOnly) // and never released
	return 0
}

// disguise shows root what it may pass through, and says that it may not be kept.
func disguise(attr *fuse.Attr) {
	attr.Owner = fuse.Owner{}
	attr.Mode = attr.Mode&unix.S_IFMT | 0o755
}

// carrier is a name that leads to a directory or file on which something is mounted.
type carrier struct {
	dir  uint64
	name string
}

// carriers are all names on the ways to where something is mounted. If the kernel
// can't find such a name again it takes away what is mounted there, or below.
type carriers struct {
	mu    sync.Mutex
	names map[carrier]bool
	any   atomic.Bool
}

func (c *carriers) add(dir uint64, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names == nil {
		c.names = make(map[carrier]bool)
	}
	c.names[carrier{dir, strings.Clone(name)}] = true // it may lie in a buffer
	c.any.Store(true)
}

// failure is what to answer where a look-up fails. The kernel takes ENOMEM and EINTR
// alone for errors that say nothing of the name (fuse_dentry_revalidate).
func (c *carriers) failure(dir uint64, name string, errno unix.Errno) unix.Errno {
	if errno == unix.ENOENT || errno == unix.EINTR || !c.any.Load() {
		return errno
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names[carrier{dir, name}] {
		return unix.ENOMEM
	}
	return errno
}

// innerSource answers with a node for the source that takes the root's place.
func (f *FS) innerSource(out *fuse.EntryOut) unix.Errno {
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
