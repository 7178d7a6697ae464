// Package mounts answers which mount an open file is on, which mounts lie below it,
// and which map a mount has, and removes mounts.
//
// It asks by the mount id of the open file (/proc/PID/fdinfo), not by path: a
// path may be a symbolic link, be shadowed by a later mount, or mean something
// else a moment later.
//
//	f, _ := sys.OpenTree("/srv/data", 0)
//	m, _ := mounts.Of(f)        // m.FSType == "ext4"
//	subs, _ := mounts.Below(f)  // /srv/data/backup, ...
//
// Detached mounts are in no mount table, so the file must be on an attached
// one. The table is the calling thread's.
package mounts

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// ErrNotFound says that the mount is not in this thread's mount table.
var ErrNotFound = errors.New("not in the mount table")

// Of returns the mount that f is on.
func Of(f *os.File) (*mountinfo.Info, error) {
	_, m, err := table(f)
	return m, err
}

// Below returns the mounts at or below the directory f, parents first, without
// the mount that f is on.
func Below(f *os.File) ([]*mountinfo.Info, error) {
	all, top, err := table(f)
	if err != nil {
		return nil, err
	}
	dir, err := os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(dir, "/") + "/"

	return descend(all, top, func(m *mountinfo.Info) bool {
		return strings.HasPrefix(m.Mountpoint+"/", prefix)
	}), nil
}

// On returns the mounts of the table that lie on top, or on one that does,
// parents first.
func On(top *mountinfo.Info) ([]*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	return descend(all, top, func(*mountinfo.Info) bool { return true }), nil
}

// descend returns the mounts of all that lie on top, level by level, without
// those that want refuses and what lies on them.
func descend(all []*mountinfo.Info, top *mountinfo.Info, want func(*mountinfo.Info) bool) []*mountinfo.Info {
	// A child may stand before its parent in the table after a move.
	children := make(map[int][]*mountinfo.Info)
	for _, m := range all {
		if m.ID != m.Parent {
			children[m.Parent] = append(children[m.Parent], m)
		}
	}
	var below []*mountinfo.Info
	seen := map[int]bool{top.ID: true}
	next := []int{top.ID}
	for len(next) > 0 {
		id := next[0]
		next = next[1:]
		for _, m := range children[id] {
			if seen[m.ID] || !want(m) {
				continue
			}
			seen[m.ID] = true
			below = append(below, m)
			next = append(next, m.ID)
		}
	}
	return below
}

// Idmapped says whether the mount already has a map. Kernels say so in the
// table since 5.12, as the mount option "idmapped".
func Idmapped(m *mountinfo.Info) bool {
	return slices.Contains(strings.Split(m.Options, ","), "idmapped")
}

func table(f *os.File) ([]*mountinfo.Info, *mountinfo.Info, error) {
	id, err := ID(f)
	if err != nil {
		return nil, nil, err
	}
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range all {
		if m.ID == id {
			return all, m, nil
		}
	}
	return nil, nil, fmt.Errorf("mount of %s (id %d): %w", f.Name(), id, ErrNotFound)
}

// ID returns the id of the mount that f is on.
func ID(f *os.File) (int, error) {
	// statx has it too, but only since 5.8.
	path := "/proc/thread-self/fdinfo/" + strconv.Itoa(int(f.Fd()))
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("read %s: no mnt_id", path)
}
