package sys

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Changes reports what happens to the files of whole file systems, whoever
// does it: fanotify(7) with file handles, Linux 5.9. It takes CAP_SYS_ADMIN.
//
// Reports are waited for by a thread. Go's poller would be told of each as it
// happens, and wake threads for it, which a busy writer pays for; a thread that
// is not waiting is told nothing.
type Changes struct {
	mu  sync.RWMutex // held for reading while the descriptors are used
	fd  int          // -1 when closed
	end int          // an eventfd(2) that ends a Read
	buf []byte
}

// Change is one event. Handles have the form that HandleAt writes, and are
// slices of a buffer that the next Read overwrites.
type Change struct {
	Mask uint64 // FAN_* bits; FAN_Q_OVERFLOW alone means that events were lost
	Pid  int32  // who did it
	FSID uint64 // of the file system, as FSID returns it
	Dir  []byte // the directory, of an event about a name
	Name []byte // the name there
	File []byte // the file or directory itself; of an event about a name since Linux 5.17
}

// changeMask has what alters a name or an attribute. Reads alter the time of
// access and are not reported, and neither are stores to mapped files.
const changeMask = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO | unix.FAN_MOVE_SELF |
	unix.FAN_ATTRIB | unix.FAN_MODIFY | unix.FAN_ONDIR

// NewChanges starts with no file system.
func NewChanges() (*Changes, error) { return newChanges(0) }

// NewFileChanges is NewChanges for AddFile. The marks don't count for the user's
// fs.fanotify.max_user_marks: how many there are is up to the caller.
func NewFileChanges() (*Changes, error) { return newChanges(unix.FAN_UNLIMITED_MARKS) }

func newChanges(more uint) (*Changes, error) {
	const flags = unix.FAN_CLASS_NOTIF | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK |
		unix.FAN_REPORT_FID | unix.FAN_REPORT_DIR_FID | unix.FAN_REPORT_NAME
	fd, err := unix.FanotifyInit(flags|more|unix.FAN_REPORT_TARGET_FID, unix.O_RDONLY|unix.O_CLOEXEC)
	if err == unix.EINVAL { // before Linux 5.17
		fd, err = unix.FanotifyInit(flags|more, unix.O_RDONLY|unix.O_CLOEXEC)
	}
	if err != nil {
		e := &Error{Op: "fanotify_init", Err: err}
		if err == unix.EMFILE {
			e.Detail = "fs.fanotify.max_user_groups, or the limit of open files"
		}
		return nil, e
	}
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, &Error{Op: "eventfd", Err: err}
	}
	return &Changes{fd: fd, end: end, buf: make([]byte, 64<<10)}, nil
}

// Add has the changes of the file system that dir lies on reported.
func (c *Changes) Add(dir *os.File) error {
	return c.mark(dir, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, changeMask)
}

// Remove takes Add back.
func (c *Changes) Remove(dir *os.File) error {
	return c.mark(dir, unix.FAN_MARK_REMOVE|unix.FAN_MARK_FILESYSTEM, changeMask)
}

// changeMasks of the marks on one file, by whether it is a directory. FIFOs and devices
// are written to without changing.
const (
	dirMask  = changeMask &^ unix.FAN_MODIFY
	fileMask = unix.FAN_ATTRIB | unix.FAN_MODIFY | unix.FAN_MOVE_SELF
)

// AddFile has the changes of the file of fd alone reported: of a directory, its names
// and its own attributes. It does not matter by which name, or by which descriptor, the
// file is changed. The mark pins the inode, and goes with it when the file is deleted.
func (c *Changes) AddFile(fd int, dir bool) unix.Errno {
	return c.markFile(fd, unix.FAN_MARK_ADD, dir)
}

// RemoveFile takes AddFile back.
func (c *Changes) RemoveFile(fd int, dir bool) unix.Errno {
	return c.markFile(fd, unix.FAN_MARK_REMOVE, dir)
}

func (c *Changes) markFile(fd int, flags uint, dir bool) unix.Errno {
	mask := uint64(fileMask)
	if dir {
		mask = dirMask
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return unix.EBADF
	}
	var b procPath // fd may be O_PATH
	dirfd, name := b.of(fd)
	return fanotifyMark(c.fd, flags, mask, dirfd, name)
}

