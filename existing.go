package idmount

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/mntopt"
	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/sys"
)

// ErrMounted is the cause when the target has the requested mount already: same
// source, map, kind of backend and options. It is an EBUSY.
var ErrMounted = fmt.Errorf("the same ID-mapped mount is there already: %w", unix.EBUSY)

// fuseType is the file system type of our FUSE mounts in mount tables.
const fuseType = "fuse.idmount"

// existing is an ID-mapped mount, native or of a FUSE server.
type existing struct {
	info   *mountinfo.Info
	root   *os.File // O_PATH, the caller's
	served bool
	record *record // of the server; nil if it has left none
}

// findExisting returns the ID-mapped mount that root is the root of, nil if it is
// of none or of another kind of mount.
func findExisting(root *os.File) (*existing, error) {
	target := root.Name()
	top, err := mounts.RootOf(root)
	if err != nil {
		return nil, fmt.Errorf("mount %s: look at what is there: %w", target, err)
	}
	if top == nil {
		return nil, nil
	}
	e := &existing{info: top, root: root, served: top.FSType == fuseType}
	if !e.served && !mounts.Idmapped(top) {
		return nil, nil
	}
	if e.served {
		// The root's attributes may be cached, and its server gone.
		err := unix.Fstatfs(int(root.Fd()), new(unix.Statfs_t))
		if err == unix.ENOTCONN || err == unix.ECONNABORTED {
			return nil, &sys.Error{Op: "mount", Path: target, Detail: "the server of the FUSE mount there has ended", Err: unix.ENOTCONN}
		}
		e.record = readRecord(uint32(top.Major), uint32(top.Minor))
	}
	return e, nil
}

// checkTarget refuses a target that has an ID-mapped mount already. The same mount
// again would hide the first one, which then stays after umount.
func (p *plan) checkTarget(want Backend) error {
	e, err := findExisting(p.dst)
	if err != nil || e == nil {
		return err
	}
	differs, err := e.differs(p, p.src, want)
	switch {
	case err != nil:
		return err
	case differs == "":
		return fmt.Errorf("mount %s: %w", p.target, ErrMounted)
	}
	return &sys.Error{Op: "mount", Path: p.target, Detail: "an ID-mapped mount is there already, with another " + differs, Err: unix.EBUSY}
}

// differs names what of the mount is not as the plan has it, "" if nothing is.
func (e *existing) differs(p *plan, source *os.File, want Backend) (string, error) {
	if want != Auto && e.served != (want != Native) {
		return "backend", nil
	}
	inPlace := p.source == p.target // then the source can't be seen any more
	if same, err := e.sameSource(source, inPlace); err != nil || !same {
		return "source", err
	}
	if same, err := e.sameMap(p.opts.Map, source, inPlace); err != nil || !same {
		return "map", err
	}
	if r := e.record; r != nil {
		switch {
		case r.Recursive != p.opts.Recursive:
			return "choice of submounts (recursive)", nil
		case r.Cache != p.opts.Cache.String():
			return "cache mode (" + r.Cache + ")", nil
		case p.opts.Access != AutoAccess && p.opts.Access != "" && r.Callers != (p.opts.Access == CallerAccess):
			return "access", nil
		}
	}
	return e.otherFlag(p.mount, source)
}

// sameSource compares the directories themselves. A FUSE mount has inode numbers of
// its own, so there it is what the server has noted down, and the mount table's path.
func (e *existing) sameSource(source *os.File, inPlace bool) (bool, error) {
	var src, dst unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &src); err != nil {
		return false, &sys.Error{Op: "stat", Path: source.Name(), Err: err}
	}
	switch {
	case inPlace:
		return !e.served || e.info.Source == source.Name(), nil
	case e.record != nil:
		return bytes.Equal(e.record.Source, []byte(source.Name())) && e.record.Dev == src.Dev && e.record.Ino == src.Ino, nil
	case e.served:
		return e.info.Source == source.Name(), nil
	}
	if err := unix.Fstat(int(e.root.Fd()), &dst); err != nil {
		return false, &sys.Error{Op: "stat", Path: e.root.Name(), Err: err}
	}
	return src.Dev == dst.Dev && src.Ino == dst.Ino, nil
}

