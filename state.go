package idmount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stateDir has a file for each FUSE mount that is served, named after its
// device, with the id of the process that serves it. Unmount waits for that
// process, so that the source is free when it returns. Nothing depends on it.
const stateDir = "/run/idmount"

// stateFile is a server's entry in stateDir.
type stateFile string

func statePath(major, minor uint32) string {
	return filepath.Join(stateDir, fmt.Sprintf("%d:%d", major, minor))
}

func writeState(device uint64) stateFile {
	path := statePath(unix.Major(device), unix.Minor(device))
	if os.MkdirAll(stateDir, 0o755) != nil {
		return ""
	}
	if os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644) != nil {
		return ""
	}
	return stateFile(path)
}

func (s stateFile) remove() {
	if s != "" {
		os.Remove(string(s))
	}
}

// openServer returns a descriptor of the process that serves a mount, by which
// its end can be waited for; -1 if it can't be told.
func openServer(major, minor uint32) int {
	text, err := os.ReadFile(statePath(major, minor))
	if err != nil {
		return -1
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 || pid == os.Getpid() {
		return -1
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1
	}
	// The file may be a leftover, and the id somebody else's by now.
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(comm)) != "idmount" {
		unix.Close(fd)
		return -1
	}
	return fd
}
