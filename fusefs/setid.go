package fusefs

import (
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Whoever changes the data or the owners of a file with S_ISUID or S_ISGID
// clears them, unless they have CAP_FSETID. The source does so by the rights of
// the thread that makes the change, and this server's threads have to make it
// with those of the caller.

// verdict is what is known of a caller's right to keep S_ISUID and S_ISGID.
type verdict uint8

const (
	askCaller  verdict = iota // find out
	askOfChown                // find out for a chown, which always clears S_ISUID
	mayKeep                   // the kernel says that they have CAP_FSETID
	mayNotKeep
)

// kernelVerdict is what a request says that the kernel has looked at.
func kernelVerdict(kill bool) verdict {
	if kill {
		return mayNotKeep
	}
	return mayKeep
}

// alter runs a call that changes data or owners of the file of fd, so that the
// source treats S_ISUID and S_ISGID, and what space is left, as it would for the
// caller.
func (f *FS) alter(pid uint32, fd int, v verdict, call func() unix.Errno) unix.Errno {
	var st unix.Stat_t
	if errno := sys.Stat(fd, &st); errno != 0 {
		return errno
	}
	w := f.writer()
	if !hasSetID(st.Mode) {
		return f.spend(w, pid, call)
	}
	w.Caps = w.Caps.Without(unix.CAP_FSETID)
	if v == mayKeep {
		w.Caps |= 1 << unix.CAP_FSETID
		return f.spend(w, pid, call)
	}
	caller := subjectOf(pid)
	member := f.mayKeepGroup(&caller, &st)
	switch {
	case v == askCaller && caller.capable(unix.CAP_FSETID) || v == askOfChown && member:
		w.Caps |= 1 << unix.CAP_FSETID
	case f.remoteData && !f.asCallers:
		// Its server takes ours for root, who may keep the bits, whatever
		// capabilities the thread has.
		errno := call()
		if errno != 0 {
			return errno
		}
		left := st.Mode & 07777 &^ lostBits(st.Mode, member)
		return f.withSetID(true, func() unix.Errno { return sys.Chmod(fd, left) })
	case !f.asCallers:
		w.FsGID = strangersGroup(&st, member)
	}
	return f.spend(w, pid, call)
}

// lostBits are those that a change takes from a mode.
func lostBits(mode uint32, member bool) uint32 {
	const group = unix.S_ISGID | unix.S_IXGRP
	if mode&group == group || !member {
		return unix.S_ISUID | unix.S_ISGID
	}
	return unix.S_ISUID
}

// hasSetID reports whether a file has bits that a change clears. Those of a
// directory mean something else.
func hasSetID(mode uint32) bool {
	return mode&(unix.S_ISUID|unix.S_ISGID) != 0 && mode&unix.S_IFMT != unix.S_IFDIR
}

// mayKeepGroup is about S_ISGID of a file that its group can't execute, which
// is not there for running it (in_group_or_capable() of the kernel).
func (f *FS) mayKeepGroup(caller *subject, st *unix.Stat_t) bool {
	uid, gid := f.own.seen(st)
	return caller.member(gid) || caller.capableOver(unix.CAP_FSETID, uid, gid)
}

// mayChown reports whether a caller who may change the owners of a file may
// also clear the bits that go with that, which is a change of its mode.
func (f *FS) mayChown(pid uint32, st *unix.Stat_t) bool {
	if !hasSetID(st.Mode) {
		return true
	}
	caller := subjectOf(pid)
	uid, _ := f.own.seen(st)
	if caller.owns(uid) {
		return true
	}
	const group = unix.S_ISGID | unix.S_IXGRP
	return st.Mode&unix.S_ISUID == 0 && st.Mode&group != group && f.mayKeepGroup(&caller, st)
}

// copiedUp reports whether a file with set-id bits is one that overlayfs copies
// to an upper layer on this mount: it has no name yet, and an attribute that
// nobody but root can give it. It gets its mode first and its owners then, which
// leave the mode alone, but the request is that of chown(2).
func copiedUp(fd int, st *unix.Stat_t) bool {
	if st.Nlink != 0 || !hasSetID(st.Mode) {
		return false
	}
	_, errno := sys.GetXattr(fd, "trusted.overlay.origin", nil)
	return errno == 0
}

// threadCaps are those that a thread has in a request.
func (f *FS) threadCaps() sys.CapSet {
	if f.asCallers {
		return f.caps
	}
	return f.base.Caps
}

// withoutCap runs a call without a capability.
func (f *FS) withoutCap(capability int, call func() unix.Errno) unix.Errno {
	base := f.threadCaps()
	if !base.Has(capability) {
		return call()
	}
	return sys.RunWithCaps(base.Without(capability), base, f.permitted, call)
}

// withSetID runs a call with CAP_FSETID or without.
func (f *FS) withSetID(privileged bool, call func() unix.Errno) unix.Errno {
	base := f.threadCaps()
	if base.Has(unix.CAP_FSETID) == privileged {
		return call()
	}
	with := base | 1<<unix.CAP_FSETID
	if !privileged {
		with = base.Without(unix.CAP_FSETID)
	}
	return sys.RunWithCaps(with, base, f.permitted, call)
}

// asStranger runs a call as somebody who lacks CAP_FSETID and is, or is not,
// in the group of the file.
func (f *FS) asStranger(st *unix.Stat_t, member bool, call func() unix.Errno) unix.Errno {
	if f.asCallers {
		return f.withSetID(false, call)
	}
	c := sys.Creds{FsUID: f.base.FsUID, FsGID: strangersGroup(st, member), Caps: f.caps.Without(unix.CAP_FSETID)}
	return c.Run(f.base, f.permitted, call)
}

// strangersGroup is that of the file, or another one.
func strangersGroup(st *unix.Stat_t, member bool) uint32 {
	switch {
	case member:
		return st.Gid
	case st.Gid == nobody:
		return nobody - 1
	}
	return nobody
}
