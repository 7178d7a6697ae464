// Package differential makes random sequences of file system calls on a native
// idmapped mount and on FUSE mounts, and finds where they differ.
//
// A world is one mount: the native one, which is right, or that of a backend.
// Each has its own copy of the same small tree. A Step is one call by one
// caller of package conformance; the same steps run in every world, and after
// each of them a world notes what the call returned, how the files concerned
// look through the mount and on disk, and now and then the whole tree. The notes
// have to be equal. What FUSE cannot do as the kernel does is in known.go: there,
// and only there, steps are avoided, states are tidied up and notes are masked.
//
// A sequence that differs is made small and printed as a script, one step a
// line; batch is how many steps of one caller are made between two looks:
//
//	map shift
//	batch 1
//	user-A open a flags=O_RDWR|O_TRUNC slot=1
//	user-B rename a to=d/n flags=RENAME_NOREPLACE
//
// Scripts in testdata were found so; they run with every test.
//
// # Running
//
//	go test ./internal/test/differential                   10 seconds of random steps
//	make soak SOAKTIME=10m SOAKSEED=7 SOAKBACKEND=relay
//	IDMOUNT_SCRIPT=FILE go test ./internal/test/differential -run TestScript
//
// SOAKMAP names the maps, SOAKCACHE a cache as --cache does, SOAKTRANSPORT a
// transport as --transport does, and SOAKPASSTHROUGH=no has each read and write be a request. With another cache
// than none nobody changes the source beside the mount.
//
// SOAKBACKEND=native compares the oracle with itself, which shows that a
// difference would be the backend's. IDMOUNT_SOURCES names the file systems; where none
// is native (overlay), the oracle is the same backend with cache none.
package differential
