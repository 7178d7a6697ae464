package fusefs

import (
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
)

// The kernel judges by the owners, the mode and the ACL that it has of an inode. Those
// may have changed at the source a moment ago, and an invalidation makes only some
// checks ask for new ones: setattr_prepare, check_sticky, may_linkat, O_NOATIME and
// the check for setting an ACL take the owner as it is. So the server compares what
// the kernel has (kernelCopy) with what the file has now. If they differ, it judges
// again: it makes the call with the ids, the groups and the capabilities of the caller,
// and the source's kernel decides, under its own locks.
//
// What remains of a change between that comparison and the call is what could have
// been the other way round on a native mount as well, but for set-user-ID and
// set-group-ID bits, groups, and names in sticky directories: there the call is made
// with the rights that the kernel's judgement rests on, and no more.

// actor is with whose rights a call is made at the source.
type actor struct {
	kind  actorKind
	creds sys.Creds
}

type actorKind uint8

const (
	asServer actorKind = iota // the kernel's judgement stands
	asOwner                   // it does while the owners are the same: EPERM if not
	asCaller                  // the source judges
)

// by makes a call as an actor.
func (f *FS) by(a *actor, call func() unix.Errno) unix.Errno {
	switch {
	case a.kind == asServer:
		return call()
	case f.asCallers:
		return sys.RunWithCaps(a.creds.Caps, f.caps, f.permitted, call)
	}
	base := f.base
	if a.creds.Groups != nil {
		base.Groups = f.groups
	}
	return a.creds.Run(base, f.permitted, call)
}

// judging are the capabilities that decide, for one inode, about what a caller may do.
const judging = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_SETFCAP

// directoryCaps are those of judging that count for the directory of a name.
const directoryCaps = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// caller is the actor that has the rights of the caller of h: over the directories
// whose names change, and over the files.
func (f *FS) caller(h *fuse.InHeader, directories, files []*unix.Stat_t) actor {
	p := f.callerOnDisk(h)
	var caps sys.CapSet
	switch over := f.over(&p, files); {
	case len(directories) == 0 && over:
		caps = judging
	case len(directories) == 0 && f.overUsers(&p, files):
		caps = 1 << unix.CAP_FOWNER // inode_owner_or_capable() of the kernel
	case len(directories) > 0:
		if f.over(&p, directories) {
			caps = directoryCaps
		}
		if over {
			caps |= judging &^ directoryCaps
		}
	}
	const all = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER
	if f.remoteData && !f.asCallers && caps&p.caps&all == all {
		return actor{} // its server knows no capability of a caller's
	}
	a := actor{kind: asCaller, creds: sys.Creds{
		FsUID:  p.fsuid,
		FsGID:  p.fsgid,
		Groups: p.groups,
		Caps:   f.threadCaps()&^judging | caps&p.caps&f.permitted,
	}}
	if a.creds.FsUID == invalidID {
		a.creds.FsUID = f.nobodyOf(func(id uint32, st *unix.Stat_t) bool { return st.Uid == id }, directories, files)
	}
	if a.creds.FsGID == invalidID {
		a.creds.FsGID = f.nobodyOf(func(id uint32, st *unix.Stat_t) bool { return st.Gid == id }, directories, files)
	}
	return a
}

// callerOnDisk is who made a request, with the ids and groups as they are on disk:
// invalidID where the map has none. A request whose ids are not those of its thread is
// made with the credentials of somebody else (overlayfs, io_uring), of whom no more is
// known.
func (f *FS) callerOnDisk(h *fuse.InHeader) subject {
	p := subjectOf(h.Pid)
	uid, gid := f.diskOf(p.fsuid, p.fsgid)
	if wire, ok := f.own.diskUID(h.Uid); ok || !f.own.relay {
		if !ok {
			wire = invalidID
		}
		if wire != uid || !f.own.relay && h.Uid != p.fsuid {
			p.caps, p.groups = 0, nil
		}
		uid = wire
	}
	if wire, ok := f.own.diskGID(h.Gid); ok {
		gid = wire
	} else if !f.own.relay {
		gid = invalidID
	}
	p.fsuid, p.fsgid = uid, gid
	groups := make([]uint32, 0, len(p.groups))
	for _, view := range p.groups {
		if g, ok := f.own.m.DiskGID(idmap.ViewGID(view)); ok {
			groups = append(groups, uint32(g))
		}
	}
	p.groups = groups
	return p
}

