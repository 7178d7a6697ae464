package idmap_test

import "encoding/binary"

// The wire formats, written a second time from the kernel's headers
// (posix_acl_xattr.h, capability.h), so that a test doesn't repeat a mistake.

var le = binary.LittleEndian

const (
	userObj  = 0x01
	user     = 0x02
	groupObj = 0x04
	group    = 0x08
	mask     = 0x10
	other    = 0x20
	noID     = 0xFFFFFFFF
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func acl(entries ...aclEntry) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		b = le.AppendUint16(b, e.tag)
		b = le.AppendUint16(b, e.perm)
		b = le.AppendUint32(b, e.id)
	}
	return b
}

// fileCap has sets whose bytes all differ; a rootid makes 4 bytes more.
func fileCap(revision byte, effective bool, rootid ...uint32) []byte {
	b := []byte{0, 0, 0, revision}
	if effective {
		b[0] = 1
	}
	words := 4
	if revision == 1 {
		words = 2
	}
	for i := range words {
		b = le.AppendUint32(b, 0x04030201+uint32(i)*0x10101010)
	}
	for _, id := range rootid {
		b = le.AppendUint32(b, id)
	}
	return b
}
