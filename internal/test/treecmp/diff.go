package treecmp

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Options says what Diff leaves out. The zero value compares everything that
// the package doc lists.
type Options struct {
	// Ignore maps paths to the reason why they may differ. A path stands for
	// itself and all that is below it.
	Ignore map[string]string
	// IgnoreContent maps paths of regular files to the reason why only their
	// content and size may differ, while all else must agree.
	IgnoreContent map[string]string
	// IgnoreXattrs lists beginnings of names, such as "trusted.", of extended
	// attributes that one side may not see.
	IgnoreXattrs []string
	// IgnoreHardLinks leaves out which names belong to one file, for file
	// systems that split hard links, such as overlay on copy-up.
	IgnoreHardLinks bool
	// Mtime compares the times of the last change too, to the nanosecond.
	Mtime bool
}

// Diff returns the differences between a and b, one a line, sorted by path;
// none if they are equal. A line has the path, what differs, and both values,
// a's first.
func Diff(a, b Tree, o Options) []string {
	paths := map[string]bool{}
	for p := range a {
		paths[p] = true
	}
	for p := range b {
		paths[p] = true
	}
	var out []string
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		if o.ignored(p) {
			continue
		}
		x, inA := a[p]
		y, inB := b[p]
		switch {
		case !inB:
			out = append(out, fmt.Sprintf("%s: only in the first tree (%s %d:%d)", p, x.FileMode(), x.UID, x.GID))
		case !inA:
			out = append(out, fmt.Sprintf("%s: only in the second tree (%s %d:%d)", p, y.FileMode(), y.UID, y.GID))
		default:
			out = append(out, o.entries(p, x, y)...)
		}
	}
	return out
}

// entries compares what both trees have at p.
func (o Options) entries(p string, x, y Entry) []string {
	var out []string
	differ := func(what string, x, y any) {
		out = append(out, fmt.Sprintf("%s: %s %v, %v", p, what, x, y))
	}
	if x.Mode != y.Mode {
		differ("mode", x.FileMode(), y.FileMode())
	}
	if x.UID != y.UID {
		differ("uid", x.UID, y.UID)
	}
	if x.GID != y.GID {
		differ("gid", x.GID, y.GID)
	}
	if x.Rdev != y.Rdev {
		differ("device", x.Rdev, y.Rdev)
	}
	if x.Link != y.Link {
		differ("link target", x.Link, y.Link)
	}
	if x.Mount != y.Mount {
		differ("mount point", x.Mount, y.Mount)
	}
	if _, ok := o.IgnoreContent[p]; !ok {
		if x.Size != y.Size {
			differ("size", x.Size, y.Size)
		}
		if !bytes.Equal(x.Hash, y.Hash) {
			differ("content", short(x.Hash), short(y.Hash))
		}
	}
	if !o.IgnoreHardLinks && x.HardLinkOf != y.HardLinkOf {
		differ("hard link of", quoted(x.HardLinkOf), quoted(y.HardLinkOf))
	}
	if o.Mtime && (x.MtimeSec != y.MtimeSec || x.MtimeNsec != y.MtimeNsec) {
		differ("mtime", fmt.Sprintf("%d.%09d", x.MtimeSec, x.MtimeNsec), fmt.Sprintf("%d.%09d", y.MtimeSec, y.MtimeNsec))
	}
	return append(out, o.xattrs(p, x.Xattrs, y.Xattrs)...)
}

func (o Options) xattrs(p string, x, y map[string][]byte) []string {
	names := map[string]bool{}
	for n := range x {
		names[n] = true
	}
	for n := range y {
		names[n] = true
	}
	var out []string
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if slices.ContainsFunc(o.IgnoreXattrs, func(prefix string) bool { return strings.HasPrefix(n, prefix) }) {
			continue
		}
		vx, inX := x[n]
		vy, inY := y[n]
		if inX != inY || !bytes.Equal(vx, vy) {
			out = append(out, fmt.Sprintf("%s: xattr %s %s, %s", p, n, value(vx, inX), value(vy, inY)))
		}
	}
	return out
}

// ignored says whether p or a directory above it is to be left out.
func (o Options) ignored(p string) bool {
	for {
		if _, ok := o.Ignore[p]; ok {
			return true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return false
		}
		p = p[:i]
	}
}

func short(hash []byte) string {
	if len(hash) > 6 {
		hash = hash[:6]
	}
	return fmt.Sprintf("%x", hash)
}

func quoted(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func value(v []byte, present bool) string {
	if !present {
		return "absent"
	}
	return fmt.Sprintf("%x", v)
}