// diskOf are the ids on disk of a process's ids.
func (f *FS) diskOf(uid, gid uint32) (uint32, uint32) {
	u, uok := f.own.m.DiskUID(idmap.ViewUID(uid))
	g, gok := f.own.m.DiskGID(idmap.ViewGID(gid))
	if !uok || uid == invalidID {
		u = invalidID
	}
	if !gok || gid == invalidID {
		g = invalidID
	}
	return uint32(u), uint32(g)
}

// over reports whether the capabilities of a process count for all of these files
// (privileged_wrt_inode_uidgid() of the kernel).
func (f *FS) over(p *subject, files []*unix.Stat_t) bool {
	for _, st := range files {
		uid, gid := f.own.seen(st)
		if !p.maps("uid_map", uid) || !p.maps("gid_map", gid) {
			return false
		}
	}
	return true
}

// overUsers is over for what asks for the user alone.
func (f *FS) overUsers(p *subject, files []*unix.Stat_t) bool {
	for _, st := range files {
		if uid, _ := f.own.seen(st); !p.maps("uid_map", uid) {
			return false
		}
	}
	return true
}

// nobodyOf is an id that none of the files has, for a caller who has none on disk.
func (f *FS) nobodyOf(has func(uint32, *unix.Stat_t) bool, lists ...[]*unix.Stat_t) uint32 {
candidates:
	for _, id := range []uint32{invalidID - 1, nobody, nobody - 1, nobody - 2, nobody - 3, nobody - 4} {
		if id == invalidID-1 && !f.canBecome(id) {
			continue
		}
		for _, files := range lists {
			for _, st := range files {
				if has(id, st) {
					continue candidates
				}
			}
		}
		return id
	}
	return nobody
}

// mapped reports whether the mount shows both owners of a file. The kernel lets nobody
// change one of which it does not.
func (f *FS) mapped(st *unix.Stat_t) bool {
	uid, gid := f.own.seen(st)
	return uid != invalidID && gid != invalidID
}

// isOwner reports whether the caller is known to be the owner of a file. With relay, a
// request that makes no file does not say who its caller is.
func (f *FS) isOwner(h *fuse.InHeader, st *unix.Stat_t) bool {
	uid, ok := f.own.diskUID(h.Uid)
	return ok && uid == st.Uid
}

// isCurrent reports whether the kernel judges the caller of h by what the file of n has
// now. If not, the kernel is told to ask.
func (f *FS) isCurrent(h *fuse.InHeader, n *node, fd int, st *unix.Stat_t) bool {
	if n.attrs.none() || n.attrs.is(n.fingerprint(st.Uid, st.Gid, st.Mode)) { // the kernel asks before it judges by nothing
		// An ACL counts for all but the owner, and not if its mask is empty.
		if n.acl.none() || st.Mode&unix.S_IRWXG == 0 || f.isOwner(h, st) {
			return true
		}
		if acl, errno := readACL(fd, xattrAccessACL, nil); errno == 0 && n.acl.is(n.fingerprintACL(acl)) {
			return true
		}
	}
	if f.conn != nil {
		f.conn.InvalidateInode(n.id, -1, 0)
	}
	return false
}

// readACL reads an ACL, which is empty if there is none.
func readACL(fd int, name string, buf []byte) ([]byte, unix.Errno) {
	if len(buf) == 0 {
		buf = make([]byte, 4+8*63)
	}
	n, errno := sys.GetXattr(fd, name, buf)
	if errno == unix.ERANGE {
		buf = make([]byte, maxXattr-4)
		n, errno = sys.GetXattr(fd, name, buf)
	}
	if errno == unix.ENODATA || errno == unix.EOPNOTSUPP {
		return nil, 0
	}
	return buf[:n], errno
}

// maker is who makes a name in a directory, of which st is what it is now.
func (f *FS) maker(h *fuse.InHeader, dir *node, fd int, st *unix.Stat_t) (actor, unix.Errno) {
	if f.isCurrent(h, dir, fd, st) {
		return actor{}, 0
	}
	if !f.mapped(st) {
		return actor{}, unix.EACCES
	}
	in := *st
	return f.caller(h, []*unix.Stat_t{&in}, nil), 0
}

