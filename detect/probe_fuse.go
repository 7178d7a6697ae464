package detect

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// probeFuseSource says whether a FUSE mount can show the source. FIFOs and sockets of a
// FUSE mount are others than the source's.
func (r *Report) probeFuseSource(src *os.File) {
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		r.FuseSource = unknown(&sys.Error{Op: "stat", Path: r.Path, Err: err}, "the source could not be asked")
		return
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		r.FuseSource = yes("the source is a directory")
	case unix.S_IFREG:
		r.FuseSource = yes("the source is a regular file")
	case unix.S_IFCHR, unix.S_IFBLK:
		r.FuseSource = yes("the source is a device node")
	default:
		r.FuseSource = no(nil, "the source is a FIFO or a socket, and that of a FUSE mount is another one")
	}
}

// probeFuse answers everything about FUSE by mounting one, detached, and
// answering its INIT. Closing the device aborts it.
func (r *Report) probeFuse(ctx context.Context, src, ns *os.File) {
	notTried := unknown(nil, "not tried without FUSE")
	r.Fuse, r.Relay, r.Passthrough = notTried, notTried, notTried

	r.FuseDevice = probeFuseDevice()
	if r.FuseDevice.Verdict != Yes {
		return
	}
	dev, tree, p, err := probeMount(ctx, flagPosixACL|flagAllowIdmap|flagPassthrough, 1)
	switch {
	case dev != nil && err != nil:
		dev.Close()
		r.Fuse = unknown(err, "a FUSE mount was made, but the kernel did not talk to it")
		return
	case isAny(err, unix.ENOSYS):
		r.probeFuseClassic(ctx, err)
		return
	case err != nil:
		r.Fuse = mountFailure(err)
		return
	}
	defer dev.Close()
	defer tree.Close()
	r.Protocol = p
	r.Fuse = yes("a FUSE mount works")
	r.Relay = probeRelay(p, tree, ns)
	r.probePassthrough(ctx, p, dev, src)
}

// probeMount makes a detached FUSE mount and answers its INIT. With an error, dev says
// whether there was a mount to talk to.
func probeMount(ctx context.Context, want uint64, depth uint32) (dev, tree *os.File, p *Protocol, err error) {
	o := fuseProbeMount
	o.ServeEarly = runsSELinux()
	made := make(chan struct{})
	var refusing sync.WaitGroup
	tree, err = sys.FuseMountServed(o, func(d *os.File) error {
		fd, err := unix.FcntlInt(d.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return &sys.Error{Op: "fcntl", Path: d.Name(), Err: err}
		}
		dev = os.NewFile(uintptr(fd), d.Name())
		if p, err = handshake(ctx, dev, want, depth); err == nil && o.ServeEarly {
			refusing.Go(func() { sys.FuseRefuse(dev, made) })
		}
		return err
	})
	close(made)
	refusing.Wait()
	return dev, tree, p, err
}

// runsSELinux is a variable for tests.
var runsSELinux = sys.RunsSELinux

var fuseProbeMount = sys.FuseMountOptions{
	Source: "idmount-probe", Subtype: "idmount", AllowOther: true,
	// The kernel grants ALLOW_IDMAP only with it.
	DefaultPermissions: true,
}

func probeFuseDevice() Finding {
	const path = sys.FuseDevice
	dev, err := sys.OpenFuseDevice(path)
	if err == nil {
		dev.Close()
		return yes("%s opens", path)
	}
	switch {
	case errors.Is(err, sys.ErrNotFuseDevice):
		return no(err, "%s is something else: remove it, and mknod -m 666 %s c 10 229, or give the device to this container", path, path)
	case isAny(err, unix.ENOENT):
		return no(err, "there is no %s: load the module (modprobe fuse), or give the device to this container", path)
	case isAny(err, unix.ENODEV, unix.ENXIO):
		return no(err, "the kernel has no FUSE behind %s: load the module (modprobe fuse)", path)
	case isAny(err, unix.EPERM, unix.EACCES):
		return unknown(err, "%s may not be opened: its mode, or the device rules of this container", path)
	}
	return unknown(err, "%s does not open", path)
}

