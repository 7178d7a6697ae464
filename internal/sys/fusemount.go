package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FuseMountOptions describes a FUSE mount of this process.
type FuseMountOptions struct {
	Source             string // first column of mount tables
	Subtype            string // the type shows as fuse.SUBTYPE; "" is plain fuse
	RootMode           uint32 // type bits of the root's mode; 0 is a directory
	AllowOther         bool   // others than the mounting user may use it
	DefaultPermissions bool   // the kernel checks permissions
	MaxRead            int    // bytes; 0 leaves the kernel's default
	Attrs              uint64 // unix.MOUNT_ATTR_*: ro, nosuid, nodev, noexec, atime class
	Labels             []FuseLabel
	ServeEarly         bool // see FuseMountServed
}

// FuseLabel is a mount option of SELinux, such as context. A kernel without SELinux
// does not know it.
type FuseLabel struct{ Name, Value string }

// FuseMount makes a detached FUSE mount: dev is the open /dev/fuse to serve
// it by, tree the mount for MountSetattr and MoveMount. Closing tree unmounts
// it as long as it is attached nowhere; closing dev aborts the connection.
//
// It takes the mount calls of Linux 5.2: before, the cause is ENOSYS, and
// FuseMountAt is the way. An error has what the kernel wrote to the log of the
// mount attempt, where it wrote anything.
func FuseMount(o FuseMountOptions) (dev, tree *os.File, err error) {
	dev, err = OpenFuseDevice(FuseDevice)
	if err != nil {
		return nil, nil, err
	}
	tree, err = fuseMountOf(o, dev)
	if err != nil {
		dev.Close()
		return nil, nil, err
	}
	return dev, tree, nil
}

func fuseMountOf(o FuseMountOptions, dev *os.File) (tree *os.File, err error) {
	if len(o.Source) > longestParam {
		return fuseMountLong(o, dev)
	}
	return fuseMount(o, dev)
}

// FuseMountServed makes a detached FUSE mount as FuseMount does, and calls serve, which
// answers INIT and serves the mount from then on. dev is closed when both have returned.
// serve is not called if the mount fails before it has a connection.
//
// With ServeEarly, serve runs while another thread makes the mount. SELinux
// asks the server for security.selinux of the root meanwhile if the policy has
// fs_use_xattr for fuse. Without an answer the mount calls never return.
func FuseMountServed(o FuseMountOptions, serve func(dev *os.File) error) (tree *os.File, err error) {
	dev, err := OpenFuseDevice(FuseDevice)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	if o.ServeEarly {
		// The kernel then sends INIT, and has its answer, before SELinux asks. Before Linux
		// 6.18 that is ENOTTY: what SELinux asks waits in the kernel for the answer to INIT.
		_ = fuseSyncInit(int(dev.Fd()))
		tree, err = fuseMountEarly(o, dev, serve)
	} else if tree, err = fuseMountOf(o, dev); err == nil {
		err = serve(dev)
	}
	if err != nil && tree != nil {
		tree.Close()
		tree = nil
	}
	return tree, err
}

// fuseMountEarly calls serve as soon as dev has a connection. The calling thread serves,
// as without ServeEarly, since it may be in another mount namespace than the process.
func fuseMountEarly(o FuseMountOptions, dev *os.File, serve func(dev *os.File) error) (tree *os.File, err error) {
	mounted := make(chan struct{})
	go func() {
		defer close(mounted)
		tree, err = fuseMountOf(o, dev)
	}()
	var cause error
	if awaitConnection(dev, mounted) {
		if cause = serve(dev); cause != nil {
			FuseRefuse(dev, mounted) // what serve has not read, too
		}
	}
	<-mounted
	switch {
	case cause == nil:
		return tree, err
	case err == nil:
		return tree, cause
	}
	return tree, fmt.Errorf("%w; %w", cause, err) // ENOTCONN where serve has refused INIT
}