// linker is who makes another name of a file.
func (f *FS) linker(h *fuse.InHeader, old *node, fd int, dir *node, dirfd int) (actor, unix.Errno) {
	var is, in unix.Stat_t
	if errno := sys.Stat(fd, &is); errno != 0 {
		return actor{}, errno
	}
	if !f.mapped(&is) {
		return actor{}, unix.EOVERFLOW
	}
	if errno := sys.Stat(dirfd, &in); errno != 0 {
		return actor{}, errno
	}
	stands := f.isCurrent(h, old, fd, &is)
	if f.isCurrent(h, dir, dirfd, &in) && stands {
		return actor{}, 0
	}
	if !f.mapped(&in) {
		return actor{}, unix.EACCES
	}
	file, directory := is, in
	// Both: fs.protected_hardlinks asks whether the caller may read and write the file.
	return f.caller(h, []*unix.Stat_t{&directory, &file}, []*unix.Stat_t{&file}), 0
}

// owner is an actor who may change a file that belongs to uid, and is in a group.
func (f *FS) owner(uid, gid uint32) actor {
	caps := f.base.Caps.Without(unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_FSETID)
	return actor{kind: asOwner, creds: sys.Creds{FsUID: uid, FsGID: gid, Caps: caps}}
}

// actsAsOwners reports whether the source judges by the ids of a thread, and they are
// the server's to choose.
func (f *FS) actsAsOwners() bool { return !f.remoteData && !f.asCallers }

// confirmed makes a change as the owner that the kernel has judged by, and as the
// caller if that is no longer the owner.
func (f *FS) confirmed(in *fuse.SetAttrIn, a *actor, fd int, change func() unix.Errno) unix.Errno {
	errno := f.by(a, change)
	if errno != unix.EPERM {
		return errno
	}
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		return errno
	}
	if st.Uid == a.creds.FsUID {
		return unix.EPERM // by an attribute: chattr +i
	}
	if !f.mapped(&st) {
		return unix.EOVERFLOW
	}
	again := f.caller(&in.InHeader, nil, []*unix.Stat_t{&st})
	return f.by(&again, change)
}

// remover is with whose rights names are removed from directories, or replaced there.
type remover struct {
	actor
	places [2]place
	n      int // of places
}

// place is a name in a directory that a request removes or replaces.
type place struct {
	dir  *node
	fd   int
	name string
	new  bool        // there must be no such name
	none bool        // there is none
	in   unix.Stat_t // the directory
	is   unix.Stat_t // the file of the name
}

// look reads what a place is.
func (p *place) look(f *FS) unix.Errno {
	if p.none = p.new; !p.new {
		errno := sys.StatAt(p.fd, p.name, &p.is)
		if p.none = errno == unix.ENOENT; errno != 0 && !p.none {
			return errno
		}
	}
	if !p.none && !f.mapped(&p.is) {
		return unix.EOVERFLOW
	}
	return sys.Stat(p.fd, &p.in)
}

// isCurrent reports whether the kernel judges by what the file of a place is now.
func (p *place) isCurrent(f *FS) bool {
	n := p.node(f)
	return n != nil && n.attrs.is(n.fingerprint(p.is.Uid, p.is.Gid, p.is.Mode))
}

// node returns that of the file of a place, nil if the kernel does not know it.
func (p *place) node(f *FS) *node {
	if n := f.withHandle(p.fd, p.name); n != nil {
		return n
	}
	var key keyBuf
	return f.nodes.find(key.ofInode(&p.is))
}

func (p *place) isSticky() bool { return !p.none && p.in.Mode&unix.S_ISVTX != 0 }

// isMovedDirectory reports whether a directory gets another parent, which takes the
// right to write to it.
func (r *remover) isMovedDirectory(p *place) bool {
	return r.n == 2 && r.places[0].dir != r.places[1].dir && !p.none && p.is.Mode&unix.S_IFMT == unix.S_IFDIR
}

