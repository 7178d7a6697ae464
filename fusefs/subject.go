package fusefs

import (
	"bytes"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// subject is what matters of a caller that a request does not carry. If it
// can't be read, the caller has no rights.
type subject struct {
	fsuid, fsgid uint32
	groups       []uint32
	caps         sys.CapSet // effective, in its user namespace
	dir          string     // in /proc
}

// subjectOf reads about the thread that a request names. Its ids are those of
// the server's user namespace, on the view side.
func subjectOf(pid uint32) subject {
	p := subject{fsuid: invalidID, fsgid: invalidID, dir: "/proc/" + strconv.FormatUint(uint64(pid), 10)}
	text, err := sys.ReadFile(p.dir + "/status")
	if err != nil {
		return p
	}
	for line := range bytes.Lines(text) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		fields := bytes.Fields(rest)
		switch string(name) {
		case "Uid", "Gid":
			if len(fields) != 4 { // real, effective, saved, file system
				continue
			}
			if id, ok := parseID(fields[3]); ok && name[0] == 'U' {
				p.fsuid = id
			} else if ok {
				p.fsgid = id
			}
		case "Groups":
			for _, field := range fields {
				if id, ok := parseID(field); ok {
					p.groups = append(p.groups, id)
				}
			}
		case "CapEff":
			if c, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 16, 64); err == nil {
				p.caps = sys.CapSet(c)
			}
		}
	}
	return p
}

func parseID(text []byte) (uint32, bool) {
	id, err := strconv.ParseUint(string(text), 10, 32)
	return uint32(id), err == nil
}

// member reports whether the process is in a group.
func (p *subject) member(gid uint32) bool {
	return gid != invalidID && (p.fsgid == gid || slices.Contains(p.groups, gid))
}

// capable reports whether the process has a capability in the server's own
// user namespace, which the whole file system belongs to.
func (p *subject) capable(capability int) bool {
	if !p.caps.Has(capability) {
		return false
	}
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false
	}
	its, err := os.Readlink(p.dir + "/ns/user")
	return err == nil && its == own
}

// capableOver reports whether the process has a capability over a file with
// these owners: in its user namespace, if that has them both
// (capable_wrt_inode_uidgid() of the kernel).
func (p *subject) capableOver(capability int, uid, gid uint32) bool {
	return p.caps.Has(capability) && p.maps("uid_map", uid) && p.maps("gid_map", gid)
}

// maps reports whether a map of the process's user namespace has an id.
func (p *subject) maps(file string, id uint32) bool {
	text, err := sys.ReadFile(p.dir + "/" + file)
	if err != nil || id == invalidID {
		return false
	}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line) // inside, outside as seen by the reader, count
		if len(fields) != 3 {
			continue
		}
		first, ok := parseID(fields[1])
		count, ok2 := parseID(fields[2])
		if ok && ok2 && id >= first && id-first < count {
			return true
		}
	}
	return false
}

// owns reports whether the process may do what an owner may
// (inode_owner_or_capable() of the kernel).
func (p *subject) owns(uid uint32) bool {
	if uid == invalidID {
		return false
	}
	return p.fsuid == uid || p.caps.Has(unix.CAP_FOWNER) && p.maps("uid_map", uid)
}