// FuseRefuse answers all requests with an errno until done is closed or the connection
// ends: GETXATTR with ENODATA, which SELinux accepts of a new mount, and others with ENOSYS.
func FuseRefuse(dev *os.File, done <-chan struct{}) {
	const inHeader, outHeader, getxattr = 40, 16, 22 // of include/uapi/linux/fuse.h
	// The kernel demands room for the largest write that the answer to INIT allows.
	buf := make([]byte, 1<<20+4096)
	for {
		select {
		case <-done:
			return
		default:
		}
		const look = 10 // ms
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(dev.Fd()), Events: unix.POLLIN}}, look); n <= 0 {
			continue
		}
		n, err := unix.Read(int(dev.Fd()), buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT):
			continue
		case err != nil || n < inHeader:
			return
		}
		var out [outHeader]byte
		errno := unix.ENOSYS
		if binary.NativeEndian.Uint32(buf[4:]) == getxattr {
			errno = unix.ENODATA
		}
		binary.NativeEndian.PutUint32(out[0:], outHeader)
		binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
		copy(out[8:], buf[8:16])                 // unique
		_, _ = unix.Write(int(dev.Fd()), out[:]) // a request without an answer is ENOENT
	}
}

// awaitConnection returns when dev has a connection, or false when the mount has failed
// before it had one. After fuseSyncInit read(2) and poll(2) wait for a connection, and no
// failure of the mount wakes them. write(2) is EPERM until there is one.
func awaitConnection(dev *os.File, mounted <-chan struct{}) bool {
	connected := func() bool {
		_, err := unix.Write(int(dev.Fd()), []byte{0}) // EINVAL: no message is that short
		return !errors.Is(err, unix.EPERM)
	}
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		if connected() {
			return true
		}
		select {
		case <-mounted:
			return connected()
		case <-time.After(pause):
		}
	}
}

// longestParam is the length of the longest string that fsconfig(2) takes.
const longestParam = 255

// fuseMountLong is fuseMount for a source that is too long for fsconfig(2): mount(2)
// takes one of PATH_MAX bytes. That mounts at a place, in a namespace that nobody else
// has and that ends with the call. The copy that is returned does not.
func fuseMountLong(o FuseMountOptions, dev *os.File) (tree *os.File, err error) {
	OnOwnThread(func() {
		if err = PrivateMounts(); err != nil {
			return
		}
		const place = "/proc" // which there is
		if err = fuseMountAt(o, dev, place); err == nil {
			tree, err = OpenTree(place, unix.OPEN_TREE_CLONE)
		}
	})
	return tree, err
}

// PrivateMounts gives the calling thread a mount namespace of its own, from which
// nothing propagates.
func PrivateMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return &Error{Op: "unshare", Path: "mounts", Err: err}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return &Error{Op: "mount", Path: "/", Detail: "private", Err: err}
	}
	return nil
}