// mayRemove finds out with whose rights names are removed. The first n places of r are set.
func (f *FS) mayRemove(h *fuse.InHeader, r *remover) unix.Errno {
	stands := true
	var sticky *place
	for i := range r.places[:r.n] {
		p := &r.places[i]
		if errno := p.look(f); errno != 0 {
			return errno
		}
	}
	for i := range r.places[:r.n] {
		p := &r.places[i]
		stands = f.isCurrent(h, p.dir, p.fd, &p.in) && stands
		if p.isSticky() {
			stands = stands && (f.isOwner(h, &p.is) || f.isOwner(h, &p.in) || p.isCurrent(f))
			sticky = p
		}
		if r.isMovedDirectory(p) {
			stands = stands && p.isCurrent(f) && p.node(f).acl.none()
		}
	}
	if !stands {
		return f.removeAsCaller(h, r)
	}
	if sticky != nil && f.actsAsOwners() && !r.stickyDiffer() {
		r.actor = actor{kind: asOwner, creds: sys.Creds{FsUID: sticky.is.Uid, FsGID: f.base.FsGID, Caps: f.base.Caps.Without(unix.CAP_FOWNER)}}
	}
	return 0
}

// stickyDiffer reports whether files of two owners lose names in sticky directories.
func (r *remover) stickyDiffer() bool {
	a, b := &r.places[0], &r.places[1]
	return r.n == 2 && a.isSticky() && b.isSticky() && a.is.Uid != b.is.Uid
}

func (f *FS) removeAsCaller(h *fuse.InHeader, r *remover) unix.Errno {
	var directories, files []*unix.Stat_t
	for i := range r.places[:r.n] {
		p := &r.places[i]
		in, is := p.in, p.is
		if !f.mapped(&in) {
			return unix.EACCES
		}
		directories = append(directories, &in)
		if p.none {
			continue
		}
		files = append(files, &is)
		if r.isMovedDirectory(p) {
			directories = append(directories, &is)
		}
	}
	r.actor = f.caller(h, directories, files)
	return 0
}

// remove makes a call that removes the names of r. If the owner has changed by which
// the kernel has judged, the source judges.
func (f *FS) remove(h *fuse.InHeader, r *remover, call func() unix.Errno) unix.Errno {
	errno := f.by(&r.actor, call)
	if errno != unix.EPERM || r.kind != asOwner {
		return errno
	}
	for i := range r.places[:r.n] {
		if errno := r.places[i].look(f); errno != 0 {
			return errno
		}
	}
	if errno := f.removeAsCaller(h, r); errno != 0 {
		return errno
	}
	return f.by(&r.actor, call)
}

// mayOpen judges an open file again if the kernel has judged by what the file of n no
// longer has. fd is any descriptor of it.
func (f *FS) mayOpen(n *node, fd int, in *fuse.OpenIn) unix.Errno {
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		return errno
	}
	if f.isCurrent(&in.InHeader, n, fd, &st) {
		return 0
	}
	var mask uint32
	switch access := in.Flags & unix.O_ACCMODE; {
	case in.Flags&forExec != 0:
		mask = unix.X_OK
	case access == unix.O_RDONLY:
		mask = unix.R_OK
	case access == unix.O_WRONLY:
		mask = unix.W_OK
	default:
		mask = unix.R_OK | unix.W_OK
	}
	if mask&unix.W_OK != 0 && !f.mapped(&st) {
		return unix.EACCES
	}
	now := st
	a := f.caller(&in.InHeader, nil, []*unix.Stat_t{&now})
	if errno := f.by(&a, func() unix.Errno { return sys.MayAccess(fd, mask) }); errno != 0 {
		return errno
	}
	if in.Flags&unix.O_NOATIME != 0 && !f.owns(&a, &st) {
		return unix.EPERM
	}
	return 0
}

// owns reports whether an actor may do what an owner may.
func (f *FS) owns(a *actor, st *unix.Stat_t) bool {
	uid, _ := f.own.seen(st)
	return uid != invalidID && (a.kind != asCaller || a.creds.FsUID == st.Uid || a.creds.Caps.Has(unix.CAP_FOWNER))
}

// mayReadAttribute is mayOpen for the attributes in user.*, which the mode protects.
func (f *FS) mayReadAttribute(h *fuse.InHeader, n *node, fd int) unix.Errno {
	return f.mayOpen(n, fd, &fuse.OpenIn{InHeader: *h, Flags: unix.O_RDONLY})
}

// changer is who changes an attribute of a file other than those of SETATTR. st is what
// the file is now.
func (f *FS) changer(h *fuse.InHeader, n *node, fd int, st *unix.Stat_t) (actor, unix.Errno) {
	if errno := sys.Stat(fd, st); errno != 0 {
		return actor{}, errno
	}
	if f.isCurrent(h, n, fd, st) {
		return actor{}, 0
	}
	now := *st
	return f.caller(h, nil, []*unix.Stat_t{&now}), 0
}

