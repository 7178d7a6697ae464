package native

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/mntopt"
	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/sys"
)

// Options of a Mount. The map must map something; the rest may be zero.
type Options struct {
	Map       idmap.Map
	Recursive bool           // the submounts of source too
	Mount     mntopt.Options // changes against the source's own options
}

// ErrIdmapped is the cause when the source is idmapped already and the kernel
// cannot put a map on top.
var ErrIdmapped = errors.New("the source is idmapped already, and this kernel cannot replace its map (open_tree_attr, Linux 6.15)")

// Mount shows source at target through the map. Both must exist, and both be
// directories or neither.
func Mount(source, target string, o Options) error {
	// Without OPEN_TREE_CLONE these are O_PATH files, but unlike open(2) this
	// follows an automount at the end of the path.
	src, err := sys.OpenTree(source, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := sys.OpenTree(target, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	return MountFile(src, dst, o)
}

// MountFile is Mount for source and target that are open; O_PATH will do. Their
// names are for errors.
func MountFile(src, dst *os.File, o Options) error {
	if o.Map.IsZero() {
		return fmt.Errorf("mount %s: the map is empty", src.Name())
	}
	if err := sameKind(src, dst); err != nil {
		return err
	}
	m := o.Map
	own, mapped, errOwn := mounts.MapOfTree(src, o.Recursive)
	if mapped && errOwn == nil {
		if m, errOwn = own.Compose(m); errOwn != nil {
			errOwn = fmt.Errorf("mount %s: the map on top of the source's own: %w", src.Name(), errOwn)
		}
	}
	ns, err := sys.NewUserNamespace(m.UIDMapText(), m.GIDMapText())
	if err != nil {
		return err
	}
	defer ns.Close()

	attr := o.Mount.Attr()
	attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
	attr.Userns_fd = uint64(ns.Fd())

	// Closing tree dissolves the copy as long as it is not attached.
	tree, err := cloneTree(src, o.Recursive, &attr, errOwn)
	if err != nil {
		return err
	}
	defer tree.Close()
	if o.Mount.Propagation != 0 {
		var flags uint
		if o.Mount.PropagationRecursive {
			flags = unix.AT_RECURSIVE
		}
		if err := sys.MountSetattr(tree, "", flags, &unix.MountAttr{Propagation: o.Mount.Propagation}); err != nil {
			return withType(err, src)
		}
	}
	return sys.MoveMountTo(tree, dst)
}

// sameKind refuses a directory on a file and the reverse, for which the
// kernel has EINVAL only.
func sameKind(src, dst *os.File) error {
	s, err := src.Stat()
	if err != nil {
		return err
	}
	d, err := dst.Stat()
	if err != nil {
		return err
	}
	switch {
	case s.IsDir() && !d.IsDir():
		return &sys.Error{Op: "mount", Path: dst.Name(), Detail: "the source is a directory", Err: unix.ENOTDIR}
	case !s.IsDir() && d.IsDir():
		return &sys.Error{Op: "mount", Path: dst.Name(), Detail: "the source is not a directory", Err: unix.EISDIR}
	}
	return nil
}

// cloneTree makes the detached, mapped copy of src. With errOwn, attr does not have
// the source's own map, if there is one, which then must not be replaced.
func cloneTree(src *os.File, recursive bool, attr *unix.MountAttr, errOwn error) (*os.File, error) {
	var flags uint
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	tree, err := sys.OpenTreeAt(src, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|flags)
	if err != nil {
		return nil, withType(err, src)
	}
	err = sys.MountSetattr(tree, "", flags, attr)
	if err == nil {
		return tree, nil
	}
	tree.Close()

	if errors.Is(err, unix.EPERM) {
		// EPERM has several causes. An idmapped mount somewhere in the tree is
		// the one with a cure, and the call itself is the best judge of it.
		again, errAttr := sys.OpenTreeAttr(src, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|flags, attr)
		switch {
		case errAttr == nil && errOwn != nil:
			again.Close()
			return nil, errOwn
		case errAttr == nil:
			return again, nil
		case errors.Is(errAttr, unix.ENOSYS):
			if name := firstIdmapped(src, recursive); name != "" {
				return nil, &sys.Error{Op: "mount_setattr", Path: name, Detail: sys.AttrText(attr), Err: ErrIdmapped}
			}
		default:
			err = errAttr
		}
	}
	if recursive {
		if sub := refusing(src, attr); sub != nil {
			return nil, sub
		}
	}
	return nil, withType(err, src)
}

// refusing finds out which mount of the tree does not take attr, by asking
// each on its own: the kernel's answer for a tree names none. It returns nil
// if each of them takes it.
func refusing(src *os.File, attr *unix.MountAttr) error {
	if err := try(src, attr); err != nil {
		return withType(err, src)
	}
	subs, err := mounts.Below(src)
	if err != nil {
		return nil
	}
	for _, m := range subs {
		f, err := sys.OpenTree(m.Mountpoint, 0)
		if err != nil {
			continue // covered by another mount, or gone
		}
		if id, err := mounts.ID(f); err != nil || id != m.ID {
			f.Close()
			continue // covered too, or the path leads elsewhere by now
		}
		err = try(f, attr)
		if err != nil {
			err = withType(err, f)
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func try(f *os.File, attr *unix.MountAttr) error {
	tree, err := sys.OpenTreeAt(f, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer tree.Close()
	err = sys.MountSetattr(tree, "", 0, attr)
	if errors.Is(err, unix.EPERM) {
		again, errAttr := sys.OpenTreeAttr(f, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH, attr)
		if errAttr == nil {
			again.Close()
			return nil
		}
	}
	return err
}

// firstIdmapped names the first mount of the tree that has a map.
func firstIdmapped(src *os.File, recursive bool) string {
	if m, err := mounts.Of(src); err == nil && mounts.Idmapped(m) {
		return src.Name()
	}
	if !recursive {
		return ""
	}
	subs, _ := mounts.Below(src)
	for _, m := range subs {
		if mounts.Idmapped(m) {
			return m.Mountpoint
		}
	}
	return ""
}

// withType adds the file system's type to what the error says.
func withType(err error, f *os.File) error {
	var e *sys.Error
	if !errors.As(err, &e) {
		return err
	}
	m, errOf := mounts.Of(f)
	if errOf != nil {
		return err
	}
	named := *e
	named.Detail = m.FSType
	if e.Detail != "" {
		named.Detail += ", " + e.Detail
	}
	return &named
}
