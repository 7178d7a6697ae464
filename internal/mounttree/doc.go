// Package mounttree takes a tree of mounts apart and puts another one together,
// whose mounts may be of different kinds, where nobody sees it before it is whole.
//
// The kernel can move a mount onto a detached tree since Linux 6.15 only, and lists
// no detached tree at all. In a mount namespace both work since 5.2. So the work is
// done on a thread that has a mount namespace of its own:
//
//	err := mounttree.Private(func() error {
//		tree, err := mounttree.Open(clone) // of the source, recursive
//		...
//		view, err := tree.Assemble(piece, finish)
//		...
//	})
//	sys.MoveMountTo(view, target) // on another thread, which sees the target
//
// A mount is in the new tree where it is in the old one: below the mount that it is on
// there, at the same path. Only mounts that can be seen are part of it, not those that
// another mount covers. Mount points are looked up in mounts without a map, as root
// can't pass a directory whose owner a map does not have; a mount gets its map when all
// that belongs on it is there.
//
// The namespace ends with the call. What has been cloned in it stays.
package mounttree
