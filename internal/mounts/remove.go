package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Why removing a mount takes more than umount2(2)
//
// umount2 takes a path, and a user who owns a directory on that path decides
// where it leads. A descriptor of the mount itself can't be used either: it
// makes the mount busy. Only MNT_DETACH works through one (/proc/self/fd/N),
// because it does not ask whether the mount is busy.
//
// Remove therefore holds the directory that the mount point is in, and gives
// umount2 that directory and one name. UMOUNT_NOFOLLOW keeps the name from
// being a symbolic link. What is left is a rename of mount points. The kernel
// refuses that with EBUSY in the mount namespace of the mounts; a process in
// another namespace can do it. It can bring only a mount to that name that lies
// on the same mount as the directory. Remove pins each of those by a
// descriptor, and umount2 answers EBUSY for a pinned mount. So whatever umount2
// finds at the name, the mount that was asked for is the only one it can remove.
//
// A mount that is made between the read of the mount table and umount2 is not
// pinned; it takes CAP_SYS_ADMIN to make one.
//
// No call here waits for a file system: O_PATH, DONT_SYNC and fdinfo ask no
// server. Only directories above the mount are looked up.

// errMoved says that a path led to something else than the mount. Try again.
var errMoved = errors.New("the mount point moves")

const (
	removeTries = 500
	// pinTime is for how long another Remove may have pinned a mount, on a busy
	// machine.
	pinTime = 200 * time.Millisecond
)

// Open opens target, the root of a mount, and returns an O_PATH descriptor of it
// and its entry in the mount table. It follows symbolic links as every system
// call does, and takes the topmost mount at target. It returns no file if target
// exists and is not the root of a mount.
func Open(target string) (*os.File, *mountinfo.Info, error) {
	abs, err := filepath.Abs(target)
	if err != nil {
		return nil, nil, err
	}
	f, err := openPath(unix.AT_FDCWD, abs, 0)
	if err != nil {
		return nil, nil, err
	}
	m, err := RootOf(f)
	if m == nil {
		f.Close()
		return nil, nil, err
	}
	return f, m, nil
}

// RootOf returns the mount that f is the root of, nil if it is not the root of
// any.
func RootOf(f *os.File) (*mountinfo.Info, error) {
	m, err := Of(f)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	path, err := os.Readlink(procFD(f))
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(m.Root, "//deleted") {
		path = strings.TrimSuffix(path, " (deleted)") // a file that has no name any more
	}
	if path != m.Mountpoint {
		return nil, nil
	}
	return m, nil
}

