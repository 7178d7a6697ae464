package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
)

// The exit codes. They are part of the command's interface and in its manual.
const (
	exitOK          = 0 // done
	exitFailure     = 1 // the system refused or failed
	exitUsage       = 2 // wrong command line, map, source or target
	exitUnsupported = 3 // this kernel or source can't do what was asked for
	exitPermission  = 4 // not enough privileges
)

func exitCode(err error) int {
	var usage *usageError
	var request *idmount.UsageError
	switch {
	case errors.Is(err, detect.ErrUnsupported):
		return exitUnsupported
	// A path that is right, and whose mount is dead.
	case isErrno(err, unix.ENOTCONN):
		return exitFailure
	// Before wrong paths: one that may not be looked at need not be wrong.
	case isErrno(err, unix.EPERM, unix.EACCES):
		return exitPermission
	case errors.As(err, &usage), errors.As(err, &request):
		return exitUsage
	}
	return exitFailure
}

// The exit codes of a mount helper, which mount(8) passes on as its own.
const (
	helperUsage   = 1 // wrong options, or not enough privileges
	helperSystem  = 2 // out of memory, no process
	helperSignal  = 8 // interrupted
	helperFailure = 32
)

func helperExitCode(err error) int {
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return helperUsage
	case errors.Is(err, context.Canceled):
		return helperSignal
	case isErrno(err, unix.EPERM, unix.EACCES) && os.Geteuid() != 0:
		return helperUsage
	case isErrno(err, unix.ENOMEM, unix.EAGAIN, unix.EMFILE, unix.ENFILE):
		return helperSystem
	}
	return helperFailure
}

// hintFor says what may help, in one line; "" if there is nothing to say.
func hintFor(err error) string {
	var usage *usageError
	var request *idmount.UsageError
	var call *sys.Error
	errors.As(err, &call)
	var force *forceError
	switch {
	case errors.As(err, &force):
		return force.hint()
	case errors.Is(err, idmap.ErrOverlap):
		return "each id may be in one range of its kind, and be seen as one id: shorten a COUNT, or move a range"
	case errors.As(err, &request) && request.Op == "target" && errors.Is(err, fs.ErrNotExist):
		return "mkdir -p " + request.Path + " makes it (touch, if SOURCE is a file); in fstab, X-mount.mkdir does"
	case isErrno(err, unix.ENOTCONN) && (request == nil || request.Op != "source"):
		return "the server of the mount has ended: idmount umount TARGET removes it, and then it can be mounted again"
	case errors.Is(err, idmount.ErrNotOurs) && len(fstabWarnings("/etc/fstab")) > 0:
		return fstabWarnings("/etc/fstab")[0]
	case errors.As(err, &usage) && exitCode(err) == exitUsage:
		return "idmount --help, or idmount COMMAND --help, shows the usage"
	case exitCode(err) == exitPermission && os.Geteuid() != 0:
		return "mounting takes root: try again with sudo"
	case call != nil && call.Path == sys.FuseDevice, errors.Is(err, sys.ErrNotFuseDevice):
		return "the device is made by: mknod -m 666 " + sys.FuseDevice + " c 10 229; a container has to be given it (--device " + sys.FuseDevice + ")"
	case errors.Is(err, detect.ErrUnsupported):
		return "idmount detect PATH says what works there; --backend=auto takes what does"
	case isErrno(err, unix.EBUSY) && call != nil && call.Op == "umount":
		return "a process uses the mount; --lazy removes it as soon as nobody does"
	case isErrno(err, unix.EBUSY):
		return "idmount umount TARGET removes the mount that is there"
	}
	return ""
}
