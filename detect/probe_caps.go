package detect

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// needed are the capabilities that a FUSE server of ours uses on the source,
// besides CAP_SYS_ADMIN for the mount.
var needed = []struct {
	bit  uint
	name string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},             // mounts, trusted xattrs, passthrough
	{unix.CAP_CHOWN, "CAP_CHOWN"},                     // owners
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},       // the kernel has decided before us
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"}, // file handles
	{unix.CAP_FOWNER, "CAP_FOWNER"},                   // modes, times, xattrs
	{unix.CAP_FSETID, "CAP_FSETID"},                   // setgid bits
	{unix.CAP_SETUID, "CAP_SETUID"},                   // fsuid, user namespaces
	{unix.CAP_SETGID, "CAP_SETGID"},                   // fsgid, user namespaces
	{unix.CAP_MKNOD, "CAP_MKNOD"},                     // device nodes
	{unix.CAP_SETFCAP, "CAP_SETFCAP"},                 // file capabilities, maps with id 0
	{unix.CAP_LEASE, "CAP_LEASE"},                     // leases on others' files
	{unix.CAP_LINUX_IMMUTABLE, "CAP_LINUX_IMMUTABLE"}, // the flags +i and +a
}

func (r *Report) probeCapabilities() {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		r.Capabilities = unknown(&sys.Error{Op: "capget", Err: err}, "the capabilities of this process cannot be read")
		return
	}
	r.MissingCapabilities = missing(uint64(data[0].Effective) | uint64(data[1].Effective)<<32)
	if len(r.MissingCapabilities) > 0 {
		r.Capabilities = no(nil, "missing: %s", strings.Join(r.MissingCapabilities, " "))
		return
	}
	r.Capabilities = yes("this process has all that are needed")
}

func missing(effective uint64) []string {
	var names []string
	for _, c := range needed {
		if effective&(1<<c.bit) == 0 {
			names = append(names, c.name)
		}
	}
	return names
}