func fuseMount(o FuseMountOptions, dev *os.File) (*os.File, error) {
	ctx, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, &Error{Op: "fsopen", Path: "fuse", Err: err}
	}
	defer unix.Close(ctx)
	fail := func(op, key string, err error) error {
		e := &Error{Op: op, Path: o.Source, Detail: o.typeName(), Err: err}
		if key != "" {
			e.Detail += ", " + key
		}
		if log := fsLog(ctx); log != "" {
			e.Detail += ", kernel log: " + log
		}
		return e
	}
	for _, p := range o.params(int(dev.Fd()), true) {
		if p.flag {
			err = unix.FsconfigSetFlag(ctx, p.key)
		} else {
			err = unix.FsconfigSetString(ctx, p.key, p.value)
		}
		if err != nil {
			return nil, fail("fsconfig", p.String(), err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, fail("fsconfig", "create", err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, int(o.Attrs))
	if err != nil {
		return nil, fail("fsmount", attrNames(o.Attrs), err)
	}
	return os.NewFile(uintptr(fd), o.Source), nil
}

// FuseMountAt makes a FUSE mount at target by mount(2), for kernels without
// fsopen. The target is visible at once, before anything is served: whoever
// looks at it waits until dev is.
func FuseMountAt(o FuseMountOptions, target string) (dev *os.File, err error) {
	dev, err = OpenFuseDevice(FuseDevice)
	if err != nil {
		return nil, err
	}
	if err := fuseMountAt(o, dev, target); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

func fuseMountAt(o FuseMountOptions, dev *os.File, target string) error {
	var data []string
	for _, p := range o.params(int(dev.Fd()), false) {
		data = append(data, p.String())
	}
	flags, err := MountFlags(o.Attrs)
	if err == nil {
		err = unix.Mount(o.Source, target, o.typeName(), flags, strings.Join(data, ","))
	}
	if err != nil {
		return &Error{Op: "mount", Path: target, Detail: o.typeName(), Err: err}
	}
	return nil
}

// FuseDevice is the device by which a FUSE server is reached.
const FuseDevice = "/dev/fuse"

// ErrNotFuseDevice is the cause when something else is at FuseDevice. A container may
// have an ordinary file there, on which the kernel says no more than EINVAL, and late.
var ErrNotFuseDevice = errors.New("not the FUSE device (character device 10:229)")

// OpenFuseDevice opens path, which is FuseDevice but for tests.
func OpenFuseDevice(path string) (*os.File, error) {
	// udev or devtmpfs make the node from the module's alias, and opening it
	// loads the module: no modprobe here.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(10, 229)) {
		unix.Close(fd)
		return nil, &Error{Op: "open", Path: path, Err: ErrNotFuseDevice}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (o FuseMountOptions) typeName() string {
	if o.Subtype == "" {
		return "fuse"
	}
	return "fuse." + o.Subtype
}

type fsParam struct {
	key, value string
	flag       bool
}

func (p fsParam) String() string {
	if p.flag {
		return p.key
	}
	return p.key + "=" + p.value
}

// params lists the options of the file system itself. mount(2) takes source
// and subtype elsewhere.
func (o FuseMountOptions) params(dev int, context bool) []fsParam {
	mode := o.RootMode & unix.S_IFMT
	if mode == 0 {
		mode = unix.S_IFDIR
	}
	var ps []fsParam
	set := func(key, value string) { ps = append(ps, fsParam{key: key, value: value}) }
	if context {
		set("source", o.Source)
		if o.Subtype != "" {
			set("subtype", o.Subtype)
		}
	}
	set("fd", strconv.Itoa(dev))
	set("rootmode", fmt.Sprintf("%o", mode))
	// The owner of the mount, whom the kernel lets in without allow_other: the
	// ids of this process, as the kernel wants them for mounts in user
	// namespaces.
	set("user_id", strconv.Itoa(os.Geteuid()))
	set("group_id", strconv.Itoa(os.Getegid()))
	if o.AllowOther {
		ps = append(ps, fsParam{key: "allow_other", flag: true})
	}
	if o.DefaultPermissions {
		ps = append(ps, fsParam{key: "default_permissions", flag: true})
	}
	if o.MaxRead > 0 {
		set("max_read", strconv.Itoa(o.MaxRead))
	}
	for _, l := range o.Labels {
		value := l.Value
		if !context {
			value = `"` + value + `"` // in a list commas separate
		}
		set(l.Name, value)
	}
	return ps
}

// MountFlags says attrs in the flags of mount(2).
func MountFlags(attrs uint64) (uintptr, error) {
	// relatime is 0 in attrs and mount(2)'s default too, but said aloud it
	// also wins over a strictatime default.
	var flags uintptr
	switch attrs & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_RELATIME:
		flags = unix.MS_RELATIME
	case unix.MOUNT_ATTR_NOATIME:
		flags = unix.MS_NOATIME
	case unix.MOUNT_ATTR_STRICTATIME:
		flags = unix.MS_STRICTATIME
	default:
		return 0, unix.EINVAL
	}
	attrs &^= unix.MOUNT_ATTR__ATIME
	for _, f := range [...]struct {
		attr  uint64
		flags uintptr
	}{
		{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY},
		{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID},
		{unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
		{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW},
	} {
		if attrs&f.attr != 0 {
			flags |= f.flags
			attrs &^= f.attr
		}
	}
	if attrs != 0 {
		return 0, unix.EINVAL
	}
	return flags, nil
}

// fsLog reads what the kernel wrote about a mount attempt: one message a read,
// ENODATA at the end (fsopen(2)).
func fsLog(ctx int) string {
	var lines []string
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(ctx, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		// "e fuse: text": the level, the subsystem, the text.
		line := strings.TrimSpace(string(buf[:n]))
		if len(line) > 2 && line[1] == ' ' {
			line = line[2:]
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}
