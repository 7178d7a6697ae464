// Package native makes idmapped mounts by the kernel: the backend without a
// server and without any cost per operation.
//
// The source is copied as a detached mount, the copy gets the map and the
// mount options, and only a finished copy is attached:
//
//	open_tree(source, CLONE)            seen by nobody
//	mount_setattr(IDMAP, options)
//	move_mount(target)                  seen by all, complete
//
// An example, /srv/data with its ids from 0 on shown as ids from 100000 on:
//
//	m, err := idmap.Parse([]string{"b:0:100000:65536"}, resolver)
//	err = native.Mount("/srv/data", "/mnt", native.Options{Map: m})
//
// Guarantees:
//   - Source and target are resolved once, following symbolic links as
//     mount(8) does; after that only open files are used.
//   - On any error nothing is attached.
//   - A recursive mount has the map and the options on every submount, or
//     there is no mount. The error names the submount that refused. (mount(8)
//     gives the options to the topmost mount alone; here one view of a tree
//     has one set of options, with every backend.)
//   - An error from a mount names the operation, the path and the file system:
//     "mount_setattr /srv/data (overlay, flags idmap): invalid argument".
//
// A source that is idmapped already gets the new map on top of its own: "disk"
// is what the source shows, as with every backend. The kernel is given both maps
// as one, in place of the source's. That takes Linux 6.15 (open_tree_attr, and
// statmount for the source's map); earlier kernels answer EPERM, and the error
// says why. Mounts of a tree that have different maps are refused.
//
// A kind of id without any extent (a map of uids alone) needs a stand-in,
// because the kernel refuses an empty map: see sys.EmptyMapStandIn.
//
// Non-goals: choosing a backend (package detect), unmounting (umount(8) does
// it, there is nothing else to end), and mounts that appear below the source
// later: those come or not by the propagation type, without a map.
package native
