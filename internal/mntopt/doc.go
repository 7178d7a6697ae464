// Package mntopt reads the mount options that belong to a mount and not to its
// file system: the ones that a bind mount can have.
//
// mount_setattr(2) changes a mount by two sets of bits, those to set and those
// to clear, and by a propagation type; Options is that. An option in the list
// says something about its own bits only, so "nosuid" leaves a read-only
// source read-only:
//
//	o, err := mntopt.Parse("ro,nosuid,noatime,private")
//	// o.Set   = MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NOATIME
//	// o.Clear = MOUNT_ATTR__ATIME
//
// Where two options contradict each other the later one wins, as in mount(8).
// The kernel takes the access time options (relatime, noatime, strictatime) as
// one value of three, so that whoever sets one clears the whole class; Set and
// Clear may overlap there and nowhere else.
//
// Options of a file system, and those that are for mount(8) alone (user, auto,
// x-*), are refused by name: it is the caller who knows which to strip.
package mntopt
