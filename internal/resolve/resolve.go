// Package resolve turns the names in a map into ids.
package resolve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/idmount/idmount/idmap"
)

// System looks up users and groups as the system does (getent(1), and through it
// every source of nsswitch.conf), and user namespaces by /proc. It is an
// idmap.Resolver.
type System struct{}

// UID looks up a user.
func (System) UID(name string) (uint32, error) { return getent("passwd", "user", name) }

// GID looks up a group.
func (System) GID(name string) (uint32, error) { return getent("group", "group", name) }

// getent runs the C library's look-up: Go's own, in a static program, knows
// only the files in /etc.
func getent(database, kind, name string) (uint32, error) {
	if strings.HasPrefix(name, "-") {
		return 0, fmt.Errorf("no such %s", kind)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "getent", database, name).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 2:
		return 0, fmt.Errorf("no such %s", kind)
	case errors.Is(err, exec.ErrNotFound):
		return fromFile("/etc/"+database, kind, name)
	case err != nil:
		return 0, fmt.Errorf("getent %s: %w", database, err)
	}
	return idField(out, kind, name)
}

// fromFile is for systems without getent.
func fromFile(path, kind, name string) (uint32, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte(name+":")) {
			return idField(line, kind, name)
		}
	}
	return 0, fmt.Errorf("no such %s", kind)
}

func idField(line []byte, kind, name string) (uint32, error) {
	fields := strings.Split(strings.TrimSpace(string(line)), ":")
	if len(fields) < 3 || fields[0] != name {
		return 0, fmt.Errorf("no such %s", kind)
	}
	id, err := strconv.ParseUint(fields[2], 10, 32)
	return uint32(id), err
}

var procNamespace = regexp.MustCompile(`^/proc/(self|[0-9]+)/ns/user$`)

// Namespace reads the map of a user namespace by a process that is in it. The
// file may be any, such as one that a runtime has bound elsewhere: then the
// process is looked for.
func (System) Namespace(path string) (uids, gids []idmap.Extent, err error) {
	dir := filepath.Dir(filepath.Dir(path))
	if !procNamespace.MatchString(path) {
		if dir, err = memberOf(path); err != nil {
			return nil, nil, err
		}
	}
	if uids, err = readExtents(dir + "/uid_map"); err != nil {
		return nil, nil, err
	}
	gids, err = readExtents(dir + "/gid_map")
	if err == nil && uids == nil && gids == nil {
		err = errors.New("the user namespace has no map yet")
	}
	return uids, gids, err
}

// memberOf finds a process in the namespace of a file.
func memberOf(path string) (string, error) {
	want, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/user")
	if err != nil {
		return "", err
	}
	for _, link := range links {
		if got, err := os.Stat(link); err == nil && os.SameFile(got, want) {
			return filepath.Dir(filepath.Dir(link)), nil
		}
	}
	return "", errors.New("no user namespace, or no process is in it to read its map by")
}

func readExtents(path string) ([]idmap.Extent, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var extents []idmap.Extent
	for line := range strings.Lines(string(text)) {
		var e idmap.Extent
		if _, err := fmt.Sscan(line, &e.Disk, &e.View, &e.Count); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		extents = append(extents, e)
	}
	return extents, nil
}
