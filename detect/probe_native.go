package detect

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/sys"
)

// probeMap answers Map, UserNS and TranslateMap, and returns a user namespace
// for the other probes: with the map if the kernel takes it, else with another.
func (r *Report) probeMap(m *idmap.Map) *os.File {
	uids, gids := throwawayMap("uid_map"), throwawayMap("gid_map")
	r.Map = yes("probed without a map")
	r.TranslateMap = yes("probed without a map")
	if m != nil {
		uids, gids = m.UIDMapText(), m.GIDMapText()
		r.TranslateMap = yes("translate takes the map")
		if err := m.CheckTranslate(); err != nil {
			r.TranslateMap = no(err, "translate cannot do this map")
		}
		r.Map = yes("the kernel takes a map of this size")
		if uids == "" || gids == "" {
			// mount_setattr answers EINVAL for an empty map.
			r.Map = yes("the kernel takes the map, with id 4294967294 mapped to itself in the kind that maps nothing")
		}
		// The texts of both kinds have the same limit, each on its own.
		if size, limit := max(len(uids), len(gids)), os.Getpagesize()-1; size > limit {
			r.Map = no(nil, "the map is too long for the kernel: %d bytes as text, at most %d fit", size, limit)
			uids, gids = throwawayMap("uid_map"), throwawayMap("gid_map")
		}
	}
	ns, err := sys.NewUserNamespace(uids, gids)
	switch {
	case err == nil:
		r.UserNS = yes("a user namespace can be made")
		return ns
	case isClone(err) && isAny(err, unix.EINVAL, unix.ENOSYS):
		r.UserNS = no(err, "the kernel has no user namespaces")
	case isClone(err) && isAny(err, unix.ENOSPC):
		r.UserNS = no(err, "no user namespace is allowed here: /proc/sys/user/max_user_namespaces")
	default:
		r.UserNS = unknown(err, "no user namespace could be made")
	}
	return nil
}

// throwawayMap is as good as any for finding out whether a file system takes a map:
// the kernel does not look at its contents. What it maps to has to be in the caller's
// own user namespace, whose map the file in /proc/self has.
func throwawayMap(file string) string {
	own, err := os.ReadFile("/proc/self/" + file)
	if err != nil {
		return throwawayMapIn("")
	}
	return throwawayMapIn(string(own))
}

// throwawayMapIn takes ids that nobody has, if the map has them, else the last of the
// longest extent: to map id 0 takes CAP_SETFCAP.
func throwawayMapIn(own string) string {
	const first, count = 100000, 65536
	var longest struct{ inside, count uint64 }
	for line := range strings.Lines(own) {
		var inside, outside, n uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &n); err != nil {
			continue
		}
		if inside <= first && first+count <= inside+n {
			longest.count = 0
			break
		}
		if n > longest.count {
			longest.inside, longest.count = inside, n
		}
	}
	if longest.count == 0 {
		return fmt.Sprintf("0 %d %d\n", first, count)
	}
	return fmt.Sprintf("0 %d 1\n", longest.inside+longest.count-1)
}

func isClone(err error) bool {
	var e *sys.Error
	return errors.As(err, &e) && e.Op == "clone"
}

func (r *Report) probeMountAPI(src *os.File) {
	tree, err := sys.OpenTreeAt(src, "", unix.AT_EMPTY_PATH)
	if err == nil {
		defer tree.Close()
		// Nothing to change: the kernel checks the right to mount and is done.
		err = sys.MountSetattr(tree, "", 0, &unix.MountAttr{})
	}
	switch {
	case err == nil:
		r.MountAPI = yes("open_tree and mount_setattr work")
	case isAny(err, unix.ENOSYS):
		r.MountAPI = no(err, "the kernel has no idmapped mounts at all")
	default:
		r.MountAPI = unknown(err, "the mount calls of the kernel could not be tried")
	}
}

func (r *Report) probeIdmap(src, ns *os.File, m *idmap.Map) {
	r.Idmap = probeIdmapOf(src, ns)
	if r.Recursive {
		r.probeSubmounts(src, ns)
	}
	if r.Idmap.Verdict == Yes {
		if f := probeOwnMap(src, r.Recursive, m); f.Verdict != Yes {
			r.Idmap = f
		}
	}
}

