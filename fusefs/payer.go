package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
)

// payer returns the user whom a descriptor is kept for: the caller of a request. With
// relay most requests do not say who that is, and it is read from /proc, if crowded
// says that it matters; else, and if it can't be read, it is invalidID.
func (f *FS) payer(h *fuse.InHeader, crowded func() bool) uint32 {
	if h.Uid != invalidID || !f.own.relay || !crowded() {
		return h.Uid
	}
	return subjectOf(h.Pid).fsuid
}