func mountFailure(err error) Finding {
	if isAny(err, unix.ENODEV) {
		return no(err, "the kernel has no FUSE")
	}
	return unknown(err, "a FUSE mount could not be made")
}

// probeFuseClassic mounts by mount(2), before Linux 5.2. That has to be at
// some directory: at the root of a mount namespace of its own, on a thread
// that ends with it.
func (r *Report) probeFuseClassic(ctx context.Context, reason error) {
	sys.OnOwnThread(func() {
		if err := sys.PrivateMounts(); err != nil {
			r.Fuse = unknown(err, "a FUSE mount could not be tried")
			return
		}
		dev, err := sys.FuseMountAt(fuseProbeMount, "/")
		if err != nil {
			r.Fuse = mountFailure(err)
			return
		}
		defer dev.Close()
		p, err := handshake(ctx, dev, flagPosixACL, 0)
		if err != nil {
			r.Fuse = unknown(err, "a FUSE mount was made, but the kernel did not talk to it")
			return
		}
		r.Protocol = p
		r.Fuse = yes("a FUSE mount works, by mount(2)")
	})
	r.Relay = no(reason, "the kernel has no detached mounts to idmap")
	r.Passthrough = no(nil, "the kernel's FUSE has no passthrough")
}

// probeRelay idmaps the detached FUSE mount.
func probeRelay(p *Protocol, tree, ns *os.File) Finding {
	if !p.has(flagAllowIdmap) {
		return no(nil, "the kernel's FUSE cannot be idmapped (no ALLOW_IDMAP)")
	}
	if ns == nil {
		return unknown(nil, "not tried without a user namespace")
	}
	err := sys.MountSetattr(tree, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	switch {
	case err == nil:
		return yes("the kernel idmaps our FUSE mount")
	case isAny(err, unix.EINVAL, unix.ENOSYS):
		return no(err, "the kernel does not idmap our FUSE mount")
	}
	return unknown(err, "idmapping our FUSE mount failed")
}

// openAsCaller are the file systems to which the kernel registers passthrough,
// and then every open fails: they look at the ids of the current process and not
// at those that the backing file was registered with.
var openAsCaller = []string{"9p", "cifs", "smb3", "afs", "coda"}

// probePassthrough offers a file of the source as a backing file, with stack
// depth 1 on dev, and if the source is itself stacked with 2 on another mount.
func (r *Report) probePassthrough(ctx context.Context, p *Protocol, dev, src *os.File) {
	if !p.has(flagPassthrough) {
		r.Passthrough = no(nil, "the kernel's FUSE has no passthrough")
		return
	}
	if slices.Contains(openAsCaller, r.FSType) {
		r.Passthrough = no(nil, "%s opens a file as the process that asks, by an id that is not the source's", r.FSType)
		return
	}
	file := anyFile(src)
	if file == nil {
		r.Passthrough = unknown(nil, "the kernel has passthrough; no regular file was found in the source to try it with")
		return
	}
	defer file.Close()

	depth := 1
	err := backingOpen(dev, file)
	if isAny(err, unix.ELOOP) {
		deeper, tree, _, errMount := probeMount(ctx, flagPosixACL|flagPassthrough, 2)
		if deeper != nil {
			defer deeper.Close()
		}
		if errMount == nil {
			defer tree.Close()
			depth = 2
			err = backingOpen(deeper, file)
		}
		if errMount != nil {
			r.Passthrough = unknown(errMount, "passthrough with stack depth 2 could not be tried")
			return
		}
	}
	switch {
	case err == nil:
		r.StackDepth = depth
		r.Passthrough = yes("works on %s with stack depth %d: %s", r.FSType, depth, [...]string{1: "one overlay can be stacked on the mount then", 2: "no overlay can be stacked on the mount then"}[depth])
	case isAny(err, unix.ELOOP, unix.EOPNOTSUPP, unix.EINVAL):
		r.Passthrough = no(err, "the kernel has no passthrough to %s", r.FSType)
	default:
		r.Passthrough = unknown(err, "passthrough to %s could not be tried", r.FSType)
	}
}

// anyFile opens (O_PATH) a regular file on the source's own mount: src itself, or one of
// the first entries in it or in a directory there. nil if there is none.
func anyFile(src *os.File) *os.File {
	var top unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &top); err != nil {
		return nil
	}
	if top.Mode&unix.S_IFMT == unix.S_IFREG {
		fd, err := unix.FcntlInt(src.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil
		}
		return os.NewFile(uintptr(fd), src.Name())
	}
	return fileIn(int(src.Fd()), ".", top.Dev, 1)
}

