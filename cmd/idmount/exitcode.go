package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
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
	// Before wrong paths: one that may not be looked at need not be wrong.
	case isErrno(err, unix.EPERM, unix.EACCES):
		return exitPermission
	case errors.As(err, &usage), errors.As(err, &request):
		return exitUsage
	}
	return exitFailure
}

// hintFor says what may help, in one line; "" if there is nothing to say.
func hintFor(err error) string {
	var usage *usageError
	switch {
	case errors.As(err, &usage) && exitCode(err) == exitUsage:
		return "idmount --help, or idmount COMMAND --help, shows the usage"
	case exitCode(err) == exitPermission && os.Geteuid() != 0:
		return "mounting takes root: try again with sudo"
	case errors.Is(err, detect.ErrUnsupported):
		return "idmount detect PATH says what works there; --backend=auto takes what does"
	case isErrno(err, unix.EBUSY):
		return "a process uses the mount; --lazy removes it as soon as nobody does"
	}
	return ""
}
