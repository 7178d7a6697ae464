package mounts

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
)

var (
	errNamespace = errors.New("only the initial user namespace sees all of a mount's map")
	errMixed     = errors.New("the mounts of the tree have different maps")
)

// MapOf returns the map of the mount that f is on, false if it is not idmapped. A map
// that is given to such a mount is to apply to what the mount shows. The kernel puts it
// in place of the mount's own (open_tree_attr(2), Linux 6.15), so what the kernel is
// given is both, one after the other. If mapped, an error says that
// there is a map, and why it is not known.
func MapOf(f *os.File) (m idmap.Map, mapped bool, err error) {
	info, err := Of(f)
	if err != nil || !Idmapped(info) {
		return idmap.Map{}, false, err
	}
	if err := initialNamespace(); err != nil {
		return idmap.Map{}, true, err
	}
	uids, gids, known, err := sys.MountMaps(f)
	if err == nil && !known {
		err = &sys.Error{Op: "statmount", Path: f.Name(), Err: sys.ErrMountMaps}
	}
	if err != nil {
		return idmap.Map{}, true, err
	}
	m, err = parseMap(uids, gids)
	return m, true, err
}

// MapOfTree is MapOf for all mounts of the tree at f, if it is recursive. Mounts with
// different maps are an error.
func MapOfTree(f *os.File, recursive bool) (m idmap.Map, mapped bool, err error) {
	m, mapped, err = MapOf(f)
	if err != nil || !recursive {
		return m, mapped, err
	}
	subs, err := Below(f)
	if err != nil {
		return m, mapped, err
	}
	for _, info := range subs {
		if !mapped && !Idmapped(info) {
			continue
		}
		sub, err := OpenRoot(info)
		if err != nil {
			continue // covered by a later mount, or gone
		}
		own, subMapped, err := MapOf(sub)
		sub.Close()
		switch {
		case err != nil:
			return idmap.Map{}, mapped || subMapped, err
		case subMapped != mapped || !own.Equal(m):
			return idmap.Map{}, true, &sys.Error{Op: "mount", Path: info.Mountpoint, Err: errMixed}
		}
	}
	return m, mapped, nil
}

func initialNamespace() error {
	for _, name := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile("/proc/thread-self/" + name)
		if err != nil {
			return err
		}
		if strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295" {
			return errNamespace
		}
	}
	return nil
}

func parseMap(uids, gids string) (idmap.Map, error) {
	u, err := extents(uids)
	if err != nil {
		return idmap.Map{}, err
	}
	g, err := extents(gids)
	if err != nil {
		return idmap.Map{}, err
	}
	return idmap.New(u, g)
}

func extents(text string) ([]idmap.Extent, error) {
	var all []idmap.Extent
	for line := range strings.Lines(text) {
		var e idmap.Extent
		if n, err := fmt.Sscan(line, &e.Disk, &e.View, &e.Count); err != nil || n != 3 {
			return nil, fmt.Errorf("map line %q: %w", line, err)
		}
		all = append(all, e)
	}
	return all, nil
}
