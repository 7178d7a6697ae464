package idmount

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/sys"
)

// ErrNotOurs is the cause when Unmount is asked for something else than an
// ID-mapped mount.
var ErrNotOurs = errors.New("not an ID-mapped mount")

// Unmount removes the ID-mapped mount at target. It returns when the process
// that served it has ended, so that the source can be unmounted next, or at once if
// the mount lives on at another place, such as another mount namespace. Any other
// kind of mount is refused.
//
// A native mount made with Recursive goes with its submounts, as long as they
// are ID-mapped too; if one of them is in use, those above it stay.
//
// With lazy, a mount in use disappears from target at once and ends when its
// last user is gone; otherwise that is EBUSY.
func Unmount(target string, lazy bool) error {
	root, m, err := mounts.Open(target)
	if err != nil {
		return &UsageError{Op: "umount", Path: target, Err: err}
	}
	if root == nil {
		return &UsageError{Op: "umount", Path: target, Err: errors.New("not mounted")}
	}
	defer root.Close()
	served := m.FSType == fuseType
	if !served && !mounts.Idmapped(m) {
		return &UsageError{Op: "umount", Path: target, Err: fmt.Errorf("%w: a mount of type %s", ErrNotOurs, m.FSType)}
	}
	server := -1
	if served {
		if server = openServer(uint32(m.Major), uint32(m.Minor)); server >= 0 {
			defer unix.Close(server)
		}
	}
	remove := mounts.Remove
	if lazy {
		remove = mounts.Detach
	} else if err := unmountBelow(target, m); err != nil {
		return err
	}
	if err := remove(root); err != nil {
		return &sys.Error{Op: "umount", Path: target, Err: err}
	}
	if server >= 0 && !lazy {
		waitForServer(server, m.Major, m.Minor)
	}
	return nil
}

// unmountBelow removes the ID-mapped mounts on top, which is at path, the deepest
// first. If there is another kind of mount, it removes nothing: path is busy then.
func unmountBelow(path string, top *mountinfo.Info) error {
	below, err := mounts.On(top)
	if err != nil {
		return fmt.Errorf("umount %s: read the mount table: %w", path, err)
	}
	for _, m := range below {
		if !mounts.Idmapped(m) {
			return &sys.Error{Op: "umount", Path: path, Detail: "mounted below: " + m.Mountpoint, Err: unix.EBUSY}
		}
	}
	for _, m := range slices.Backward(below) {
		root, err := mounts.OpenRoot(m)
		if err == nil {
			err = mounts.Remove(root)
		}
		if err != nil {
			return &sys.Error{Op: "umount", Path: m.Mountpoint, Err: err}
		}
	}
	return nil
}

// mountAt returns the topmost mount at path, nil if there is none.
func mountAt(path string) (*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != path, false })
	if err != nil {
		return nil, fmt.Errorf("umount %s: read the mount table: %w", path, err)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all[len(all)-1], nil
}
