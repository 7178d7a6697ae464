// Package conformance compares the FUSE backends with the kernel.
//
// A Scenario prepares a directory on the source, lets a caller work in it
// through a mount, and keeps everything that can be seen of it as a Result:
// return codes, what the caller sees afterwards, what root sees, and what lies
// on disk. The same scenario under the same caller on a native idmapped mount
// of the same source is the oracle; a Result is a flat list of keys and values,
// so a difference is one line:
//
//	write/own=AA,mode=06777: caller C0: disk f1 mode: native 0777, translate 06777
//
// Ids in names stand for roles, which every Map fills in with numbers: A and B
// are ids on disk that the map shows, U is one that it does not, R is 0 on
// disk. "own=AU" is a file whose uid is A and whose gid is U.
//
// The known differences are in known.go, each with its reason. One that no
// case of a full run shows any more fails the suite.
//
// # Running
//
//	go test ./internal/test/conformance -run TestConformance/ext4/shift/translate/chown
//
// IDMOUNT_CONFORMANCE is quick (the default: two sources, one map, some of the
// callers for each scenario) or full. IDMOUNT_CONFORMANCE_TOTALS is a file for
// the totals of each source, map, caller and backend. make conformance is a full
// run over the sources that have an oracle of their own, and prints them.
// IDMOUNT_BACKENDS, IDMOUNT_SOURCES and IDMOUNT_MAPS are lists, separated by commas, that
// narrow or widen either; native among the backends compares the oracle with
// itself, which shows that the scenarios are deterministic. IDMOUNT_CACHE_MODE is
// the cache mode of the mounts, as --cache takes it.
package conformance
