package differential

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/conformance"
)

// What FUSE cannot do as the kernel does. package conformance has the reasons
// (known_list.go); here is what follows from them for random steps:
//
//   - a mask finds two notes the same, if the difference leaves no traces;
//   - what would leave traces is tidied up after the step, in every world alike;
//   - what cannot be tidied up is not generated.

// same is the mask of results.
func same(backend string, s *Step, want, got string) bool {
	if want == got {
		return true
	}
	if backend != "translate" || want != "EOVERFLOW" {
		return false
	}
	// The kernel checks permission before the server can refuse an unmapped id,
	// and that an open file still has a name to be linked by.
	return got == "EACCES" || got == "EPERM" || got == "ENOENT" && s.Call == "link" && s.Path == ""
}

// shown is the mask of an ACL, in hexadecimal: translate shows an unmapped id
// as 4294967294, as the kernel takes no ACL with -1 from a server. No id of a
// test is near.
func shown(name, value string) string {
	if name == accessACL || name == defaultACL {
		return strings.ReplaceAll(value, "feffffff", "ffffffff")
	}
	return value
}

// tidy takes away, on disk, states that a backend leaves as they are or comes
// to by another way. path is where the step was made; it may be a link.
func tidy(dirfd int, s *Step, result, path string) {
	var st unix.Stat_t
	if unix.Fstatat(dirfd, path, &st, 0) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	clear := st.Mode & 0o7777
	if changesData(s.Call) && keepsSetIDs[s.By] {
		// Where these callers may keep set-id bits of a file, a write to one
		// with capabilities, or that was open when it got the bits, clears them.
		clear &^= unix.S_ISUID | unix.S_ISGID
	}
	if clear != st.Mode&0o7777 {
		_ = unix.Fchmodat(dirfd, path, clear, 0)
	}
	// The kernel removes file capabilities before the server refuses a chown, or the
	// source a fallocate in a way that it does not know, as tmpfs does.
	if s.Call == "chown" && !strings.HasPrefix(result, "ok") || s.Call == "fallocate" && result == "ENOTSUP" {
		_ = unix.Removexattr(procPath(dirfd, path), capability)
	}
}

// keepsSetIDs are the callers with CAP_FSETID of the initial user namespace.
var keepsSetIDs = map[string]bool{"R0": true, "MR": true, "MR-B": true}

func changesData(call string) bool {
	switch call {
	case "write", "pwrite", "writev", "truncate", "fallocate", "copy", "sendfile", "splice", "mapwrite", "open":
		return true
	}
	return false
}

// untidy reports whether a step may need tidy before the next one.
func untidy(s *Step) bool {
	switch s.Call {
	case "chown":
		return true
	case "fallocate":
		if s.Flags&unix.FALLOC_FL_ZERO_RANGE != 0 {
			return true
		}
	}
	return changesData(s.Call) && keepsSetIDs[s.By]
}

// avoid changes a step that would come to a known difference for good.
func avoid(m *conformance.Map, s *Step) {
	switch s.Call {
	case "chown":
		// What has no name can't be tidied up.
		if s.Path == "" {
			s.Owner = strings.NewReplacer("X", "A", "Y", "A", "R", "A").Replace(s.Owner)
		}
		// chown(-1, -1) reaches the server like a write that clears set-id bits.
		if s.Owner == "--" {
			s.Owner = "A-"
		}
	case "unlink":
		if s.By == disk && (s.Path == "p" || s.Path == "l" || s.Path == "m") {
			s.Path = "a"
		}
	case "rename":
		if s.By == disk && s.Flags == 0 {
			s.Flags = unix.RENAME_NOREPLACE
		}
		// A whiteout by a caller without an id on disk, over a file, has an
		// invalid owner there; FUSE refuses to make it.
		if s.Flags&unix.RENAME_WHITEOUT != 0 && s.By != disk && conformance.Unmapped(m, s.By) {
			s.Flags = 0
		}
	}
}

// avoidUntidy changes a step after which tidy would have something to do, or a
// cache would be right to differ.
func avoidUntidy(s *Step) {
	switch s.Call {
	case "rename":
		// ext4 takes a whiteout back if the rename then fails, which leaves
		// another time of change. No kernel expects that of a call that failed.
		s.Flags &^= unix.RENAME_WHITEOUT
	case "chmod", "open", "mknod":
		s.Mode &^= unix.S_ISUID | unix.S_ISGID
	case "chown":
		s.Owner = strings.NewReplacer("X", "A", "Y", "A", "R", "A").Replace(s.Owner)
	}
}
