// Package kernels tries every backend on every kind of source on the kernels
// that internal/test/uml can boot, and on the one that runs:
//
//	make test-kernels
//
// The test binary starts itself in each kernel. There, for each source, it
//
//   - compares what `idmount detect --json` says of each backend with the
//     attempt itself, made by the plain calls;
//   - has the backends that the kernel offers mount the source, and runs a part
//     of the conformance suite and the walk-through on the mount;
//   - prints each result as one line of JSON.
//
// A cell of the matrix is one kernel, source and backend. It passes, fails, or
// the kernel has no such thing, with the kernel's own reason: the errno of the
// attempt. The tables in docs/kernels.md are the matrix of a whole run; a run of
// a part is compared with them.
//
// The oracle of every source is a native mount of ext4 on the kernel that the
// tests run on, recorded before. What a source does otherwise than ext4 by
// itself is found out case by case: the same scenario runs without any mount of
// ours, on ext4 and on the source, by who has on disk the ids that the map gives
// to the caller. What then is left, for other reasons than FUSE, is in
// limits_test.go, each with its own. A cell tells which of them hid something, and
// a whole run of all cases fails for one that nowhere did.
//
// What was not looked at does not pass: a source that no case of the suite could
// run on or whose abilities could not be found out, a source that was asked for and
// gave no cell, or a kernel that was asked for and can't be had.
//
// Which cases of the suite run is decided by the name of each, so that a new
// scenario does not change the others. IDMOUNT_KERNELS_CASES is about how many,
// or all of them, for which one source takes a quarter of an hour and more:
//
//	IDMOUNT_KERNELS=trixie IDMOUNT_KERNELS_SOURCES=nfs4 IDMOUNT_KERNELS_CASES=all \
//		go test -v -run TestKernels -timeout 6h ./internal/test/kernels
//
// What takes more than a source has tests of its own: a day with NFS, quotas, and
// io_uring.
package kernels
