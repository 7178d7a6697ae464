package idmount

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// How long Unmount waits for the end of a server: first without a look at other mount
// namespaces, which takes a read for each process, then for as long as it may take.
// The second one is a variable for tests.
const firstGrace = 100 * time.Millisecond

var endGrace = 5 * time.Second

// waitForServer returns when the server of unmounted mounts has ended, or when it
// can't end because one of the mounts lives on at another place.
func waitForServer(pidfd int, devices ...device) {
	if waitFor(pidfd, firstGrace) || mountedAnywhere(devices...) {
		return
	}
	waitFor(pidfd, endGrace)
}

// mountedAnywhere reports whether a mount namespace of any process has a mount of one
// of the devices. It does not see namespaces without a process, and those of processes that
// this one may not look at.
func mountedAnywhere(devices ...device) bool {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return false
	}
	var columns [][]byte
	for _, d := range devices {
		columns = append(columns, fmt.Appendf(nil, " %d:%d ", d.major, d.minor))
	}
	seen := make(map[string]bool)
	for _, dir := range processes {
		ns, err := os.Readlink(dir + "/ns/mnt")
		if err != nil {
			continue
		}
		// A process sees the mounts below its own root alone.
		root, err := os.Readlink(dir + "/root")
		if err != nil || seen[ns+root] {
			continue
		}
		table, err := os.ReadFile(dir + "/mountinfo")
		if err != nil {
			continue // it has ended; another one may be in its namespace
		}
		seen[ns+root] = true
		if slices.ContainsFunc(columns, func(c []byte) bool { return bytes.Contains(table, c) }) {
			return true
		}
	}
	return false
}

// waitFor reports whether the process has ended within limit.
func waitFor(pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 || err != nil && err != unix.EINTR {
			return true
		}
	}
}
