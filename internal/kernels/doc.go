// Package kernels tries every backend on every kind of source on the kernels
// that internal/uml can boot, and on the one that runs:
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
// The oracle of a source that the kernel idmaps is that very mount. For the
// others it is a native mount of ext4 on the kernel that the tests run on,
// recorded before; what a source itself does otherwise than ext4 is in
// limits_test.go, each with its reason.
//
// What takes more than a source has tests of its own: a day with NFS, and quotas.
package kernels
