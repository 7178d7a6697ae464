package idmount

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/server"
)

// stateFile is a server's entry in server.StateDir: the id of the process that serves
// the mount, and in the second line a record. Unmount waits for that process, so that
// the source is free when it returns. Mount compares the record with what it is to
// mount. Both do without the file.
type stateFile string

func statePath(major, minor uint32) string {
	return filepath.Join(server.StateDir, fmt.Sprintf("%d:%d", major, minor))
}

// stateDirTrusted reports whether nobody but root can put files into server.StateDir: their
// names can be guessed.
func stateDirTrusted() bool {
	var st unix.Stat_t
	return unix.Lstat(server.StateDir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR &&
		(st.Uid == 0 || st.Uid == uint32(os.Geteuid())) && st.Mode&0o022 == 0
}

// record is what a server serves, of which the kernel tells others little.
type record struct {
	Source    []byte    `json:"source"` // a path need not be UTF-8
	Dev       uint64    `json:"dev"`
	Ino       uint64    `json:"ino"`
	Map       idmap.Map `json:"map"`
	Recursive bool      `json:"recursive"`
	Cache     string    `json:"cache"`
	Callers   bool      `json:"callers"`
	ReadOnly  bool      `json:"read_only"` // the server can't write to the source
	Narrow    uint64    `json:"narrow"`    // see request
}

func (r *request) record(source *os.File, path string, narrow uint64) record {
	rec := record{
		Source:    []byte(path),
		Map:       r.Map,
		Recursive: r.Recursive,
		Cache:     r.Cache.String(),
		Callers:   r.Callers,
		Narrow:    narrow,
	}
	var st unix.Stat_t
	if unix.Fstat(int(source.Fd()), &st) == nil {
		rec.Dev, rec.Ino = st.Dev, st.Ino
	}
	var fs unix.Statfs_t
	rec.ReadOnly = unix.Fstatfs(int(source.Fd()), &fs) != nil || fs.Flags&unix.ST_RDONLY != 0
	return rec
}

// readRecord returns nil if there is none, or if it is a leftover of another mount.
func readRecord(major, minor uint32) *record {
	server := openServer(major, minor)
	if server < 0 {
		return nil
	}
	unix.Close(server)
	text, err := os.ReadFile(statePath(major, minor))
	if err != nil {
		return nil
	}
	_, line, _ := strings.Cut(string(text), "\n")
	r := new(record)
	if json.Unmarshal([]byte(line), r) != nil {
		return nil
	}
	return r
}

func writeState(device uint64, r record) stateFile {
	path := statePath(unix.Major(device), unix.Minor(device))
	if os.MkdirAll(server.StateDir, 0o755) != nil || !stateDirTrusted() {
		return ""
	}
	line, err := json.Marshal(r)
	if err != nil {
		return ""
	}
	// Readers see all of it or nothing.
	text := fmt.Appendf(nil, "%d\n%s\n", os.Getpid(), line)
	if os.WriteFile(path+".new", text, 0o644) != nil || os.Rename(path+".new", path) != nil {
		os.Remove(path + ".new")
		os.Remove(path) // of an earlier mount
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
	if !stateDirTrusted() {
		return -1
	}
	text, err := os.ReadFile(statePath(major, minor))
	if err != nil {
		return -1
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
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
