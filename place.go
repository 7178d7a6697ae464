package idmount

import (
	"errors"
	"log/slog"
	"os"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/server"
	"github.com/idmount/idmount/internal/sys"
)

// place is where a server's mount is. The mount may be moved, and directories above it
// renamed: its id stays.
type place struct {
	namespace server.Namespace
	device    uint64
	id        int
	// unique is an id that the kernel never uses again (Linux 6.8); else 0. The other
	// one it may use when the mount is gone.
	unique uint64
}

// note makes the mount that root is the root of the place.
func (p *place) note(root *os.File) error {
	m, err := mounts.Of(root)
	if err != nil {
		return err
	}
	p.device, p.id, p.unique = unix.Mkdev(uint32(m.Major), uint32(m.Minor)), m.ID, uniqueID(root)
	return nil
}

func uniqueID(root *os.File) uint64 {
	var st unix.Statx_t
	err := unix.Statx(int(root.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID_UNIQUE, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return 0
	}
	return st.Mnt_id
}

// open returns an O_PATH descriptor of the mount's root. It is to be called in the
// mount's namespace. The mount has no part in it, whose source may not answer.
func (p *place) open() (*os.File, error) {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.ID != p.id || unix.Mkdev(uint32(m.Major), uint32(m.Minor)) != p.device, false
	})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, mounts.ErrNotFound
	}
	root, err := mounts.OpenRoot(all[0])
	if err == nil && uniqueID(root) != p.unique {
		root.Close()
		return nil, mounts.ErrNotFound
	}
	return root, err
}

// mountOn returns the mount that lies on the directory of a descriptor.
func mountOn(dir *os.File) (*mountinfo.Info, error) {
	id, err := mounts.ID(dir)
	if err != nil {
		return nil, err
	}
	path, err := os.Readlink(procFD(dir))
	if err != nil {
		return nil, err
	}
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Parent != id || m.Mountpoint != path, false
	})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &sys.Error{Op: "mount", Path: path, Err: mounts.ErrNotFound}
	}
	return all[len(all)-1], nil
}

// procFD is a path that leads to what f refers to, whatever its name is by now.
func procFD(f *os.File) string { return "/proc/thread-self/fd/" + strconv.Itoa(int(f.Fd())) }

// unmount takes the mount away if it is still there. Copies that others have made
// of it, in this namespace or in others, are theirs. covered says that another mount
// lies on it, without which it can't be reached.
func (r *request) unmount(logger *slog.Logger) (covered bool) {
	err := r.place.namespace.Within(func() error {
		root, err := r.place.open()
		if err != nil {
			return err
		}
		defer root.Close()
		return mounts.Detach(root)
	})
	switch {
	case errors.Is(err, mounts.ErrNotFound):
		logger.Info("told to end, and others use the mount: it is served until they are gone")
	case err != nil:
		logger.Error("umount", "target", r.Target, "cause", err)
	}
	return errors.Is(err, unix.EBUSY)
}

// removeLeft removes what the request's server has mounted, when it was killed before
// it said so.
func (r *request) removeLeft() {
	m, err := mountOn(r.target)
	if err != nil || !ours(m) {
		return
	}
	servers, devices := openServers(m)
	for _, fd := range servers {
		unix.Close(fd)
	}
	if len(servers) > 0 {
		return // somebody else was faster
	}
	root, err := mounts.OpenRoot(m)
	if err != nil {
		return
	}
	defer root.Close()
	if mounts.Detach(root) != nil {
		return
	}
	for _, d := range devices {
		os.Remove(statePath(uint32(d.major), uint32(d.minor)))
	}
}
