package detect

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// flagExpireOnly: a cached name can be invalidated without harm to who works below it.
const flagExpireOnly = 1 << 35

// probeCache watches the source's file system for a moment, as a FUSE mount with the
// cache mode coherent does. It comes after the probes of FUSE and of file handles.
func (r *Report) probeCache(src *os.File) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(src.Fd()), &st); err != nil {
		r.CoherentCache = unknown(&sys.Error{Op: "statfs", Path: r.Path, Err: err}, "the source's type could not be asked for")
		return
	}
	switch {
	case fileType(src) != unix.S_IFDIR:
		r.CoherentCache = no(nil, "the source is a file, of which no descriptor is kept that changes could be watched by")
	case !sys.SeesAllChanges(&st):
		r.CoherentCache = no(nil, "others than this kernel may change %s", r.FSType)
	case r.FileHandles.Verdict == Unknown:
		r.CoherentCache = unknown(nil, "not tried without file handles")
	case r.Protocol == nil:
		r.CoherentCache = unknown(nil, "not tried without FUSE")
	case !r.Protocol.has(flagExpireOnly):
		r.CoherentCache = no(nil, "the kernel's FUSE has no HAS_EXPIRE_ONLY (Linux 6.2)")
	default:
		r.CoherentCache = r.tryWatch(src, r.FileHandles.Verdict == Yes)
	}
}

// tryWatch watches the file system as a whole, or, if its files don't open by handle,
// tries whether one by one can be watched.
func (r *Report) tryWatch(src *os.File, whole bool) Finding {
	fd, err := unix.Openat(int(src.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return unknown(&sys.Error{Op: "open", Path: r.Path, Err: err}, "the source could not be opened")
	}
	dir := os.NewFile(uintptr(fd), r.Path)
	defer dir.Close()
	if !whole {
		err = sys.ReportsFileIDs(dir)
	} else {
		var changes *sys.Changes
		if changes, err = sys.NewChanges(); err == nil {
			defer changes.Close()
			err = changes.Add(dir)
		}
	}
	switch {
	case err == nil && !whole:
		return yes("changes to %s are reported by fanotify, file by file", r.FSType)
	case err == nil:
		return yes("changes to %s are reported by fanotify", r.FSType)
	case isAny(err, unix.ENOSYS):
		return no(err, "the kernel has no fanotify, or a seccomp filter hides it")
	case isAny(err, unix.EINVAL, unix.EOPNOTSUPP, unix.ENODEV, unix.EXDEV) && !whole:
		return no(err, "%s has no file handles, by which changes are told from one another (overlay: Linux 6.6)", r.FSType)
	case isAny(err, unix.EINVAL):
		return no(err, "fanotify reports no file handles (Linux 5.9)")
	case isAny(err, unix.EMFILE):
		return no(err, "this user has as many fanotify groups as fs.fanotify.max_user_groups allows, or this process no descriptor left")
	case isAny(err, unix.ENOSPC):
		return no(err, "this user has as many fanotify marks as fs.fanotify.max_user_marks allows")
	case isAny(err, unix.EOPNOTSUPP, unix.ENODEV, unix.EXDEV):
		return no(err, "fanotify can't watch %s", r.FSType)
	case isAny(err, unix.EPERM):
		return unknown(err, "fanotify is not permitted: it takes CAP_SYS_ADMIN of the initial user namespace, and no seccomp filter")
	}
	return unknown(err, "changes to %s could not be watched", r.FSType)
}
