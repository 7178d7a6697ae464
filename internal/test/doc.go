// Package test has no code. Below it are the test rigs:
//
//   - testenv: sources to mount, callers to act as, waits, leaks
//   - conformance: scenarios, held against the native mount
//   - differential: random calls on all backends at once
//   - clients: programs such as git, sqlite and postgres on mounts
//   - kernels: all backends on other kernels, and on NFS and 9p servers
//   - rootfs: a whole Debian installed through a mount
//   - uml: other kernels as processes
//   - treecmp: two trees compared
//   - walkthrough: the story that make demo tells
//   - archtest: who may import whom
package test
