package treecmp

import (
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// Tree maps every path below the root of a scan, relative to it and separated
// by slashes, to what was found there. The root itself is ".".
type Tree map[string]Entry

// Entry is one file of a tree, as the scanning process saw it: ids are those of
// its user namespace.
type Entry struct {
	Mode uint32 // st_mode, type and permissions
	UID  uint32
	GID  uint32
	Rdev uint64 `json:",omitempty"` // of device nodes
	Size int64  // of regular files; of others it is the file system's own affair

	// Link is the target of a symbolic link.
	Link string `json:",omitempty"`
	// Hash is the SHA-256 of a regular file's content.
	Hash []byte `json:",omitempty"`
	// Xattrs holds all extended attributes that the scanning process may list.
	Xattrs map[string][]byte `json:",omitempty"`
	// HardLinkOf is the first path of the scan that is the same inode; empty
	// for that first path itself, and for files with one name.
	HardLinkOf string `json:",omitempty"`
	// Mount says that another mount begins here; the rest describes its root.
	Mount bool `json:",omitempty"`
	// MtimeSec and MtimeNsec are the time of the last change of content.
	MtimeSec  int64
	MtimeNsec int64
}

// Perm returns the permission bits with set-user-id, set-group-id and sticky.
func (e Entry) Perm() uint32 { return e.Mode & 0o7777 }

// IsDir says whether the entry is a directory.
func (e Entry) IsDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular says whether the entry is a regular file.
func (e Entry) IsRegular() bool { return e.Mode&unix.S_IFMT == unix.S_IFREG }

// FileMode returns the mode as package io/fs spells it.
func (e Entry) FileMode() fs.FileMode {
	m := fs.FileMode(e.Mode & 0o777)
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	}
	if e.Mode&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if e.Mode&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if e.Mode&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// Paths returns all paths of the tree, sorted.
func (t Tree) Paths() []string {
	paths := make([]string, 0, len(t))
	for p := range t {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}