// sameMap compares the map with that of the mount, as the server has noted it down or
// as the kernel says since Linux 6.15. Where neither does, it compares the owner of
// the mount's root with what the map makes of source's. In place, that can't be seen.
func (e *existing) sameMap(m idmap.Map, source *os.File, inPlace bool) (bool, error) {
	if e.record != nil {
		return m.Equal(e.record.Map), nil
	}
	if own, mapped, err := mounts.MapOf(e.root); mapped && err == nil {
		// The map of a native mount has that of its source in it.
		if below, mapped, err := mounts.MapOf(source); !e.served && !inPlace && mapped && err == nil {
			if m, err = below.Compose(m); err != nil {
				return false, nil
			}
		}
		return own.Equal(m) || own.Equal(withStandIn(m)), nil
	}
	if inPlace {
		return true, nil
	}
	var src, dst unix.Stat_t
	for f, st := range map[*os.File]*unix.Stat_t{source: &src, e.root: &dst} {
		if err := unix.Fstat(int(f.Fd()), st); err != nil {
			return false, &sys.Error{Op: "stat", Path: f.Name(), Err: err}
		}
	}
	uid, ok := m.ViewUID(idmap.DiskUID(src.Uid))
	if !ok {
		uid = idmap.OverflowID
	}
	gid, ok := m.ViewGID(idmap.DiskGID(src.Gid))
	if !ok {
		gid = idmap.OverflowID
	}
	return dst.Uid == uint32(uid) && dst.Gid == uint32(gid), nil
}

// withStandIn is the map as a user namespace has it: the kernel takes none in which
// no user or no group is mapped; see sys.EmptyMapStandIn.
func withStandIn(m idmap.Map) idmap.Map {
	standIn := []idmap.Extent{{Disk: 4294967294, View: 4294967294, Count: 1}}
	uids, gids := m.UIDs(), m.GIDs()
	if len(uids) == 0 {
		uids = standIn
	}
	if len(gids) == 0 {
		gids = standIn
	}
	with, err := idmap.New(uids, gids)
	if err != nil {
		return m
	}
	return with
}

// otherFlag names a flag that the mount has not as o asks for, or that it has and
// neither o nor the source does.
func (e *existing) otherFlag(o mntopt.Options, source *os.File) (string, error) {
	src, err := mounts.Of(source)
	if err != nil {
		return "", err
	}
	have, theirs := flagsOf(e.info), flagsOf(src)
	// A FUSE mount is also read-only where the file system of the source is.
	var st unix.Statfs_t
	if e.served && unix.Fstatfs(int(source.Fd()), &st) == nil && st.Flags&unix.ST_RDONLY != 0 {
		theirs |= unix.MOUNT_ATTR_RDONLY
	}
	if e.record != nil {
		theirs |= e.record.Narrow
	}
	asked := o.Set | o.Clear
	if bad := (have ^ o.Set) & asked; bad != 0 {
		return "flag (" + flagText(have, bad) + ")", nil
	}
	if bad := have &^ theirs &^ asked; bad != 0 {
		return "flag (" + flagText(have, bad) + ")", nil
	}
	return "", nil
}

// flagsOf returns the MOUNT_ATTR_* of a mount in the mount table. The table names every
// kind of access time but strictatime.
func flagsOf(m *mountinfo.Info) uint64 {
	l, err := mntopt.ParseHelper(m.Options, mntopt.User, true)
	if err != nil {
		return 0
	}
	flags := l.Mount.Set
	if l.Mount.Clear&unix.MOUNT_ATTR__ATIME == 0 {
		flags |= unix.MOUNT_ATTR_STRICTATIME
	}
	return flags
}

// flagText says which of bits are set in have and which not, as options.
func flagText(have, bits uint64) string {
	o := mntopt.Options{Set: have & bits, Clear: bits &^ have}
	if bits&unix.MOUNT_ATTR__ATIME != 0 {
		o.Clear |= unix.MOUNT_ATTR__ATIME
	}
	return o.String()
}

