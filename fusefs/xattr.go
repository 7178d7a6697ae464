package fusefs

import (
	"bytes"
	"errors"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
)

const (
	xattrAccessACL  = "system.posix_acl_access"
	xattrDefaultACL = "system.posix_acl_default"
	xattrFileCap    = "security.capability"
	maxFileCap      = 24       // XATTR_CAPS_SZ_3
	maxXattr        = 64 << 10 // XATTR_SIZE_MAX, XATTR_LIST_MAX
)

func isACL(name string) bool { return name == xattrAccessACL || name == xattrDefaultACL }

// carried reports whether an attribute is passed on. The kernel checks
// permissions for these families; of others in system.* (NFS's own ACLs, say)
// it leaves the check to the file system, and this one would grant them as
// root, with owners in them that no map has translated.
func carried(name string) bool {
	return isACL(name) || !strings.HasPrefix(name, "system.")
}

// GetXAttr implements fuse.RawFileSystem.
func (f *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if !carried(name) {
		return 0, fuse.Status(unix.EOPNOTSUPP)
	}
	f.labels.see(name)
	node, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return 0, fuse.Status(u.errno)
	}
	defer u.done()
	if strings.HasPrefix(name, userSpace) {
		if errno := f.mayReadAttribute(h, node, u.fd); errno != 0 {
			return 0, fuse.Status(errno)
		}
	}
	if f.own.relay || !isACL(name) && name != xattrFileCap {
		n, errno := sys.GetXattr(u.fd, name, dest)
		if errno == unix.EOPNOTSUPP && isACL(name) {
			errno = unix.ENODATA
		}
		if name == xattrAccessACL && len(dest) > 0 && (errno == 0 || errno == unix.ENODATA) {
			node.acl.sent(node.fingerprintACL(dest[:n]))
		}
		return answer(n, errno)
	}
	// Of a source that is ID-mapped itself, Linux 6.1 translates an ACL for a buffer
	// only that could be filled with one: 4 bytes, and 8 for each entry.
	var room [4 + 8*63]byte
	raw := room[:]
	n, errno := sys.GetXattr(u.fd, name, raw)
	if errno == unix.ERANGE {
		raw = make([]byte, maxXattr-4)
		n, errno = sys.GetXattr(u.fd, name, raw)
	}
	if errno == unix.EOPNOTSUPP && isACL(name) {
		// The kernel asks for ACLs before every access check, and EOPNOTSUPP
		// would fail it: a source without ACLs has none on this file.
		errno = unix.ENODATA
	}
	if name == xattrAccessACL && len(dest) > 0 && (errno == 0 || errno == unix.ENODATA) {
		node.acl.sent(node.fingerprintACL(raw[:n]))
	}
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	var value []byte
	var err error
	if name == xattrFileCap {
		value, err = idmap.ViewFileCap(f.own.m, raw[:n])
	} else {
		value, err = idmap.ViewACL(f.own.m, raw[:n])
	}
	if err != nil {
		// As the kernel says of one that it can't read.
		f.log.Debug("unreadable attribute on disk", "name", name, "cause", err)
		return 0, fuse.Status(unix.EINVAL)
	}
	if len(dest) == 0 {
		return uint32(len(value)), fuse.OK
	}
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func answer(n int, errno unix.Errno) (uint32, fuse.Status) {
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	return uint32(n), fuse.OK
}

