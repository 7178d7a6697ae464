package differential

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/conformance"
	"github.com/idmount/idmount/internal/test/testenv"
)

// A session is one caller in one tree: what it has open.
type session struct {
	prefix string // of all paths; "" if the tree is the working directory
	m      *conformance.Map
	env    *conformance.Env // nil for the disk
	fds    [slots + 1]int
	late   bool // see World
	buf    []byte
}

// newSession is for a caller, or for the disk if that is nil.
func newSession(prefix string, m *conformance.Map, caller *testenv.Caller) *session {
	s := &session{prefix: prefix, m: m, buf: make([]byte, maxIO)}
	if caller != nil {
		s.env = &conformance.Env{Map: m, Caller: *caller}
	}
	for i := range s.fds {
		s.fds[i] = -1
	}
	return s
}

// maxIO bounds one read or write.
const maxIO = 1 << 17

// do makes the call of a step and returns what came of it.
func (s *session) do(st *Step) string {
	call := calls[st.Call]
	if call == nil {
		return "no such call"
	}
	if s.env != nil {
		unix.Umask(st.Umask)
	}
	return call(s, st)
}

func (s *session) close() {
	for i, fd := range s.fds {
		if fd >= 0 {
			unix.Close(fd)
			s.fds[i] = -1
		}
	}
}

// sync waits for what was written to be on disk. Files that are closed are;
// syncfs(2) does not wait for FUSE.
func (s *session) sync() {
	for _, fd := range s.fds {
		if fd >= 0 {
			_ = unix.Fsync(fd)
		}
	}
}

// tidy does what tidy does by name for the open files of a step, which may have
// none any more, or another.
func (s *session) tidy(st *Step) {
	for _, slot := range []int{st.Slot, st.Slot2} {
		var node unix.Stat_t
		if unix.Fstat(s.fd(slot), &node) == nil && node.Mode&unix.S_IFMT == unix.S_IFREG && node.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			_ = unix.Fchmod(s.fd(slot), node.Mode&0o7777&^(unix.S_ISUID|unix.S_ISGID))
		}
	}
}

func (s *session) path(p string) string { return s.prefix + p }

// fd is the descriptor of a slot, -1 if it has none.
func (s *session) fd(slot int) int {
	if slot < 0 || slot > slots {
		return -1
	}
	return s.fds[slot]
}

// owner are the numbers that the caller has to use for a pair of roles.
func (s *session) owner(pair string) (uid, gid int) {
	if len(pair) != 2 {
		return -1, -1
	}
	if s.env != nil {
		return s.env.UID(pair[0]), s.env.GID(pair[1])
	}
	id := func(role byte) int {
		if role == '-' {
			return -1
		}
		return int(s.m.DiskID(role))
	}
	return id(pair[0]), id(pair[1])
}

// value makes the bytes of an extended attribute of what a step says:
//
//	acl 7570 uA6 gB4   owner, owning group, mask, other; named users and groups
//	cap 2, cap 3 A     CAP_NET_RAW, of revision 2 or 3 with a root id
//	big 5000           so many bytes
//
// and of anything else its text.
func (s *session) value(text string) []byte {
	words := strings.Fields(text)
	if len(words) < 2 {
		return []byte(text)
	}
	switch words[0] {
	case "acl":
		var named []conformance.ACLEntry
		for _, w := range words[2:] {
			uid, gid := s.owner(w[1:2] + w[1:2])
			e := conformance.ACLEntry{Tag: conformance.ACLUser, Perm: uint16(w[2] - '0'), ID: uint32(uid)}
			if w[0] == 'g' {
				e.Tag, e.ID = conformance.ACLGroup, uint32(gid)
			}
			named = append(named, e)
		}
		p := func(i int) uint16 { return uint16(words[1][i] - '0') }
		return conformance.ACLXattr(p(0), p(1), p(2), p(3), named...)
	case "cap":
		if words[1] == "3" && len(words) > 2 {
			uid, _ := s.owner(words[2] + words[2])
			return conformance.CapNetRaw(3, uint32(uid))
		}
		return conformance.CapNetRaw(2, 0)
	case "big":
		n, _ := strconv.Atoi(words[1])
		return pattern(make([]byte, n), int64(n))
	}
	return []byte(text)
}

// pattern fills b with what a write of len(b) bytes at off writes.
func pattern(b []byte, off int64) []byte {
	for i := range b {
		b[i] = 'a' + byte((off+int64(len(b))*7+int64(i))%26)
	}
	return b
}

// err is the result of a call that returns nothing else.
func did(err error) string { return conformance.ErrText(err) }

func counted(n int, err error) string {
	if err != nil {
		return did(err)
	}
	return fmt.Sprint("ok ", n)
}

// content is short for what was read.
func content(b []byte) string {
	if len(b) <= 24 {
		return strconv.Quote(string(b))
	}
	return fmt.Sprintf("%d bytes %08x", len(b), hash(b))
}

func hash(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// castagnoli is what processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamp is a time as far as two worlds have to agree on it: those that were
// set, or were there from the start, lie before the tests do.
func stamp(t unix.Timespec) string {
	if time.Unix(t.Sec, t.Nsec).Before(born) {
		return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec)
	}
	return "now"
}

var born = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// stat is what two worlds have to agree on. The sizes of directories are the
// file system's own affair.
func statText(st *unix.Stat_t) string {
	b := make([]byte, 0, 96)
	b = append(b, '0')
	b = strconv.AppendUint(b, uint64(st.Mode), 8)
	b = append(b, " nlink "...)
	b = strconv.AppendUint(b, uint64(st.Nlink), 10)
	b = append(b, " owner "...)
	b = strconv.AppendUint(b, uint64(st.Uid), 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(st.Gid), 10)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK:
		b = append(b, " size "...)
		b = strconv.AppendInt(b, st.Size, 10)
	case unix.S_IFCHR, unix.S_IFBLK:
		b = append(b, " rdev "...)
		b = strconv.AppendUint(b, uint64(st.Rdev), 16)
	}
	// The kernel itself writes to a FIFO, and changes the times of its own inode.
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		b = append(b, " mtime "...)
		b = append(b, stamp(st.Mtim)...)
	}
	return string(b)
}

// entries sorts what getdents has returned, names and types.
func entries(b []byte) (out []string) {
	for len(b) >= 19 {
		size := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := strings.Cut(string(b[19:size]), "\x00")
		out = append(out, fmt.Sprintf("%s %d", name, b[18]))
		b = b[size:]
	}
	return out
}