// OpenRoot opens the root of a mount of the table, O_PATH. It fails with EBUSY
// if another mount covers it, and with ErrNotFound if it is gone.
func OpenRoot(m *mountinfo.Info) (*os.File, error) {
	for range removeTries {
		all, now, err := byID(m.ID)
		if err != nil {
			return nil, err
		}
		if now.Major != m.Major || now.Minor != m.Minor {
			return nil, ErrNotFound // the kernel uses the ids of mounts again
		}
		p, err := findPlace(now.Mountpoint)
		if err == nil {
			var f *os.File
			f, err = p.openMount(all, now)
			p.close()
			if err == nil {
				return f, nil
			}
		}
		if !moved(err) {
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

// Detach removes the mount that f is the root of from its place, whoever uses it
// (MNT_DETACH).
func Detach(f *os.File) error {
	return umount(procFD(f), unix.MNT_DETACH)
}

// Remove unmounts the mount that f is the root of, and no other. It closes f. A
// mount that is used is EBUSY, as is one that has mounts on it.
func Remove(f *os.File) error {
	id, err := ID(f)
	if err != nil {
		f.Close()
		return err
	}
	busyUntil := time.Now().Add(pinTime)
	for range removeTries {
		all, m, err := byID(id)
		if err != nil {
			f.Close()
			return err
		}
		p, err := findPlace(m.Mountpoint)
		if err == nil {
			err = p.remove(all, m, f)
			p.close()
		}
		switch {
		case err == nil:
			return nil
		case err == unix.EBUSY && p != nil && !p.safe && time.Now().Before(busyUntil):
			// Another Remove may have pinned it.
			time.Sleep(5 * time.Millisecond)
		case !moved(err):
			f.Close()
			return err
		}
	}
	f.Close()
	return unix.EBUSY
}

func moved(err error) bool {
	return errors.Is(err, errMoved) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// place is the directory that a mount point is in, and its name there.
type place struct {
	dir   *os.File
	mount int // id of the mount that dir is on
	name  string
	safe  bool // nobody but root can rename the mount point, or a directory above it
}

// findPlace walks to a path of the mount table, in which there are no symbolic
// links.
func findPlace(path string) (*place, error) {
	if path == "/" {
		return nil, unix.EBUSY // umount2 would make the root of the process read-only
	}
	names := strings.Split(strings.Trim(path, "/"), "/")
	dir, err := openPath(unix.AT_FDCWD, "/", unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	safe, last := true, dirState{}
	for i, name := range names {
		state := stateOf(dir)
		safe = safe && state.rootOnly() && (i == 0 || last.keeps(state))
		last = state
		if i == len(names)-1 {
			p := &place{dir: dir, name: name, safe: safe && !state.writable()}
			if p.mount, err = ID(dir); err != nil {
				dir.Close()
				return nil, err
			}
			return p, nil
		}
		next, err := openPath(int(dir.Fd()), name, unix.O_DIRECTORY|unix.O_NOFOLLOW)
		dir.Close()
		if err != nil {
			return nil, err
		}
		dir = next
	}
	panic("unreachable: Split returns at least one name")
}

func (p *place) close() { p.dir.Close() }

// openMount opens what the place's name stands for, and checks that it is m.
func (p *place) openMount(all []*mountinfo.Info, m *mountinfo.Info) (*os.File, error) {
	f, err := openPath(int(p.dir.Fd()), p.name, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	id, err := ID(f)
	switch {
	case err != nil:
	case id == m.ID && id != p.mount:
		return f, nil
	case covers(all, id, m):
		err = unix.EBUSY
	default:
		err = errMoved
	}
	f.Close()
	return nil, err
}

// remove unmounts m, which f is the root of, if it is in its place still. It
// closes f before it calls umount2.
func (p *place) remove(all []*mountinfo.Info, m *mountinfo.Info, f *os.File) error {
	again, err := p.openMount(all, m)
	if err != nil {
		return err
	}
	again.Close()
	pins, err := p.pin(all, m)
	defer func() {
		for _, pin := range pins {
			pin.Close()
		}
	}()
	if err != nil {
		return err
	}
	f.Close()
	err = umount(procFD(p.dir)+"/"+p.name, unix.UMOUNT_NOFOLLOW)
	if err != unix.EBUSY && err != unix.EINVAL {
		return err
	}
	// Either it was m, or a pinned mount or nothing was there by then.
	if again, errAgain := p.openMount(all, m); errAgain == nil {
		again.Close()
		return err
	}
	return errMoved
}

// pin opens the mounts that somebody could bring to the place of m.
func (p *place) pin(all []*mountinfo.Info, m *mountinfo.Info) (pins []*os.File, err error) {
	// A FUSE server can let any of its directories appear at any name.
	movable := slices.ContainsFunc(all, func(on *mountinfo.Info) bool {
		return on.ID == p.mount && strings.HasPrefix(on.FSType, "fuse")
	})
	safe := map[string]bool{} // directories, of which many mounts may have one
	for _, other := range all {
		if other.Parent != p.mount || other.ID == m.ID || other.ID == other.Parent || covers(all, m.ID, other) {
			continue
		}
		dir := filepath.Dir(other.Mountpoint)
		if safe[dir] && !movable {
			continue
		}
		at, err := findPlace(other.Mountpoint)
		if err != nil || at.mount != other.Parent {
			if err == nil {
				at.close()
				err = errMoved
			}
			if err == unix.EACCES || hidden(all, other) {
				// It can't be reached to be pinned. Only another namespace, in which
				// root has uncovered it, could bring it to the name; or the owner of a
				// directory that is closed to this process, whose mount it then is.
				continue
			}
			return pins, err
		}
		if safe[dir] = at.safe; at.safe && !movable {
			at.close()
			continue
		}
		f, err := openPath(int(at.dir.Fd()), at.name, unix.O_NOFOLLOW)
		at.close()
		if err == unix.EACCES {
			continue // as above
		}
		if err != nil {
			return pins, err
		}
		pins = append(pins, f)
		if id, err := ID(f); err != nil {
			return pins, err
		} else if id != other.ID && !covers(all, id, other) {
			return pins, errMoved
		}
	}
	return pins, nil
}

// covers reports whether the mount with an id lies on the root of m, or on the
// root of one that does.
func covers(all []*mountinfo.Info, id int, m *mountinfo.Info) bool {
	for range all { // a table is no tree while it changes
		i := slices.IndexFunc(all, func(m *mountinfo.Info) bool { return m.ID == id })
		if i < 0 || all[i].Mountpoint != m.Mountpoint {
			return false
		}
		if id = all[i].Parent; id == m.ID {
			return true
		}
	}
	return false
}

// hidden reports whether a mount on a directory above m's mount point covers that.
func hidden(all []*mountinfo.Info, m *mountinfo.Info) bool {
	parents := make(map[int]int, len(all))
	for _, other := range all {
		parents[other.ID] = other.Parent
	}
	above := map[int]bool{m.ID: true}
	for id := m.Parent; !above[id]; id = parents[id] {
		above[id] = true
	}
	return slices.ContainsFunc(all, func(other *mountinfo.Info) bool {
		return !above[other.ID] && strings.HasPrefix(m.Mountpoint, other.Mountpoint+"/")
	})
}

// dirState is what decides who can rename the entries of a directory.
type dirState struct {
	mode  uint16
	uid   uint32
	mount uint64
	known bool
}

func stateOf(dir *os.File) dirState {
	var st unix.Statx_t
	const want = unix.STATX_MODE | unix.STATX_UID | unix.STATX_MNT_ID
	err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, want, &st)
	if err != nil || st.Mask&want != want {
		return dirState{}
	}
	return dirState{mode: st.Mode, uid: st.Uid, mount: st.Mnt_id, known: true}
}

// writable reports whether others than the owner can change the directory's
// entries. An ACL that lets them shows in the bits of the group.
func (s dirState) writable() bool { return s.mode&0o022 != 0 }

// rootOnly reports whether only root can change the directory's entries, or
// everybody only their own (S_ISVTX).
func (s dirState) rootOnly() bool {
	return s.known && s.uid == 0 && (!s.writable() || s.mode&unix.S_ISVTX != 0)
}

// keeps reports whether nobody but root can rename entry, a directory in s.
func (s dirState) keeps(entry dirState) bool {
	return !s.writable() || entry.known && entry.uid == 0 && entry.mount == s.mount
}

func byID(id int) (all []*mountinfo.Info, m *mountinfo.Info, err error) {
	if all, err = mountinfo.GetMounts(nil); err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(all, func(m *mountinfo.Info) bool { return m.ID == id })
	if i < 0 {
		return nil, nil, ErrNotFound
	}
	return all, all[i], nil
}

func openPath(dirfd int, path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dirfd, path, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

func umount(path string, flags int) error {
	for {
		if err := unix.Unmount(path, flags); err != unix.EINTR {
			return err
		}
	}
}

func procFD(f *os.File) string { return "/proc/thread-self/fd/" + strconv.Itoa(int(f.Fd())) }
