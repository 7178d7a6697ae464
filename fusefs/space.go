package fusefs

import (
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// A file system keeps the last of its space for root (ext4: for an uid that its
// superblock names, and for CAP_SYS_RESOURCE), and CAP_SYS_RESOURCE is above
// quotas. Data is therefore written as nobody who has either, and only if there
// is no space for that, as one who has what the caller has: then it is worth to
// ask who that is.

// writer is who changes files for anybody. Remote file systems have to see their
// root, and stacked ones go on as their mounter.
func (f *FS) writer() sys.Creds {
	w := f.base
	if f.asCallers {
		w.Caps = f.caps // and their own ids
		return w
	}
	if f.depth == 1 && !f.remoteData && f.canBeNobody {
		w.FsUID = nobody
	}
	w.Caps = w.Caps.Without(unix.CAP_FSETID, unix.CAP_SYS_RESOURCE)
	return w
}

// canBecome reports whether the user namespace that the server runs in has an
// id. If it lacks one, its root is not the one that space is reserved for.
func (f *FS) canBecome(uid uint32) bool {
	c := f.base
	c.FsUID = uid
	return c.Run(f.base, f.permitted, func() unix.Errno { return 0 }) == 0
}

// spend runs a call that may need space as w and, if there is none, with the
// caller's claims to it. Those are of the caller's own id: the file system compares
// it as it is, whatever a mount maps.
func (f *FS) spend(w sys.Creds, pid uint32, call func() unix.Errno) unix.Errno {
	if f.asCallers {
		return f.withSetID(w.Caps.Has(unix.CAP_FSETID), call)
	}
	errno := w.Run(f.base, f.permitted, call)
	if !noSpace(errno) || f.remoteData {
		return errno
	}
	caller := subjectOf(pid)
	if caller.fsuid == invalidID {
		return errno
	}
	claims := w
	claims.FsUID = caller.fsuid
	claims.Caps |= f.aboveQuota(&caller)
	if claims.FsUID == w.FsUID && claims.Caps == w.Caps {
		return errno
	}
	return claims.Run(f.base, f.permitted, call)
}

func noSpace(errno unix.Errno) bool { return errno == unix.ENOSPC || errno == unix.EDQUOT }

// aboveQuota is CAP_SYS_RESOURCE if the caller has it.
func (f *FS) aboveQuota(caller *subject) sys.CapSet {
	const resource = 1 << unix.CAP_SYS_RESOURCE
	if f.permitted&resource != 0 && caller.capable(unix.CAP_SYS_RESOURCE) {
		return resource
	}
	return 0
}
