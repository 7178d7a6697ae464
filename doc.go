// Package idmount makes ID-mapped mounts that work everywhere: a directory tree
// shown at another place with its owners translated by a map, and nothing
// changed on disk.
//
// Mount asks what the kernel and the source can do and takes the best way:
//
//   - native: the kernel's own idmapped mount (Linux 5.12 and later, on file
//     systems that have it);
//   - relay: a FUSE mount of the source that the kernel idmaps (Linux 6.12);
//   - translate: a FUSE mount that translates owners itself (every other kernel).
//
// For example, to show a root file system of ids 0 to 65535 to a container whose
// user namespace begins at 100000:
//
//	m, err := idmap.Parse([]string{"b:0:100000:65536"}, nil)
//	...
//	mounted, err := idmount.Mount(ctx, "/srv/images/debian", "/run/box/root",
//		idmount.Options{Map: m})
//	...
//	defer idmount.Unmount("/run/box/root", false)
//	log.Printf("%s: %s", mounted.Backend, mounted.Reason)
//
// The FUSE backends are served by a process of their own, the program idmount,
// which has to be installed; it lives as long as the mount and does not need the
// caller.
//
// The package never prints and never ends the process. Errors name the
// operation, the path and the cause.
package idmount
