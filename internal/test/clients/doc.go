// Package clients runs other people's programs on mounts made by idmount.
//
// The model is a stage: a directory at which one mount after the other is shown,
// each of a fresh and equal source. On each a program does the same work, as a
// user of the view where that is how people use it, and what it leaves behind on
// disk, what the mount shows of it and what it prints has to be what it left on
// the native mount, which comes first:
//
//	each(t, kinds, "ext4", shift, func(s *stage) outcome {
//		printed := s.sh(user, s.home("home", diskUser), script)
//		return s.outcome(printed, treecmp.Options{})
//	})
//
// What each program is there for:
//
//	git        many small files, renames over files, hard links of a clone
//	tar, rsync every kind of metadata, there and back
//	cp         what has only just been written
//	sqlite     record locks, and memory shared between processes and with the source
//	overlayfs  the kernel itself as a user: trusted.* attributes, whiteouts, O_TMPFILE
//	go         lots of processes; times and sizes that caches are trusted by
//	postgres   fsync, recovery after a crash, large files in small pieces
//
// dpkg is in internal/test/rootfs, which installs in a whole root.
//
// # Running
//
//	go test ./internal/test/clients                       short
//	IDMOUNT_CLIENTS=long go test ./internal/test/clients  as make soak does
//
// The long run does more of the same, and takes in postgres.
//
// # What overlayfs needs
//
// An upper layer on FUSE has to have RENAME_WHITEOUT, trusted.* attributes and
// O_TMPFILE (Linux 5.7); layers on idmapped mounts need Linux 5.19, and those of
// the relay backend 6.12. A mount with passthrough counts as one file system on
// top of another, of which the kernel allows two: an overlay can lie on our mount
// of a disk, and not on our mount of an overlay.
//
// There is nothing to import here.
package clients
