package mounttree

import (
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/sys"
)

// Mount is a mount of a Tree.
type Mount struct {
	Info *mountinfo.Info
	Path string   // below the tree's top, such as "/home"; "" is the top
	File *os.File // O_PATH, its root

	on    *Mount // nil for the top
	place string // of the mount point, below the root of on
	upon  []*Mount
}

// Tree is a tree of mounts in the mount namespace of a Private function.
type Tree struct {
	Mounts []*Mount          // those that can be seen, parents first
	Below  []*mountinfo.Info // all but the top, seen or not

	slash *os.File
	seen  []int // what Assemble has opened of the new tree
}

// Open attaches tree, which is detached, and lists its mounts. tree stays the
// caller's.
func Open(tree *os.File) (*Tree, error) {
	slash, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	t := &Tree{slash: slash}
	if err := t.list(tree); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Settle has the kernel ask again for the attributes of all that Assemble has opened
// of the new tree: see fusefs.Assemble.
func (t *Tree) Settle() {
	for _, fd := range t.seen {
		var st unix.Stat_t
		_ = unix.Fstat(fd, &st)
	}
}

// Close closes all files.
func (t *Tree) Close() {
	closeAll(t.seen)
	t.slash.Close()
	for _, m := range t.Mounts {
		m.File.Close()
	}
}

func (t *Tree) list(tree *os.File) error {
	if err := t.Attach(tree); err != nil {
		return err
	}
	// Before Linux 5.12 the clone may still share propagation with the source.
	if err := change(tree, unix.MS_REC|unix.MS_PRIVATE); err != nil {
		return err
	}
	top, err := mounts.Of(tree)
	if err != nil {
		return err
	}
	below, err := mounts.On(top)
	if err != nil {
		return err
	}
	t.Below = below
	known := map[int]*Mount{}
	covered := map[int]*mountinfo.Info{}
	for _, info := range append([]*mountinfo.Info{top}, below...) {
		rel := strings.TrimPrefix(info.Mountpoint, strings.TrimSuffix(top.Mountpoint, "/"))
		if info == top || rel == "/" {
			rel = ""
		}
		f, err := open(tree, rel)
		if err != nil {
			covered[info.ID] = info // by another mount, or its mount point is gone
			continue
		}
		if id, err := mounts.ID(f); err != nil || id != info.ID {
			f.Close()
			covered[info.ID] = info
			continue
		}
		m := &Mount{Info: info, Path: rel, File: f}
		known[info.ID] = m
		t.Mounts = append(t.Mounts, m)
		if info == top {
			continue
		}
		// What is on the root of a covered mount takes its place.
		parent := info.Parent
		for covered[parent] != nil {
			parent = covered[parent].Parent
		}
		if m.on = known[parent]; m.on == nil {
			return &sys.Error{Op: "mount", Path: info.Mountpoint, Detail: "of a tree", Err: mounts.ErrNotFound}
		}
		m.place = strings.TrimPrefix(rel, m.on.Path)
		m.on.upon = append(m.on.upon, m)
	}
	return nil
}

// walk opens what is at a path below dir, through mounts and no symbolic link, by
// one name after the other: a mount point may have a longer path than open(2) takes.
// It returns a descriptor of dir and of everything on the way, the last one last.
func walk(dir *os.File, path string) (fds []int, err error) {
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if err != nil {
			break
		}
		fds = append(fds, fd)
		if name == "" {
			return fds, nil
		}
		fd, err = unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		closeAll(fds)
		return nil, &sys.Error{Op: "open", Path: dir.Name() + path, Err: err}
	}
	return append(fds, fd), nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func open(dir *os.File, path string) (*os.File, error) {
	fds, err := walk(dir, path)
	if err != nil {
		return nil, err
	}
	last := len(fds) - 1
	closeAll(fds[:last])
	return os.NewFile(uintptr(fds[last]), dir.Name()+path), nil
}

// Attach attaches a detached tree, so that it can be cloned and mounted on.
func (t *Tree) Attach(tree *os.File) error { return sys.MoveMountTo(tree, t.slash) }

// attachAny is Attach also for a mount of a file, which can't be on a directory.
func (t *Tree) attachAny(mnt *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(mnt.Fd()), &st); err != nil {
		return &sys.Error{Op: "stat", Path: mnt.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return t.Attach(mnt)
	}
	file, err := os.OpenFile("/proc/version", unix.O_PATH, 0) // as good as any
	if err != nil {
		return err
	}
	defer file.Close()
	return sys.MoveMountTo(mnt, file)
}

// change is mount(2) on a mount that is attached.
func change(mnt *os.File, flags uintptr) error {
	if err := unix.Mount("", "/proc/thread-self/fd/"+strconv.Itoa(int(mnt.Fd())), "", flags, ""); err != nil {
		return &sys.Error{Op: "mount", Path: mnt.Name(), Err: err}
	}
	return nil
}

// SetAttrs sets MOUNT_ATTR_* of a detached mount and clears all others, on kernels
// without mount_setattr(2) (before Linux 5.12). It returns a mount in its place.
func (t *Tree) SetAttrs(mnt *os.File, attrs uint64) (*os.File, error) {
	flags, err := sys.MountFlags(attrs)
	if err != nil {
		return nil, err
	}
	if err := t.attachAny(mnt); err != nil {
		return nil, err
	}
	if err := change(mnt, unix.MS_REMOUNT|unix.MS_BIND|flags); err != nil {
		return nil, err
	}
	return Clone(mnt)
}

// Clone returns a detached copy of the one mount that mnt is on, from mnt on.
func Clone(mnt *os.File) (*os.File, error) {
	return sys.OpenTreeAt(mnt, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
}

// Assemble puts a tree together: a mount by piece for each of the old ones. finish
// is called for each of them when all that belongs on it is there, and changes its
// attributes. Both are given detached mounts; what piece returns is closed here.
func (t *Tree) Assemble(piece func(*Mount) (*os.File, error), finish func(*Mount, *os.File) error) (*os.File, error) {
	return t.assemble(t.Mounts[0], piece, finish)
}

func (t *Tree) assemble(m *Mount, piece func(*Mount) (*os.File, error), finish func(*Mount, *os.File) error) (_ *os.File, err error) {
	// All of them first: what is attached later lies on top.
	upon := make([]*os.File, 0, len(m.upon))
	defer func() {
		for _, f := range upon {
			f.Close()
		}
	}()
	for _, sub := range m.upon {
		f, err := t.assemble(sub, piece, finish)
		if err != nil {
			return nil, err
		}
		upon = append(upon, f)
	}
	tree, err := piece(m)
	if err != nil {
		return nil, err
	}
	if len(upon) > 0 {
		tree, err = t.put(m, tree, upon)
	} else {
		_, err = t.see(tree, "")
	}
	if err == nil {
		err = finish(m, tree)
	}
	if err != nil {
		if tree != nil {
			tree.Close()
		}
		return nil, err
	}
	return tree, nil
}

// put mounts what is upon a mount of the new tree, and returns a detached copy of all.
func (t *Tree) put(m *Mount, bare *os.File, upon []*os.File) (*os.File, error) {
	defer bare.Close()
	if err := t.Attach(bare); err != nil {
		return nil, err
	}
	for i, sub := range m.upon {
		place, err := t.see(bare, sub.place)
		if err == nil {
			err = sys.MoveMountAt(upon[i], place, sub.Path)
		}
		if err != nil {
			return nil, err
		}
	}
	return sys.OpenTreeAt(bare, "", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
}

// see opens what is at a path of a new mount, to the end of the tree.
func (t *Tree) see(mnt *os.File, path string) (int, error) {
	fds, err := walk(mnt, path)
	if err != nil {
		return -1, err
	}
	t.seen = append(t.seen, fds...)
	return fds[len(fds)-1], nil
}