// Remount changes the flags of the ID-mapped mount of source at target, as `mount -o
// remount,bind` does: those that o.MountOptions lists and no others, and none of the
// mounts below. A map in o, a cache mode or an access other than the mount's own are
// errors, since these are settled when the mount is made. source only says, with
// o.Map, what the mount's map is.
func Remount(source, target string, o Options) error {
	fail := func(err error) error { return &UsageError{Op: "remount", Path: target, Err: err} }
	list, err := mntopt.ParseHelper(o.MountOptions, mntopt.User, false)
	if err != nil {
		return fail(err)
	}
	root, err := openPath("target", target)
	if err != nil {
		return err
	}
	defer root.Close()
	e, err := findExisting(root)
	if err != nil {
		return err
	}
	if e == nil {
		return fail(fmt.Errorf("%w, or not its root", ErrNotOurs))
	}
	const instead = "can't be changed by a remount: unmount it, and mount it again"
	if !o.Map.IsZero() {
		src, err := openPath("source", source)
		if err != nil {
			return err
		}
		defer src.Close()
		if same, err := e.sameMap(o.Map, src, src.Name() == root.Name()); err != nil {
			return err
		} else if !same {
			return fail(fmt.Errorf("the map %s", instead))
		}
	}
	if r := e.record; r != nil {
		if o.Cache != (Cache{}) && o.Cache.String() != r.Cache {
			return fail(fmt.Errorf("the cache mode, %s, %s", r.Cache, instead))
		}
		if o.Access != AutoAccess && o.Access != "" && r.Callers != (o.Access == CallerAccess) {
			return fail(fmt.Errorf("the access %s", instead))
		}
	}
	have := flagsOf(e.info)
	flags := have&^list.Mount.Clear | list.Mount.Set
	if e.served {
		switch {
		case (flags^have)&unix.MOUNT_ATTR__ATIME != 0:
			return fail(fmt.Errorf("the server keeps the times of access, which %s", instead))
		case have&^flags&unix.MOUNT_ATTR_RDONLY != 0 && (e.record == nil || e.record.ReadOnly):
			return fail(fmt.Errorf("the server has the source read-only, which %s", instead))
		case e.record == nil && have&^flags != 0, e.record != nil && have&^flags&e.record.Narrow != 0:
			return fail(fmt.Errorf("the flags of what is mounted below the source %s", instead))
		}
	}
	if err := sys.SetMountAttrs(e.root, flags); err != nil {
		return err
	}
	if list.Mount.Propagation != 0 {
		return sys.SetPropagation(e.root, list.Mount.Propagation, list.Mount.PropagationRecursive)
	}
	return nil
}

// swappedWarning says that the owner of the source's root is not on the disk side of
// the map but on its view side, and which entry has the owner if that is a mistake.
// It is "" otherwise: a map need not have the root's owner.
func swappedWarning(m idmap.Map, source *os.File) string {
	var st unix.Stat_t
	if unix.Fstat(int(source.Fd()), &st) != nil {
		return ""
	}
	var who, entries []string
	look := func(kind, letter string, id uint32, mapped bool, extents []idmap.Extent) {
		for _, e := range extents {
			if !mapped && id-e.View < e.Count {
				who = append(who, fmt.Sprintf("%s %d", kind, id))
				entries = append(entries, fmt.Sprintf("%s:%d:%d:%d", letter, e.View, e.Disk, e.Count))
			}
		}
	}
	_, mapped := m.ViewUID(idmap.DiskUID(st.Uid))
	look("user", "u", st.Uid, mapped, m.UIDs())
	_, mapped = m.ViewGID(idmap.DiskGID(st.Gid))
	look("group", "g", st.Gid, mapped, m.GIDs())
	if len(who) == 0 {
		return ""
	}
	if len(entries) == 2 && entries[0][1:] == entries[1][1:] {
		entries = []string{"b" + entries[0][1:]}
	}
	return fmt.Sprintf("%s belongs to %s, on the view side of the map and not on its disk side: it shows as %d; TYPE:DISK:VIEW:COUNT the other way round is %s",
		source.Name(), strings.Join(who, " and "), idmap.OverflowID, strings.Join(entries, " "))
}
