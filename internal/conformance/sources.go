package conformance

import "strings"

// withoutXattrs are sources that have no extended attributes, and no ACLs and
// file capabilities with them.
var withoutXattrs = map[string]bool{"ramfs": true}

// carries reports whether a scenario means anything on a source.
func carries(fstype string, s *Scenario) bool {
	if !withoutXattrs[fstype] {
		return true
	}
	group, _, _ := strings.Cut(s.Name, "/")
	switch group {
	case "acl", "acl-set", "xattr", "xattr-sizes", "xattr-other-types", "capability-exec", "capability-set", "create-default-acl":
		return false
	}
	return !strings.Contains(s.Name, "cap=true")
}
