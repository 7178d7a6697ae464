package idmap

import (
	"encoding/binary"
	"fmt"
)

// The format of security.capability (include/uapi/linux/capability.h), all
// little-endian: a revision with flags, then permitted and inheritable sets of
// 32 bits each, once in revision 1 and twice later, then in revision 3 the
// user id of the root of the user namespace that the capabilities hold in.
const (
	capRevisionMask = 0xFF000000
	capRevision1    = 0x01000000
	capRevision2    = 0x02000000
	capRevision3    = 0x03000000
	capEffective    = 0x00000001
	capSize1        = 12
	capSize2        = 20
	capSize3        = 24
)

// ViewFileCap translates the value of security.capability from disk to view:
// always revision 3, whose rootid is the disk's (0 before revision 3) seen
// through the map, 4294967295 if that is unmapped. Capabilities of root that
// stay root's keep revision 2.
//
// Revision 2 must not be passed on as it is: it means root of whoever looks, so
// that on a mount for a container it would give capabilities to users outside.
func ViewFileCap(m Map, disk []byte) ([]byte, error) {
	wide, rootid, err := widen(disk)
	if err != nil {
		return nil, err
	}
	view, ok := m.uid.view(rootid)
	if !ok {
		view = invalid
	}
	if view == 0 && rootid == 0 {
		binary.LittleEndian.PutUint32(wide, capRevision2|binary.LittleEndian.Uint32(wide)&^capRevisionMask)
		return wide[:capSize2], nil
	}
	binary.LittleEndian.PutUint32(wide[capSize2:], view)
	return wide, nil
}

// DiskFileCap translates the value of security.capability from view to disk:
// always revision 3. A rootid (0 before revision 3) that is unmapped is an
// ErrUnmapped.
func DiskFileCap(m Map, view []byte) ([]byte, error) {
	wide, rootid, err := widen(view)
	if err != nil {
		return nil, err
	}
	disk, ok := m.uid.disk(rootid)
	if !ok {
		return nil, fmt.Errorf("file capability of rootid %d: %w", rootid, ErrUnmapped)
	}
	binary.LittleEndian.PutUint32(wide[capSize2:], disk)
	return wide, nil
}

// widen returns a copy of the value in revision 3, and its rootid.
func widen(in []byte) (wide []byte, rootid uint32, err error) {
	if len(in) < 4 {
		return nil, 0, fmt.Errorf("file capability of %d bytes: %w", len(in), ErrMalformed)
	}
	magic := binary.LittleEndian.Uint32(in)
	revision, flags := magic&capRevisionMask, magic&^capRevisionMask
	size := map[uint32]int{capRevision1: capSize1, capRevision2: capSize2, capRevision3: capSize3}[revision]
	if len(in) != size || flags&^capEffective != 0 {
		return nil, 0, fmt.Errorf("file capability of %d bytes, header %#x: %w", len(in), magic, ErrMalformed)
	}
	wide = make([]byte, capSize3)
	copy(wide, in)
	binary.LittleEndian.PutUint32(wide, capRevision3|flags)
	if revision == capRevision3 {
		rootid = binary.LittleEndian.Uint32(in[capSize2:])
	}
	return wide, rootid, nil
}
