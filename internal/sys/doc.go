// Package sys is the floor of the house: one thin wrapper a system call, for
// the calls that golang.org/x/sys lacks or that need care with threads and
// file descriptors.
//
// Nothing here knows about maps or backends. Every descriptor that a function
// returns has O_CLOEXEC set and belongs to the caller. Failures are of type
// *Error, which names the operation and the path that the kernel rejected and
// unwraps to the errno:
//
//	mount_setattr /srv/data (nfs4, flags idmap|recursive): invalid argument
package sys