// fileIn is anyFile in a directory of a device, and in some of its subdirectories.
func fileIn(dirfd int, name string, dev uint64, depth int) *os.File {
	const entries, directories = 256, 16
	open := func(dirfd int, name string, flags int) *os.File {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil
		}
		return os.NewFile(uintptr(fd), name)
	}
	dir := open(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if dir == nil {
		return nil
	}
	defer dir.Close()
	var st unix.Stat_t
	// A directory can be a mount point, of something else.
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil || st.Dev != dev {
		return nil
	}
	var below []string
	found, _ := dir.ReadDir(entries)
	for _, e := range found {
		if e.IsDir() && len(below) < directories {
			below = append(below, e.Name())
		}
		if !e.Type().IsRegular() {
			continue
		}
		f := open(int(dir.Fd()), e.Name(), unix.O_PATH)
		if f == nil {
			continue
		}
		// And so can a file.
		if err := unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Dev == dev {
			return f
		}
		f.Close()
	}
	if depth == 0 {
		return nil
	}
	for _, name := range below {
		if f := fileIn(int(dir.Fd()), name, dev, depth-1); f != nil {
			return f
		}
	}
	return nil
}

// backingOpen registers file with the connection and takes it back.
func backingOpen(dev, file *os.File) error {
	id, errno := sys.FuseBackingOpen(int(dev.Fd()), int(file.Fd()))
	if errno != 0 {
		return &sys.Error{Op: "ioctl BACKING_OPEN", Path: file.Name(), Err: errno}
	}
	sys.FuseBackingClose(int(dev.Fd()), id)
	return nil
}

// probeIOUring reads the switches. The kernel offers OVER_IO_URING in INIT only
// when its own is on.
func (r *Report) probeIOUring() {
	const fuseSwitch, sysctl = "/sys/module/fuse/parameters/enable_uring", "/proc/sys/kernel/io_uring_disabled"
	read := func(path string) (string, error) {
		data, err := os.ReadFile(path)
		return strings.TrimSpace(string(data)), err
	}
	value, err := read(fuseSwitch)
	disabled, errSysctl := read(sysctl)
	switch {
	case os.IsNotExist(err):
		r.IOUring = no(nil, "the kernel's FUSE has no io_uring")
	case err != nil:
		r.IOUring = unknown(err, "whether FUSE over io_uring is on cannot be read")
	case value != "Y":
		r.IOUring = no(nil, "switched off; on with: echo Y > %s", fuseSwitch)
	case errSysctl == nil && disabled == "2":
		r.IOUring = no(nil, "io_uring is disabled for all: %s is 2", sysctl)
	case r.Protocol == nil:
		r.IOUring = unknown(nil, "switched on, but not tried without FUSE")
	case !r.Protocol.has(flagOverIOUring):
		r.IOUring = no(nil, "switched on, but the kernel does not offer it")
	default:
		r.IOUring = yes("switched on and offered by the kernel")
	}
}
