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
// A mount made with Recursive goes with its submounts, as long as they are ID-mapped
// too; if one of them is in use, those above it stay.
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
	if !ours(m) {
		return &UsageError{Op: "umount", Path: target, Err: fmt.Errorf("%w: a mount of type %s", ErrNotOurs, m.FSType)}
	}
	servers, devices := openServers(m)
	defer func() {
		for _, fd := range servers {
			unix.Close(fd)
		}
	}()
	remove := mounts.Remove
	if lazy {
		remove = mounts.Detach
	} else if left, err := unmountBelow(target, m); err != nil {
		return err
	} else if left {
		remove = mounts.Detach
	}
	if err := remove(root); err != nil {
		return &sys.Error{Op: "umount", Path: target, Err: err}
	}
	root.Close() // of a detached mount, it keeps that alive
	if !lazy {
		for _, fd := range servers {
			waitForServer(fd, devices...)
		}
	}
	return nil
}

// device is a major and a minor number.
type device struct{ major, minor int }

// openServers returns descriptors of the processes that serve a mount and those on it,
// and the devices of these mounts.
func openServers(top *mountinfo.Info) (servers []int, devices []device) {
	below, _ := mounts.On(top)
	for _, m := range append(below, top) {
		d := device{m.Major, m.Minor}
		if m.FSType != fuseType || slices.Contains(devices, d) {
			continue
		}
		devices = append(devices, d)
		if fd := openServer(uint32(m.Major), uint32(m.Minor)); fd >= 0 {
			servers = append(servers, fd)
		}
	}
	return servers, devices
}

// unmountBelow removes the ID-mapped mounts on top, which is at path, the deepest
// first. If there is another kind of mount, it removes nothing: path is busy then.
//
// It leaves those that root can't reach, in directories whose owner the map does not
// have. So can't anybody else who might use them.
func unmountBelow(path string, top *mountinfo.Info) (left bool, err error) {
	below, err := mounts.On(top)
	if err != nil {
		return false, fmt.Errorf("umount %s: read the mount table: %w", path, err)
	}
	for _, m := range below {
		if !ours(m) {
			return false, &sys.Error{Op: "umount", Path: path, Detail: "mounted below: " + m.Mountpoint, Err: unix.EBUSY}
		}
	}
	for _, m := range slices.Backward(below) {
		root, err := mounts.OpenRoot(m)
		if errors.Is(err, unix.EACCES) {
			left = true
			continue
		}
		if err == nil {
			err = mounts.Remove(root)
		}
		if err != nil {
			return left, &sys.Error{Op: "umount", Path: m.Mountpoint, Err: err}
		}
	}
	return left, nil
}

// ours reports whether a mount is an ID-mapped one.
func ours(m *mountinfo.Info) bool { return m.FSType == fuseType || mounts.Idmapped(m) }
