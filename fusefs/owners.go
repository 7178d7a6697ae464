package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
)

// invalidID is what the kernel turns to INVALID_UID and INVALID_GID.
const invalidID = 0xFFFFFFFF

// owners translates owners between the wire and the disk. With relay the kernel
// has done so already, the wire carries disk ids, and the map only tells who a
// caller is to a file.
type owners struct {
	m     idmap.Map
	relay bool
}

func (o *owners) viewUID(disk uint32) uint32 {
	if o.relay {
		return disk
	}
	return o.seenUID(disk)
}

func (o *owners) viewGID(disk uint32) uint32 {
	if o.relay {
		return disk
	}
	return o.seenGID(disk)
}

func (o *owners) seenUID(disk uint32) uint32 {
	if v, ok := o.m.ViewUID(idmap.DiskUID(disk)); ok {
		return uint32(v)
	}
	return invalidID
}

func (o *owners) seenGID(disk uint32) uint32 {
	if v, ok := o.m.ViewGID(idmap.DiskGID(disk)); ok {
		return uint32(v)
	}
	return invalidID
}

// seen are the owners of a file as processes have them, whatever the wire
// carries.
func (o *owners) seen(st *unix.Stat_t) (uid, gid uint32) {
	return o.seenUID(st.Uid), o.seenGID(st.Gid)
}

func (o *owners) diskUID(wire uint32) (uint32, bool) {
	if o.relay {
		return wire, wire != invalidID
	}
	v, ok := o.m.DiskUID(idmap.ViewUID(wire))
	return uint32(v), ok
}

func (o *owners) diskGID(wire uint32) (uint32, bool) {
	if o.relay {
		return wire, wire != invalidID
	}
	v, ok := o.m.DiskGID(idmap.ViewGID(wire))
	return uint32(v), ok
}

// diskGroups are the supplementary groups of a process, never nil. The map has
// to say what they are on disk with relay too: no request carries them.
func (o *owners) diskGroups(pid uint32) []uint32 {
	groups := subjectOf(pid).groups
	disk := make([]uint32, 0, len(groups))
	for _, view := range groups {
		if g, ok := o.m.DiskGID(idmap.ViewGID(view)); ok {
			disk = append(disk, uint32(g))
		}
	}
	return disk
}

// unmapped reports whether a caller may own nothing on disk. With relay the
// kernel has checked where it matters, and sends -1 where it does not.
func (o *owners) unmapped(caller fuse.Owner) bool {
	if o.relay {
		return false
	}
	_, uok := o.diskUID(caller.Uid)
	_, gok := o.diskGID(caller.Gid)
	return !uok || !gok
}

// attr fills in the answer to a stat. tag tells files of different devices
// below one source apart, which otherwise share inode numbers.
func (o *owners) attr(st *unix.Stat_t, tag uint16, a *fuse.Attr) {
	a.Ino = taggedIno(st.Ino, tag)
	a.Size = uint64(st.Size)
	a.Blocks = uint64(st.Blocks)
	a.Atime, a.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	a.Mtime, a.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	a.Ctime, a.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	a.Mode = st.Mode
	a.Nlink = uint32(st.Nlink)
	a.Uid = o.viewUID(st.Uid)
	a.Gid = o.viewGID(st.Gid)
	a.Rdev = wireRdev(uint64(st.Rdev))
	a.Blksize = uint32(st.Blksize)
}

// wireRdev encodes a device number as FUSE does (new_encode_dev of the kernel).
func wireRdev(dev uint64) uint32 {
	major, minor := unix.Major(dev), unix.Minor(dev)
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// diskRdev is the inverse of wireRdev.
func diskRdev(wire uint32) uint64 {
	return unix.Mkdev((wire&0xfff00)>>8, wire&0xff|(wire>>12)&0xfff00)
}

func taggedIno(ino uint64, tag uint16) uint64 { return ino ^ uint64(tag)<<48 }