// fanotifyMark makes no copy of the name, as unix.FanotifyMark does: it is called for
// each file that is looked up.
func fanotifyMark(group int, flags uint, mask uint64, dirfd uintptr, name *byte) unix.Errno {
	var errno unix.Errno
	if unsafe.Sizeof(dirfd) == 8 {
		_, _, errno = unix.Syscall6(unix.SYS_FANOTIFY_MARK, uintptr(group), uintptr(flags), uintptr(mask), dirfd,
			uintptr(unsafe.Pointer(name)), 0)
		return errno
	}
	low, high := uintptr(uint32(mask)), uintptr(mask>>32)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low, high = high, low
	}
	_, _, errno = unix.Syscall6(unix.SYS_FANOTIFY_MARK, uintptr(group), uintptr(flags), low, high, dirfd,
		uintptr(unsafe.Pointer(name)))
	return errno
}

// ReportsFileIDs reports whether the events about files of the file system of dir, which
// is not O_PATH, name them as FileID does, where files don't open by handle. It tries it:
// it opens dir.
func ReportsFileIDs(dir *os.File) error {
	var buf [MaxHandle]byte
	fd := int(dir.Fd())
	size, _, errno := FileID(fd, &buf)
	if errno != 0 {
		return &Error{Op: "name_to_handle_at", Path: dir.Name(), Detail: "AT_HANDLE_FID", Err: errno}
	}
	c, err := NewFileChanges()
	if err != nil {
		return err
	}
	defer c.Close()
	dot := [...]byte{'.', 0}
	if errno := fanotifyMark(c.fd, unix.FAN_MARK_ADD, unix.FAN_OPEN|unix.FAN_ONDIR, uintptr(fd), &dot[0]); errno != 0 {
		return &Error{Op: "fanotify_mark", Path: dir.Name(), Err: errno}
	}
	opened, errno := OpenAt(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errno != 0 {
		return &Error{Op: "open", Path: dir.Name(), Err: errno}
	}
	unix.Close(opened)
	seen := false
	n, err := unix.Read(c.fd, c.buf)
	if err == nil {
		err = parseChanges(c.buf[:n], func(change *Change) {
			seen = seen || bytes.Equal(change.File, buf[:size])
		})
	}
	if err != nil || !seen {
		return &Error{Op: "fanotify", Path: dir.Name(), Detail: "events name files otherwise than AT_HANDLE_FID", Err: unix.EOPNOTSUPP}
	}
	return nil
}

// SeesAllChanges reports whether every change to a file system of this type
// goes through this kernel and is reported: not so on a network's, where others
// make changes, nor on one that a process serves as it likes.
func SeesAllChanges(st *unix.Statfs_t) bool {
	const bcachefs, jfs, zfs = 0xca451a4e, 0x3153464a, 0x2fc12fc1 // not in linux/magic.h
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC,
		unix.RAMFS_MAGIC,
		unix.OVERLAYFS_SUPER_MAGIC, unix.REISERFS_SUPER_MAGIC, unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC,
		unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, unix.ISOFS_SUPER_MAGIC, bcachefs, jfs, zfs:
		return true
	}
	return false
}

// IgnoreWrites leaves out what is written to open files by way of the mount that
// dir lies on: FAN_MODIFY. Events about names, and changes of attributes, can't
// be told apart by mount.
func (c *Changes) IgnoreWrites(dir *os.File) error {
	return c.mark(dir, unix.FAN_MARK_ADD|ignoredWrites, unix.FAN_MODIFY)
}

// HeedWrites takes IgnoreWrites back.
func (c *Changes) HeedWrites(dir *os.File) error {
	return c.mark(dir, unix.FAN_MARK_REMOVE|ignoredWrites, unix.FAN_MODIFY)
}

const ignoredWrites = unix.FAN_MARK_MOUNT | unix.FAN_MARK_IGNORED_MASK | unix.FAN_MARK_IGNORED_SURV_MODIFY

func (c *Changes) mark(dir *os.File, flags uint, mask uint64) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return os.ErrClosed
	}
	if err := unix.FanotifyMark(c.fd, flags, mask, int(dir.Fd()), ""); err != nil {
		e := &Error{Op: "fanotify_mark", Path: dir.Name(), Err: err}
		if err == unix.ENOSPC {
			e.Detail = "fs.fanotify.max_user_marks"
		}
		return e
	}
	return nil
}

