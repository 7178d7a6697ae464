// Package testenv is the ground on which the tests of this module stand: a
// private mount namespace, file systems to mount, callers to act as.
//
// A test binary that mounts anything hands its TestMain to Main:
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		testenv.RequireRoot(t)
//		src := testenv.Source(t, "ext4") // fresh, empty, unmounted at the end
//		...
//	}
//
// Main runs the tests in a mount namespace of their own and fails the binary
// if descriptors, mounts or processes outlive the tests.
//
// # Callers
//
// StartAgent starts a process with given ids, groups, capabilities and user
// namespaces, which runs functions that the test binary has registered by
// Handle. The ids are real: the agent is a re-execution of the test binary
// whose only working thread has changed them for good.
//
// # Guarantees and limits
//
// Nothing that a test mounts is seen outside, and all of it goes with the
// test. Loop devices are autoclear: they go with the mount. Linux only.
package testenv
