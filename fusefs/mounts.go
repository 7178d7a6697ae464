package fusefs

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// mounts are the mounts below the source whose files open by handle. Files
// are opened through the mount that they were found on, so that a read-only or
// nodev mount below the source stays one.
type mounts struct {
	root *mount // of the source itself; nil if it has no handles

	mu   sync.Mutex
	byID map[int32]*mount // nil values: mounts without handles
}

// newMounts finds out whether files of the source open by handle.
func newMounts(source *os.File) (*mounts, error) {
	m := &mounts{byID: make(map[int32]*mount)}
	fd, errno := openDir(int(source.Fd()), ".")
	if errno == unix.EACCES {
		return m, nil // a source that refuses root to list it; each file is kept open then
	}
	if errno != 0 {
		return nil, &sys.Error{Op: "open", Path: source.Name(), Err: errno}
	}
	dir := os.NewFile(uintptr(fd), source.Name())
	if sys.SupportsHandles(dir) != nil {
		return m, dir.Close()
	}
	var buf [sys.MaxHandle]byte
	_, id, errno := sys.HandleAt(fd, "", &buf)
	if errno != 0 {
		return m, dir.Close()
	}
	keep, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	dir.Close()
	if err != nil {
		return nil, &sys.Error{Op: "fcntl", Path: source.Name(), Err: err}
	}
	m.root = &mount{index: 0, fd: keep}
	m.byID[id] = m.root
	return m, nil
}

// get returns the mount with an id, nil if its files have to be kept open.
// When the mount is new, it is reached through fd, which is on it.
func (m *mounts) get(id int32, fd int, dir bool) *mount {
	m.mu.Lock()
	known, ok := m.byID[id]
	m.mu.Unlock()
	if ok {
		return known
	}
	// A mount on a file has one file, and it can be kept open.
	if m.root == nil || !dir {
		return nil
	}
	// Without the lock: a server that does not answer would have everybody wait.
	fresh := openMount(fd)
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.byID[id]; ok || m.byID == nil {
		if fresh >= 0 {
			unix.Close(fresh)
		}
		return known
	}
	var found *mount
	if fresh >= 0 {
		found = &mount{index: uint32(len(m.byID)), fd: fresh}
	}
	m.byID[id] = found
	return found
}

// openMount opens the directory that fd is a descriptor of, if files of its file
// system open by handle; else it returns -1.
func openMount(fd int) int {
	opened, errno := openDir(fd, ".")
	if errno != 0 {
		return -1
	}
	dir := os.NewFile(uintptr(opened), "")
	defer dir.Close()
	if sys.SupportsHandles(dir) != nil {
		return -1
	}
	keep, err := unix.FcntlInt(uintptr(opened), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return keep
}

func (m *mounts) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, known := range m.byID {
		if known != nil {
			unix.Close(known.fd)
		}
	}
	m.byID = nil
}

// devices numbers the devices below the source in the order in which they are
// seen. The source's own is 0, which leaves its inode numbers as they are.
type devices struct {
	mu   sync.RWMutex
	tags map[uint64]uint16
}

func (d *devices) tag(dev uint64) uint16 {
	d.mu.RLock()
	tag, ok := d.tags[dev]
	d.mu.RUnlock()
	if ok {
		return tag
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if tag, ok := d.tags[dev]; ok {
		return tag
	}
	tag = uint16(len(d.tags))
	d.tags[dev] = tag
	return tag
}

func openDir(dirfd int, name string) (int, unix.Errno) {
	for {
		fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		return fd, sys.Errno(err)
	}
}
