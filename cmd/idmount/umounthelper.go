package main

import (
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
)

// umountHelperName is the program that umount(8) runs for our FUSE mounts:
//
//	umount.fuse.idmount TARGET [-flnrv] [-t TYPE]
//
// It keeps umount -f from umount2(2): with MNT_FORCE that aborts the FUSE connection,
// and so takes the files away from all who use the mount, a bind mount or a copy of it
// in a container, even if it then fails with EBUSY (fuse_umount_begin).
const umountHelperName = "umount.fuse.idmount"

func isUmountHelper(args []string) bool { return filepath.Base(args[0]) == umountHelperName }

func umountHelper(args []string) error {
	var targets []string
	var lazy, force bool
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--":
			targets = append(targets, args[i+1:]...)
			i = len(args)
		case a == "-t" || a == "-N":
			if i++; i == len(args) {
				return usagef("%s takes a value", a)
			}
			if a == "-N" {
				return usagef("-N (another mount namespace) is not supported: nsenter(1) gets there")
			}
		case len(a) > 1 && a[0] == '-':
			for _, flag := range a[1:] {
				switch flag {
				case 'f':
					force = true
				case 'l':
					lazy = true
				case 'n', 'r', 'v':
				default:
					return usagef("unknown option -%c", flag)
				}
			}
		default:
			targets = append(targets, a)
		}
	}
	if len(targets) != 1 {
		return usagef("want TARGET [-flnrv] [-t TYPE]")
	}
	err := idmount.Unmount(targets[0], lazy)
	if force && isErrno(err, unix.EBUSY) {
		return &forceError{err}
	}
	return err
}

// forceError is an EBUSY that -f does not overcome.
type forceError struct{ err error }

func (e *forceError) Error() string { return e.err.Error() }
func (e *forceError) Unwrap() error { return e.err }

func (e *forceError) hint() string {
	return "-f would end the mount for all who use it, at every place: umount -l removes it from this place alone"
}
