package idmap

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrUnmapped is the cause when an id has no counterpart on the other side.
	ErrUnmapped = errors.New("id is not mapped")
	// ErrMalformed is the cause when bytes are not what they should be.
	ErrMalformed = errors.New("malformed")
)

// ACLStandIn is shown in ACLs for a named user or group that is unmapped. The
// kernel rejects an ACL with -1 in it, and an entry left out would be deleted
// on disk by the next program that reads the ACL and writes it back.
const ACLStandIn = 0xFFFFFFFE

// The format of system.posix_acl_access and system.posix_acl_default: a version,
// then entries of tag, permissions and id (include/uapi/linux/posix_acl_xattr.h),
// all little-endian. Only named users and groups have a meaningful id.
const (
	aclVersion   = 2
	aclHeader    = 4
	aclEntry     = 8
	aclUserObj   = 0x01
	aclUser      = 0x02
	aclGroupObj  = 0x04
	aclGroup     = 0x08
	aclMask      = 0x10
	aclOther     = 0x20
	aclPermsMask = 0x07
)

// ViewACL translates the value of system.posix_acl_access or _default from disk
// to view. Unmapped ids become ACLStandIn.
func ViewACL(m Map, disk []byte) ([]byte, error) {
	return translateACL(disk, func(tag uint16, id uint32) (uint32, bool) {
		t := m.uid
		if tag == aclGroup {
			t = m.gid
		}
		if view, ok := t.view(id); ok {
			return view, true
		}
		return ACLStandIn, true
	})
}

// DiskACL translates the value of system.posix_acl_access or _default from view
// to disk. An unmapped id is an ErrUnmapped.
func DiskACL(m Map, view []byte) ([]byte, error) {
	return translateACL(view, func(tag uint16, id uint32) (uint32, bool) {
		if tag == aclGroup {
			return m.gid.disk(id)
		}
		return m.uid.disk(id)
	})
}

func translateACL(in []byte, translate func(tag uint16, id uint32) (uint32, bool)) ([]byte, error) {
	if len(in) < aclHeader || (len(in)-aclHeader)%aclEntry != 0 {
		return nil, fmt.Errorf("acl of %d bytes: %w", len(in), ErrMalformed)
	}
	if v := binary.LittleEndian.Uint32(in); v != aclVersion {
		return nil, fmt.Errorf("acl of version %d: %w", v, ErrMalformed)
	}
	out := make([]byte, len(in))
	copy(out, in)
	for e := out[aclHeader:]; len(e) > 0; e = e[aclEntry:] {
		tag, perms := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:])
		if perms&^aclPermsMask != 0 {
			return nil, fmt.Errorf("acl permissions %#x: %w", perms, ErrMalformed)
		}
		switch tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
		case aclUser, aclGroup:
			id := binary.LittleEndian.Uint32(e[4:])
			other, ok := translate(tag, id)
			if !ok {
				return nil, fmt.Errorf("acl entry for id %d: %w", id, ErrUnmapped)
			}
			binary.LittleEndian.PutUint32(e[4:], other)
		default:
			return nil, fmt.Errorf("acl tag %#x: %w", tag, ErrMalformed)
		}
	}
	return out, nil
}
