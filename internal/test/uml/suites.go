package uml

import "fmt"

// Suite is a Debian release whose user-mode-linux package can be booted.
type Suite struct {
	Name   string // of the Debian release
	Kernel string // the first two numbers of its kernel's release
	Shows  string // what this kernel is good for here
}

// Suites lists the suites, oldest kernel first.
var Suites = []Suite{
	{"bullseye", "5.10", "no mount_setattr (ENOSYS): translate, no passthrough"},
	{"bookworm", "6.1", "native on ext4, xfs, btrfs, EINVAL on tmpfs; translate, no passthrough"},
	{"trixie", "6.12", "native on tmpfs too; relay; passthrough"},
	{"sid", "7.2", "the newest; it moves"},
}

const (
	kernelPackage = "user-mode-linux"
	// Every kernel runs on its own suite's C library, so that it boots on a
	// host whose library is older (trixie's needs 2.38), or newer and without
	// what a kernel still links to.
	libcPackage = "libc6"
)

func findSuite(name string) (Suite, error) {
	for _, s := range Suites {
		if s.Name == name {
			return s, nil
		}
	}
	return Suite{}, fmt.Errorf("suite %q: none of bullseye, bookworm, trixie, sid", name)
}
