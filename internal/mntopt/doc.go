// Package mntopt reads the option list of a mount, as -o, fstab(5) and mount(8)
// give it, in one place.
//
// mount_setattr(2) changes a mount by two sets of bits, those to set and those
// to clear, and by a propagation type; Options is that. An option in the list
// says something about its own bits only, so "nosuid" leaves a read-only
// source read-only:
//
//	l, err := mntopt.ParseList("ro,nosuid,noatime,private,map=b:0:100000:65536")
//	// l.Mount.Set    = MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NOATIME
//	// l.Mount.Clear  = MOUNT_ATTR__ATIME
//	// l.Own["map"]   = ["b:0:100000:65536"]
//
// Where two options contradict each other the later one wins, as in mount(8).
// The kernel takes the access time options (relatime, noatime, strictatime) as
// one value of three. An option that sets one of them clears the whole class:
// Set and Clear overlap there and nowhere else.
//
// ParseHelper reads the list of a mount helper. mount(8) adds "rw" to it, and
// mount.fuse(8) adds "suid" and "dev", although nobody has asked for them. There
// these options cancel an earlier "ro", "nosuid" or "nodev" of the list, and never
// clear a flag of the source. `mount --bind` of util-linux 2.38 does the same.
//
// A value in double quotes may have commas:
// context="system_u:object_r:container_file_t:s0:c1,c2".
package mntopt