// isJudged reports whether the kernel has judged a SETATTR by owners or the mode. It
// has not if that goes by an open file (ftruncate(2)), or brings the times that the
// kernel keeps with CacheExclusive, or, before FUSE_HANDLE_KILLPRIV_V2, clears set-id
// bits for a write.
func (f *FS) isJudged(in *fuse.SetAttrIn, st *unix.Stat_t) bool {
	const attributes = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	judged := in.Valid&attributes != 0 || in.Valid&fuse.FATTR_SIZE != 0 && in.Valid&fuse.FATTR_FH == 0
	if f.cache.Mode == CacheExclusive && in.Valid&(attributes|fuse.FATTR_SIZE)&^fuse.FATTR_MTIME == 0 {
		return false
	}
	if mode, ok := in.GetMode(); ok && in.Valid&attributes == fuse.FATTR_MODE && f.kernel.Flags&capKillprivV2 == 0 && hasSetID(st.Mode) {
		const setID = unix.S_ISUID | unix.S_ISGID
		if mode&07777 == st.Mode&07777&^(setID&^mode) {
			return false
		}
	}
	return judged
}

// setAttrAgain is SetAttr by the rights of the caller.
func (f *FS) setAttrAgain(in *fuse.SetAttrIn, n *node, fd int, uid, gid uint32, st *unix.Stat_t) unix.Errno {
	now := *st
	a := f.caller(&in.InHeader, nil, []*unix.Stat_t{&now})
	if errno := f.setUnmapped(in, &a, uid, gid, st); errno != 0 {
		return errno
	}
	if size, ok := in.GetSize(); ok && in.Valid&fuse.FATTR_FH != 0 { // ftruncate(2) takes no more right
		if errno := f.truncate(n, fd, in, int64(size)); errno != 0 {
			return errno
		}
	} else if ok {
		done, errno := f.breakLeases(n, fd)
		if errno != 0 {
			return errno
		}
		defer done()
	}
	return f.by(&a, func() unix.Errno {
		if in.Valid&(fuse.FATTR_SIZE|fuse.FATTR_FH) == fuse.FATTR_SIZE {
			if errno := sys.Truncate(fd, int64(in.Size)); errno != 0 {
				return errno
			}
		}
		if uid != invalidID || gid != invalidID {
			if errno := sys.Chown(fd, uid, gid); errno != 0 {
				return errno
			}
		}
		if mode, ok := in.GetMode(); ok && n.typ != unix.S_IFLNK {
			if errno := sys.Chmod(fd, mode&07777); errno != 0 {
				return errno
			}
		}
		if ts, ok := timesOf(in); ok {
			return sys.Utimes(fd, ts)
		}
		return 0
	})
}

// setUnmapped answers for a file of which the mount does not show both owners, as
// notify_change() and chown_ok() of the kernel do. If all ids that are not shown are
// to be replaced, it gives the actor the right to do so.
func (f *FS) setUnmapped(in *fuse.SetAttrIn, a *actor, uid, gid uint32, st *unix.Stat_t) unix.Errno {
	if f.mapped(st) {
		return 0
	}
	seenUID, seenGID := f.own.seen(st)
	const both = fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW
	if in.Valid&fuse.FATTR_SIZE != 0 || in.Valid&both == both && !f.owns(a, st) {
		return unix.EACCES
	}
	if uid == invalidID && seenUID == invalidID || gid == invalidID && seenGID == invalidID {
		return unix.EOVERFLOW
	}
	p := subjectOf(in.Pid)
	owner := a.creds.FsUID == st.Uid
	member := gid == st.Gid || gid == a.creds.FsGID || slices.Contains(a.creds.Groups, gid)
	newUser := uid != invalidID && !(owner && uid == st.Uid)
	newGroup := gid != invalidID && !(owner && member)
	switch {
	case !newUser && !newGroup:
		return 0
	case newUser && seenUID != invalidID, newGroup && seenGID != invalidID, !p.capable(unix.CAP_CHOWN):
		return unix.EPERM
	}
	a.creds.Caps |= 1 << unix.CAP_CHOWN & f.permitted
	return 0
}
