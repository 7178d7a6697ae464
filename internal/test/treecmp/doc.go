// Package treecmp reads whole directory trees and says how two of them differ.
//
// A [Tree] is what stat, readlink, listxattr, getxattr and read tell about
// every file below a directory, as plain data: it survives JSON, so a process
// in a user namespace can scan what it sees and hand the result to one outside.
//
//	before, err := treecmp.Scan("/srv/data")
//	...
//	after, err := treecmp.Scan("/srv/data")
//	for _, difference := range treecmp.Diff(before, after, treecmp.Options{}) {
//		fmt.Println(difference)
//	}
//
// Compared are type, mode, owners, size, device number, link target, content,
// every extended attribute (ACLs and file capabilities among them, byte by
// byte) and which names are hard links of one file. Times are left out unless
// asked for; inode numbers, link counts of directories and blocks never count,
// because they belong to the file system and not to the tree.
//
// Scan walks by descriptors and never follows a symbolic link below the root,
// so a tree that changes meanwhile cannot lead it elsewhere. It stays on the
// mount of the root: a mount point below is recorded as such and not entered.
// It needs /proc. It does not tell apart names that the kernel shows alike, and
// it is no snapshot: for an exact comparison nobody may write meanwhile.
package treecmp