// probeOwnMap says whether the map can be put on top of that which the source has.
func probeOwnMap(src *os.File, recursive bool, m *idmap.Map) Finding {
	own, mapped, err := mounts.MapOfTree(src, recursive)
	if !mapped {
		return yes("the source has no map")
	}
	if err != nil {
		return no(err, "the source is idmapped already, and what its map is cannot be known")
	}
	if m == nil {
		return yes("probed without a map")
	}
	both, err := own.Compose(*m)
	if err != nil {
		return no(err, "the source is idmapped already, and with the map on top there are too many extents for the kernel")
	}
	if size, limit := max(len(both.UIDMapText()), len(both.GIDMapText())), os.Getpagesize()-1; size > limit {
		return no(nil, "the source is idmapped already, and with the map on top its map is too long for the kernel: %d bytes as text, at most %d fit", size, limit)
	}
	return yes("the kernel takes both maps as one")
}

func (r *Report) probeSubmounts(src, ns *os.File) {
	r.Mounts = []MountFinding{{Path: r.Path, FSType: r.FSType, Finding: r.Idmap}}
	subs, err := mounts.Below(src)
	if err != nil {
		if r.Idmap.Verdict == Yes {
			r.Idmap = unknown(err, "the submounts could not be listed")
		}
		return
	}
	for _, m := range subs {
		f, err := sys.OpenTree(m.Mountpoint, 0)
		if err != nil {
			continue // covered by a later mount or gone; the rest decides
		}
		if id, err := mounts.ID(f); err != nil || id != m.ID {
			f.Close()
			continue // covered too, or the path leads elsewhere by now
		}
		finding := IdmapMount(f, m, ns)
		f.Close()
		r.Mounts = append(r.Mounts, MountFinding{m.Mountpoint, m.FSType, finding})
	}
	// The worst of them is the answer for the tree.
	for _, v := range []Verdict{No, Unknown} {
		for i, m := range r.Mounts {
			if m.Finding.Verdict != v {
				continue
			}
			r.Idmap = m.Finding
			if i > 0 {
				r.Idmap.Reason = fmt.Sprintf("submount %s: %s", m.Path, m.Finding.Reason)
			}
			return
		}
	}
}

func probeIdmapOf(src, ns *os.File) Finding {
	m, _ := mounts.Of(src)
	return IdmapMount(src, m, ns)
}

// IdmapMount says whether the kernel gives a mount the map of a user namespace. It
// tries on a clone of the one mount that src is on, which is never attached. The
// mount's entry of the mount table may be nil if there is none.
func IdmapMount(src *os.File, m *mountinfo.Info, ns *os.File) Finding {
	fstype, mapped := "this file system", false
	if m != nil {
		fstype, mapped = m.FSType, mounts.Idmapped(m)
	}
	if ns == nil {
		return unknown(nil, "not tried without a user namespace")
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	tree, err := sys.OpenTreeAt(src, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		switch {
		case isAny(err, unix.ENOSYS):
			return no(err, "the kernel has no idmapped mounts at all")
		case isAny(err, unix.EINVAL):
			return no(err, "the mount of the source cannot be copied, it may be unbindable")
		}
		return unknown(err, "the mount of the source could not be copied")
	}
	defer tree.Close()

	err = sys.MountSetattr(tree, "", 0, attr)
	switch {
	case err == nil:
		if asksServer(fstype) && !mapped {
			if f := probeOwners(src, fstype); f.Verdict != Yes {
				return f
			}
		}
		return yes("the kernel idmaps %s", fstype)
	case isAny(err, unix.ENOSYS):
		return no(err, "the kernel has no idmapped mounts at all")
	case isAny(err, unix.EINVAL):
		return no(err, "the kernel has no idmapped mounts for %s", fstype)
	case !isAny(err, unix.EPERM) || !mapped:
		return unknown(err, "idmapping %s failed", fstype)
	}

	// EPERM and idmapped already: Linux 6.15 can replace the map.
	again, err := sys.OpenTreeAttr(src, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH, attr)
	switch {
	case err == nil:
		again.Close()
		return yes("the kernel idmaps %s, on top of the map that the source has already", fstype)
	case isAny(err, unix.ENOSYS):
		return no(err, "the source is idmapped already, and the kernel cannot replace its map")
	}
	return unknown(err, "the source is idmapped already, and replacing its map failed")
}
