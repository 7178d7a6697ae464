package sys

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OpenTree opens the mount or directory at path, following symbolic links.
// With unix.OPEN_TREE_CLONE the result is a detached copy of the mount: it is
// seen by nobody, and closing the file ends it unless MoveMount has attached
// it. unix.AT_RECURSIVE copies the submounts too. OPEN_TREE_CLOEXEC is always
// added. Kernels before 5.2 answer ENOSYS.
func OpenTree(path string, flags uint) (*os.File, error) {
	return openTree(unix.AT_FDCWD, path, path, flags)
}

// OpenTreeAt is OpenTree for a path that starts at dir. An empty path is dir
// itself, if flags has unix.AT_EMPTY_PATH.
func OpenTreeAt(dir *os.File, path string, flags uint) (*os.File, error) {
	return openTree(int(dir.Fd()), path, join(dir, path), flags)
}

func openTree(dirfd int, path, name string, flags uint) (*os.File, error) {
	flags |= unix.OPEN_TREE_CLOEXEC
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.OpenTree(dirfd, path, flags)
		return err
	})
	if err != nil {
		return nil, &Error{Op: "open_tree", Path: name, Detail: treeFlagText(flags), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// OpenTreeAttr is OpenTreeAt and MountSetattr in one step, before the mount
// exists anywhere: the only call that gives an already idmapped mount another
// map. It is new in Linux 6.15 (kernel commit c4a16820d901); older kernels
// answer ENOSYS, which is kept as the cause. A nil dir stands for the working
// directory.
func OpenTreeAttr(dir *os.File, path string, flags uint, attr *unix.MountAttr) (*os.File, error) {
	flags |= unix.OPEN_TREE_CLOEXEC
	dirfd, name := unix.AT_FDCWD, path
	if dir != nil {
		dirfd, name = int(dir.Fd()), join(dir, path)
	}
	fail := func(err error) (*os.File, error) {
		return nil, &Error{Op: "open_tree_attr", Path: name, Detail: treeFlagText(flags) + ", " + AttrText(attr), Err: err}
	}
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return fail(err)
	}
	for {
		// The number is the same on every architecture but alpha; x/sys has
		// no wrapper yet.
		fd, _, errno := unix.Syscall6(unix.SYS_OPEN_TREE_ATTR, uintptr(dirfd), uintptr(unsafe.Pointer(p)),
			uintptr(flags), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr), 0)
		switch errno {
		case 0:
			return os.NewFile(fd, name), nil
		case unix.EINTR:
			continue
		}
		return fail(errno)
	}
}

// MountSetattr changes the attributes of the mount at path below mnt, or of
// mnt itself with an empty path; AT_EMPTY_PATH is then added. With
// unix.AT_RECURSIVE either every mount below changes or none does.
func MountSetattr(mnt *os.File, path string, flags uint, attr *unix.MountAttr) error {
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	err := retry(func() error {
		return unix.MountSetattr(int(mnt.Fd()), path, flags, attr)
	})
	if err != nil {
		detail := AttrText(attr)
		if flags&unix.AT_RECURSIVE != 0 {
			detail += "|recursive"
		}
		return &Error{Op: "mount_setattr", Path: join(mnt, path), Detail: detail, Err: err}
	}
	return nil
}

// flagAttrs are the attributes that are flags, but for the map.
const flagAttrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC |
	unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR__ATIME

// SetMountAttrs gives the attached mount mnt these attributes and no others, as
// `mount -o remount,bind` does. mnt is its root.
func SetMountAttrs(mnt *os.File, attrs uint64) error {
	err := MountSetattr(mnt, "", 0, &unix.MountAttr{Attr_set: attrs, Attr_clr: flagAttrs})
	if errors.Is(err, unix.ENOSYS) {
		err = setMountAttrsClassic(mnt, attrs)
	}
	return err
}

// setMountAttrsClassic is SetMountAttrs before Linux 5.12.
func setMountAttrsClassic(mnt *os.File, attrs uint64) error {
	flags, err := MountFlags(attrs)
	if err == nil {
		err = unix.Mount("", fdPath(mnt), "", flags|unix.MS_REMOUNT|unix.MS_BIND, "")
	}
	if err != nil {
		return &Error{Op: "mount", Path: mnt.Name(), Detail: "remount", Err: err}
	}
	return nil
}