// FSID returns what tells a file system apart in a Change.
func FSID(st *unix.Statfs_t) uint64 {
	return uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32
}

// Read waits for changes and calls each for every one. After Close it returns
// an error that is os.ErrClosed.
func (c *Changes) Read(each func(*Change)) error {
	n, err := c.read()
	if err != nil {
		return err
	}
	return parseChanges(c.buf[:n], each)
}

func (c *Changes) read() (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return 0, os.ErrClosed
	}
	for {
		n, err := unix.Read(c.fd, c.buf)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			return 0, &Error{Op: "read", Path: "fanotify", Err: err}
		}
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(c.end), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return 0, &Error{Op: "poll", Path: "fanotify", Err: err}
		}
		if fds[1].Revents != 0 {
			return 0, os.ErrClosed
		}
	}
}

// Close ends the reports, and a Read that waits for some.
func (c *Changes) Close() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	c.mu.RLock()
	_, err := unix.Write(c.end, one[:])
	c.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return os.ErrClosed
	}
	unix.Close(c.fd)
	unix.Close(c.end)
	c.fd, c.end = -1, -1
	if err != nil {
		return &Error{Op: "write", Path: "eventfd", Err: err}
	}
	return nil
}

// parseChanges reads struct fanotify_event_metadata and the records that
// follow it (fanotify(7)). What it does not know it passes over.
func parseChanges(buf []byte, each func(*Change)) error {
	const metaLen = 24
	var change Change
	for len(buf) > 0 {
		if len(buf) < metaLen {
			return fmt.Errorf("fanotify: event of %d bytes is cut off", len(buf))
		}
		total := int(binary.NativeEndian.Uint32(buf))
		version := buf[4]
		head := int(binary.NativeEndian.Uint16(buf[6:]))
		if version != unix.FANOTIFY_METADATA_VERSION || head < metaLen || total < head || total > len(buf) {
			return fmt.Errorf("fanotify: event has version %d, length %d with a header of %d in %d bytes", version, total, head, len(buf))
		}
		change = Change{
			Mask: binary.NativeEndian.Uint64(buf[8:]),
			Pid:  int32(binary.NativeEndian.Uint32(buf[20:])),
		}
		if err := change.parseInfo(buf[head:total]); err != nil {
			return err
		}
		if len(change.File) == 0 && string(change.Name) == "." {
			// A directory is reported as the entry of itself.
			change.File, change.Dir, change.Name = change.Dir, nil, nil
		}
		each(&change)
		buf = buf[total:]
	}
	return nil
}

// parseInfo reads the records struct fanotify_event_info_fid.
func (c *Change) parseInfo(buf []byte) error {
	const headLen, handleHeadLen = 12, 8
	for len(buf) >= 4 {
		size := int(binary.NativeEndian.Uint16(buf[2:]))
		if size < 4 || size > len(buf) {
			return fmt.Errorf("fanotify: record of %d bytes in %d", size, len(buf))
		}
		record := buf[:size]
		buf = buf[size:]
		kind := record[0]
		if kind != unix.FAN_EVENT_INFO_TYPE_FID && kind != unix.FAN_EVENT_INFO_TYPE_DFID_NAME && kind != unix.FAN_EVENT_INFO_TYPE_DFID {
			continue
		}
		if size < headLen+handleHeadLen {
			return fmt.Errorf("fanotify: record of %d bytes is cut off", size)
		}
		c.FSID = uint64(binary.NativeEndian.Uint32(record[4:])) | uint64(binary.NativeEndian.Uint32(record[8:]))<<32
		end := headLen + handleHeadLen + int(binary.NativeEndian.Uint32(record[headLen:]))
		if end > size {
			return fmt.Errorf("fanotify: file handle of %d bytes in a record of %d", end-headLen-handleHeadLen, size)
		}
		handle := record[headLen+4 : end] // the type, and then the handle
		switch kind {
		case unix.FAN_EVENT_INFO_TYPE_FID:
			c.File = handle
		case unix.FAN_EVENT_INFO_TYPE_DFID:
			c.Dir = handle
		case unix.FAN_EVENT_INFO_TYPE_DFID_NAME:
			name, _, _ := bytes.Cut(record[end:], []byte{0})
			c.Dir, c.Name = handle, name
		}
	}
	return nil
}
