// Package rootfs installs real Debian packages in a real Debian root that is
// mounted by idmount, and looks whether every backend leaves the same tree.
//
// The model is a container's root file system. On disk it belongs to 0…, as
// mmdebstrap made it; the mount shows it as 100000…; the container is a user
// namespace with the map "0 100000 65536", in which it belongs to 0… again:
//
//	disk 0  --b:0:100000:65536-->  view 100000  --user namespace-->  0
//
// So what container root sees must be the disk, id for id, and whatever dpkg
// writes from inside must reach the disk as if real root had installed it. The
// test scans both sides and compares them with each other, and the disks of all
// backends among themselves; the native mount is the oracle where the kernel has
// it. The packages are chosen for what they do:
//
//	iputils-ping    its post-install script sets a file capability (setcap)
//	liblockfile-bin ships a set-group-ID file, root:mail
//	plocate         creates a system group, and chgrp's a set-group-ID file to it
//
// The root and the packages are fetched once, by mmdebstrap, and kept as a tar
// archive in the cache directory: $IDMOUNT_CACHE, else $XDG_CACHE_HOME/idmount,
// else idmount in the user's cache directory. The archive's name contains a hash
// of how it was made. Everything else happens in a temporary directory, in a
// private mount namespace that ends with the test.
//
// $IDMOUNT_BACKENDS, such as "native,translate", limits the backends.
//
// There is nothing to import here.
package rootfs
