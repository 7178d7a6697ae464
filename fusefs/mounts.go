package fusefs

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// mounts are the mounts below the source whose files open by handle. Files
// are opened through the mount that they were found on, so that a read-only or
// nodev mount below the source stays one.
type mounts struct {
	root  *mount // of the source itself; nil if it has no handles
	watch *watch
	log   *slog.Logger

	mu   sync.RWMutex
	byID map[int32]*mount // nil values: mounts without handles

	markables map[int32]*markable      // of mounts without handles; nil values: those that can't be watched
	blind     error                    // if files of the source don't open by handle: why they can't be watched
	all       atomic.Pointer[[]*mount] // by index; never changed, but replaced
}

// at returns the mount with an index, nil if there is none.
func (m *mounts) at(index uint32) *mount {
	if all := m.all.Load(); all != nil && int64(index) < int64(len(*all)) {
		return (*all)[index]
	}
	return nil
}

// noHandles reports whether an error of SupportsHandles says that files of a file system
// never open by handle. Any other, such as ENFILE, says nothing of the file system.
func noHandles(err error) bool {
	for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.ENOSYS, unix.EOVERFLOW, unix.EINVAL, unix.ESTALE, unix.EPERM, unix.EACCES} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// newMounts finds out whether files of the source open by handle.
func newMounts(source *os.File, w *watch, logger *slog.Logger) (*mounts, error) {
	m := &mounts{byID: make(map[int32]*mount), markables: make(map[int32]*markable), watch: w, log: logger, blind: ErrNoHandles}
	fd, errno := openDir(int(source.Fd()), ".")
	if errno == unix.EACCES || errno == unix.ENOTDIR {
		return m, nil // a source that refuses root to list it; each file is kept open then
	}
	if errno != 0 {
		return nil, &sys.Error{Op: "open", Path: source.Name(), Err: errno}
	}
	dir := os.NewFile(uintptr(fd), source.Name())
	if err := sys.SupportsHandles(dir); err != nil {
		if noHandles(err) {
			m.admitRoot(dir)
			return m, nil
		}
		dir.Close()
		return m, err
	}
	var buf [sys.MaxHandle]byte
	_, id, errno := sys.HandleAt(fd, "", &buf)
	if errno != 0 {
		return m, dir.Close()
	}
	m.root = m.add(id, dir)
	return m, nil
}

// known returns the mount with an id if it has been seen before.
func (m *mounts) known(id int32) (known *mount, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	known, ok = m.byID[id]
	return known, ok
}

// get returns the mount with an id, nil if its files have to be kept open.
// When the mount is new, it is reached through fd, which is on it. An error is that of
// this request alone: the next one tries again.
func (m *mounts) get(id int32, fd int, dir bool) (*mount, unix.Errno) {
	if known, ok := m.known(id); ok {
		return known, 0
	}
	// A mount on a file has one file, and it can be kept open.
	if m.root == nil || !dir {
		return nil, 0
	}
	// Without the lock: a server that does not answer would have everybody wait.
	fresh, errno := openMount(fd)
	if errno != 0 {
		return nil, errno
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.byID[id]; ok || m.byID == nil {
		if fresh != nil {
			fresh.Close()
		}
		return known, 0
	}
	if fresh == nil {
		m.byID[id] = nil
		return nil, 0
	}
	return m.add(id, fresh), 0
}

// add makes a mount known by a directory on it, which it keeps open.
func (m *mounts) add(id int32, dir *os.File) *mount {
	var all []*mount
	if before := m.all.Load(); before != nil {
		all = slices.Clone(*before)
	}
	found := &mount{index: uint32(len(all)), dir: dir, fd: int(dir.Fd())}
	all = append(all, found)
	m.all.Store(&all)
	if found.blind = m.watch.add(found); found.blind != nil && found.index > 0 { // the source's own is reported by Start
		m.log.Info("nothing is cached", "mount", dir.Name(), "cause", found.blind)
	}
	m.byID[id] = found
	return found
}

// openMount opens the directory that fd is a descriptor of, if files of its file
// system open by handle; if they never do, it returns nil and no error.
func openMount(fd int) (*os.File, unix.Errno) {
	opened, errno := openDir(fd, ".")
	if errno == unix.EACCES || errno == unix.EPERM {
		return nil, 0 // a file system that refuses root
	}
	if errno != 0 {
		return nil, errno
	}
	dir := os.NewFile(uintptr(opened), "below the source")
	err := sys.SupportsHandles(dir)
	if err == nil {
		return dir, 0
	}
	dir.Close()
	if noHandles(err) {
		return nil, 0
	}
	errno = unix.EIO
	errors.As(err, &errno)
	return nil, errno
}

func (m *mounts) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, known := range m.byID {
		if known != nil {
			known.dir.Close()
		}
	}
	m.byID = nil
	for _, on := range m.markables {
		if on != nil {
			on.dir.Close()
		}
	}
	m.markables = nil
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
	return sys.OpenAt(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}
