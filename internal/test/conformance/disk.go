package conformance

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A Disk prepares the directory of a case, on the source and as root. The
// first error sticks, and later calls do nothing.
type Disk struct {
	Dir string
	Map *Map
	Err error
}

func (d *Disk) do(what string, f func() error) {
	if d.Err != nil {
		return
	}
	if err := f(); err != nil {
		d.Err = fmt.Errorf("%s: %w", what, err)
	}
}

func (d *Disk) path(name string) string { return filepath.Join(d.Dir, name) }

// File makes a file with the content "data of NAME\n". Owner is a pair of roles.
func (d *Disk) File(name, owner string, mode uint32) {
	d.do("file "+name, func() error {
		if err := os.WriteFile(d.path(name), []byte("data of "+name+"\n"), 0o600); err != nil {
			return err
		}
		return d.own(name, owner, mode)
	})
}

// Mkdir makes a directory, or changes the one that is there: "" is that of
// the case itself.
func (d *Disk) Mkdir(name, owner string, mode uint32) {
	d.do("mkdir "+name, func() error {
		if name != "" {
			if err := os.Mkdir(d.path(name), 0o700); err != nil {
				return err
			}
		}
		return d.own(name, owner, mode)
	})
}

// Node makes a node of any other type.
func (d *Disk) Node(name, owner string, mode uint32, dev int) {
	d.do("mknod "+name, func() error {
		if err := unix.Mknod(d.path(name), mode&unix.S_IFMT|0o600, dev); err != nil {
			return err
		}
		return d.own(name, owner, mode&^unix.S_IFMT)
	})
}

// Symlink makes a symbolic link.
func (d *Disk) Symlink(target, name, owner string) {
	d.do("symlink "+name, func() error {
		if err := os.Symlink(target, d.path(name)); err != nil {
			return err
		}
		uid, gid := d.Map.owner(owner)
		return os.Lchown(d.path(name), uid, gid)
	})
}

// Link makes a hard link.
func (d *Disk) Link(from, to string) {
	d.do("link "+to, func() error { return os.Link(d.path(from), d.path(to)) })
}

// Times sets the time of the last access and that of the last change.
func (d *Disk) Times(name string, ts []unix.Timespec) {
	d.do("times of "+name, func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, d.path(name), ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// own sets the mode last: chown clears some of it.
func (d *Disk) own(name, owner string, mode uint32) error {
	uid, gid := d.Map.owner(owner)
	if err := os.Lchown(d.path(name), uid, gid); err != nil {
		return err
	}
	return unix.Chmod(d.path(name), mode)
}

// Program makes a copy of cat, which reads /proc/self/status in exec scenarios.
func (d *Disk) Program(name, owner string, mode uint32) {
	d.do("program "+name, func() error {
		in, err := os.Open("/bin/cat")
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		return d.own(name, owner, mode)
	})
}

// Script makes a program that cat interprets.
func (d *Disk) Script(name, owner string, mode uint32) {
	d.do("script "+name, func() error {
		if err := os.WriteFile(d.path(name), []byte("#!/bin/cat\ntext of "+name+"\n"), 0o600); err != nil {
			return err
		}
		return d.own(name, owner, mode)
	})
}

// Xattr sets an extended attribute. File systems without that kind of
// attribute leave the case without it, on every backend alike.
func (d *Disk) Xattr(name, attr string, value []byte) {
	d.do("setxattr "+name, func() error {
		err := unix.Lsetxattr(d.path(name), attr, value, 0)
		if err == unix.EOPNOTSUPP {
			return nil
		}
		return err
	})
}

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
	capability = "security.capability"
)

// An ACLEntry is one entry of acl(5). Tags: 1 owner, 2 user, 4 owning group,
// 8 group, 16 mask, 32 other.
type ACLEntry struct {
	Tag, Perm uint16
	ID        uint32
}

const (
	ACLOwner  = 1
	ACLUser   = 2
	ACLOwners = 4
	ACLGroup  = 8
	ACLMask   = 16
	ACLOther  = 32
)

// ACLXattr encodes entries between those that every ACL has.
func ACLXattr(owner, group, mask, other uint16, named ...ACLEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(e ACLEntry) {
		b = binary.LittleEndian.AppendUint16(b, e.Tag)
		b = binary.LittleEndian.AppendUint16(b, e.Perm)
		b = binary.LittleEndian.AppendUint32(b, e.ID)
	}
	const none = 0xFFFFFFFF
	add(ACLEntry{ACLOwner, owner, none})
	for _, e := range named {
		if e.Tag == ACLUser {
			add(e)
		}
	}
	add(ACLEntry{ACLOwners, group, none})
	for _, e := range named {
		if e.Tag == ACLGroup {
			add(e)
		}
	}
	add(ACLEntry{ACLMask, mask, none})
	add(ACLEntry{ACLOther, other, none})
	return b
}

// CapNetRaw is CAP_NET_RAW, effective and permitted, as security.capability.
// Revision 2 has no root id.
func CapNetRaw(revision, rootID uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, revision<<24|1)
	b = binary.LittleEndian.AppendUint32(b, 1<<unix.CAP_NET_RAW)
	b = append(b, make([]byte, 12)...)
	if revision == 3 {
		b = binary.LittleEndian.AppendUint32(b, rootID)
	}
	return b
}