// SetPropagation sets the propagation type of the attached mount mnt, unix.MS_PRIVATE
// and so on, if recursive also of those below. mount(2) does it on every kernel.
func SetPropagation(mnt *os.File, propagation uint64, recursive bool) error {
	flags := uintptr(propagation)
	if recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount("", fdPath(mnt), "", flags, ""); err != nil {
		return &Error{Op: "mount", Path: mnt.Name(), Detail: "propagation", Err: err}
	}
	return nil
}

func fdPath(f *os.File) string { return "/proc/thread-self/fd/" + strconv.Itoa(int(f.Fd())) }

// MoveMount attaches the detached mount mnt at the path target, following
// symbolic links.
func MoveMount(mnt *os.File, target string) error {
	err := unix.MoveMount(int(mnt.Fd()), "", unix.AT_FDCWD, target,
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS|unix.MOVE_MOUNT_T_AUTOMOUNTS)
	if err != nil {
		return &Error{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// MoveMountTo attaches the detached mount mnt on the open file or directory
// target, so that nobody can swap the target in between. An O_PATH file will
// do.
func MoveMountTo(mnt, target *os.File) error {
	return MoveMountAt(mnt, int(target.Fd()), target.Name())
}

// MoveMountAt is MoveMountTo for a descriptor; name is for messages.
func MoveMountAt(mnt *os.File, target int, name string) error {
	err := unix.MoveMount(int(mnt.Fd()), "", target, "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return &Error{Op: "move_mount", Path: name, Err: err}
	}
	return nil
}

// AttrText names what attr sets and clears, as error texts show it:
// "flags idmap|nosuid, clear ro".
func AttrText(attr *unix.MountAttr) string {
	var parts []string
	if s := attrNames(attr.Attr_set); s != "" {
		parts = append(parts, "flags "+s)
	}
	if s := attrNames(attr.Attr_clr); s != "" {
		parts = append(parts, "clear "+s)
	}
	switch attr.Propagation {
	case unix.MS_PRIVATE:
		parts = append(parts, "private")
	case unix.MS_SLAVE:
		parts = append(parts, "slave")
	case unix.MS_SHARED:
		parts = append(parts, "shared")
	case unix.MS_UNBINDABLE:
		parts = append(parts, "unbindable")
	}
	return strings.Join(parts, ", ")
}

func attrNames(bits uint64) string {
	var names []string
	for _, a := range [...]struct {
		bits uint64
		name string
	}{
		{unix.MOUNT_ATTR_IDMAP, "idmap"},
		{unix.MOUNT_ATTR_RDONLY, "ro"},
		{unix.MOUNT_ATTR_NOSUID, "nosuid"},
		{unix.MOUNT_ATTR_NODEV, "nodev"},
		{unix.MOUNT_ATTR_NOEXEC, "noexec"},
		{unix.MOUNT_ATTR__ATIME, "atime"}, // the whole class, before its members
		{unix.MOUNT_ATTR_NOATIME, "noatime"},
		{unix.MOUNT_ATTR_STRICTATIME, "strictatime"},
		{unix.MOUNT_ATTR_NODIRATIME, "nodiratime"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"},
	} {
		if bits&a.bits == a.bits {
			names = append(names, a.name)
			bits &^= a.bits
		}
	}
	return strings.Join(names, "|")
}

func treeFlagText(flags uint) string {
	names := []string{}
	if flags&unix.OPEN_TREE_CLONE != 0 {
		names = append(names, "clone")
	}
	if flags&unix.AT_RECURSIVE != 0 {
		names = append(names, "recursive")
	}
	if len(names) == 0 {
		return ""
	}
	return "flags " + strings.Join(names, "|")
}

// join names path below dir for a message; it is never opened.
func join(dir *os.File, path string) string {
	switch {
	case path == "":
		return dir.Name()
	case strings.HasPrefix(path, "/"):
		return path
	}
	return strings.TrimSuffix(dir.Name(), "/") + "/" + path
}

// retry runs call again for as long as a signal interrupts it.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
