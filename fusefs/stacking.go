package fusefs

import (
	"golang.org/x/sys/unix"
)

// maxStackDepth is FILESYSTEM_MAX_STACK_DEPTH: a file system on a disk has depth 0, an
// overlay or a FUSE mount with passthrough one more than the deepest of what it lies on,
// and the kernel mounts none that would have more than this.
const maxStackDepth = 2

// passthroughDepth returns the stack depth that a FUSE mount needs for passthrough to
// files of a file system type, one more than theirs, and whether close(2) there
// reports errors that write(2) did not.
//
// A depth of 0 is for those that open a file as the calling process: with
// passthrough that is the mount's user, by ids that are not the source's.
func passthroughDepth(magic uint32) (depth int, remote bool) {
	switch magic {
	case unix.OVERLAYFS_SUPER_MAGIC, unix.ECRYPTFS_SUPER_MAGIC:
		return 2, false
	case unix.FUSE_SUPER_MAGIC:
		return 2, true
	case unix.NFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC:
		return 1, true
	case unix.V9FS_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		return 0, true
	}
	return 1, false
}

// Passthrough reports whether reads and writes go past the server, as far as that is
// known before a file is opened. It is for after Start.
func (f *FS) Passthrough() bool { return !f.passOff.Load() }

// Stacking returns how many overlays can be stacked on the mount, one on the other. It is
// for after Start.
func (f *FS) Stacking() int {
	if f.passOff.Load() && !f.passExec {
		return maxStackDepth
	}
	return maxStackDepth - f.depth
}

// StackingCostsPassthrough reports whether there would be passthrough if fewer overlays
// were to be stacked on the mount. It is for after Start.
func (f *FS) StackingCostsPassthrough() bool { return f.stacked }