// SetXAttr implements fuse.RawFileSystem.
func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if !carried(name) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	n, u := f.pathOf(in.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	var st unix.Stat_t
	a, errno := f.changer(&in.InHeader, n, u.fd, &st)
	if a.kind == asCaller && !f.mapped(&st) {
		errno = unix.EPERM
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	if !f.own.relay {
		var err error
		switch {
		case isACL(name):
			value, err = idmap.DiskACL(f.own.m, value)
		case name == xattrFileCap && len(value) > 0: // the kernel stores an empty one
			value, err = idmap.DiskFileCap(f.own.m, value)
		}
		if err != nil && a.kind == asCaller && name == xattrFileCap && !a.creds.Caps.Has(unix.CAP_SETFCAP) {
			return fuse.Status(unix.EPERM)
		}
		if err != nil {
			if !errors.Is(err, idmap.ErrUnmapped) && !errors.Is(err, idmap.ErrMalformed) {
				f.log.Debug("attribute refused", "name", name, "cause", err)
			}
			return fuse.Status(unix.EINVAL)
		}
	}
	defer f.watch.disturb(n)
	if name == xattrAccessACL {
		defer n.acl.dropped()
	}
	set := func() unix.Errno { return sys.SetXattr(u.fd, name, value, int(in.Flags)) }
	if a.kind == asCaller {
		return fuse.Status(f.by(&a, func() unix.Errno { return f.changeXattr(n, name, set) }))
	}
	if name == xattrAccessACL && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		return fuse.Status(f.asStranger(&st, false, set))
	}
	if name == xattrAccessACL {
		return fuse.Status(f.withSetID(true, set)) // S_ISGID stays
	}
	return fuse.Status(f.changeXattr(n, name, func() unix.Errno { return f.spend(f.writer(), in.Pid, set) }))
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if !carried(name) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	n, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return fuse.Status(u.errno)
	}
	defer u.done()
	var st unix.Stat_t
	a, errno := f.changer(h, n, u.fd, &st)
	if name == xattrFileCap {
		a = actor{} // the kernel removes it for whoever changes the data
	}
	if a.kind == asCaller && !f.mapped(&st) {
		errno = unix.EPERM
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer f.watch.disturb(n)
	if name == xattrAccessACL {
		defer n.acl.dropped()
	}
	remove := func() unix.Errno { return sys.RemoveXattr(u.fd, name) }
	if a.kind == asCaller {
		return fuse.Status(f.by(&a, func() unix.Errno { return f.changeXattr(n, name, remove) }))
	}
	if name == xattrAccessACL {
		// On tmpfs this clears S_ISGID as setting one does, and no flag says for whom.
		if st.Mode&unix.S_ISGID != 0 {
			caller := subjectOf(h.Pid)
			if f.mayKeepGroup(&caller, &st) {
				return fuse.Status(f.withSetID(true, remove))
			}
			return fuse.Status(f.asStranger(&st, false, remove))
		}
	}
	return fuse.Status(f.changeXattr(n, name, remove))
}

// ListXAttr implements fuse.RawFileSystem. File systems show trusted.* to who
// has CAP_SYS_ADMIN, as this server has, or to everybody: if there are such names,
// the source is asked as one with the caller's right. The server of a remote one
// knows nothing of that, so there they are left out here.
func (f *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	_, u := f.pathOf(h.NodeId)
	if u.errno != 0 {
		return 0, fuse.Status(u.errno)
	}
	defer u.done()
	hide := false
	raw, errno := listXattrs(u.fd)
	if errno == 0 && hasTrusted(raw) {
		caller := subjectOf(h.Pid)
		switch {
		case caller.capable(unix.CAP_SYS_ADMIN):
		case f.remoteData:
			hide = true
		default:
			errno = f.withoutCap(unix.CAP_SYS_ADMIN, func() (errno unix.Errno) {
				raw, errno = listXattrs(u.fd)
				return errno
			})
		}
	}
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	shown := raw[:0]
	for rest := raw; len(rest) > 0; {
		end := bytes.IndexByte(rest, 0) + 1
		if end == 0 {
			end = len(rest)
		}
		name := strings.TrimSuffix(string(rest[:end]), "\x00")
		if carried(name) && !(hide && strings.HasPrefix(name, trustedSpace)) {
			shown = append(shown, rest[:end]...)
		}
		rest = rest[end:]
	}
	if len(dest) == 0 {
		return uint32(len(shown)), fuse.OK
	}
	if len(shown) > len(dest) {
		return uint32(len(shown)), fuse.ERANGE
	}
	return uint32(copy(dest, shown)), fuse.OK
}

func listXattrs(fd int) ([]byte, unix.Errno) {
	raw := make([]byte, 1024)
	n, errno := sys.ListXattr(fd, raw)
	if errno == unix.ERANGE {
		raw = make([]byte, maxXattr)
		n, errno = sys.ListXattr(fd, raw)
	}
	if errno != 0 {
		return nil, errno
	}
	return raw[:n], 0
}

const (
	trustedSpace = "trusted."
	userSpace    = "user."
)

// hasTrusted reports whether a list has a name in trusted.*.
func hasTrusted(list []byte) bool {
	return bytes.HasPrefix(list, []byte(trustedSpace)) || bytes.Contains(list, []byte("\x00"+trustedSpace))
}
