package conformance

import (
	"strings"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

// mounted is a fresh source: those of testenv, and idmount, which is a tmpfs
// seen through an identity map of our own, a FUSE file system.
func mounted(t testing.TB, fstype string) string {
	t.Helper()
	if fstype == "idmount" {
		return MountBackend(t, testenv.Source(t, "tmpfs"), MapByName("identity"), "translate")
	}
	return testenv.Source(t, fstype)
}

// likeness is the file system whose native mount says what is right for a
// source that has none: the one below it, or the most similar one.
func likeness(fstype string) string {
	switch fstype {
	case "overlay", "idmount", "ramfs":
		return "tmpfs"
	}
	return "ext4"
}

// carries reports whether a scenario means anything on a source: ramfs has no
// extended attributes, with them no ACLs and file capabilities, and no flags.
func carries(fstype string, s *Scenario) bool {
	if fstype != "ramfs" {
		return true
	}
	group, _, _ := strings.Cut(s.Name, "/")
	switch group {
	case "acl", "acl-set", "xattr", "xattr-sizes", "xattr-other-types", "capability-exec", "capability-set", "create-default-acl",
		"flags", "use-project":
		return false
	}
	return s.Name != "file/late-capability" && s.Name != "use/inotify-xattr" && s.Name != "rare/many-xattrs" && !strings.Contains(s.Name, "cap=true")
}
