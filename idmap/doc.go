// Package idmap translates ids between the two sides of an ID-mapped mount.
//
// # Model
//
// The sides are disk, the ids stored in the source, and view, the ids seen
// through the mount. A Map has extents for users and extents for groups; each
// extent maps Count consecutive disk ids to as many view ids. An id in no extent
// is unmapped: it is never passed through as it is, and every look-up says so.
//
//	m, err := idmap.Parse([]string{"b:0:100000:65536"}, nil)
//	...
//	view, ok := m.ViewUID(33)     // 100033, true
//	disk, ok := m.DiskUID(100033) // 33, true
//	_, ok = m.ViewUID(70000)      // false
//
// In a map line of the kernel (user_namespaces(7)) that is used for an idmapped
// mount, the first number is the disk side and the second the view side.
//
// # Guarantees
//
// A Map is immutable and valid by construction: no extent is empty, runs over
// the end of the ids or overlaps another on either side, so each look-up has one
// answer and Inverse is its exact inverse. Look-ups take O(log extents) and do
// not allocate. The codecs for ACLs and file capabilities check length and
// version by equality and refuse what they don't know.
//
// # Non-goals
//
// The package does no input or output: names and namespaces are looked up by the
// Resolver that the caller gives.
package idmap
