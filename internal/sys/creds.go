package sys

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Creds are the ids and capabilities that one thread of the process uses for
// file system calls. The Go library's Setreuid and its like change the whole
// process; these change the calling thread only.
type Creds struct {
	FsUID, FsGID uint32
	Groups       []uint32 // supplementary groups; nil leaves those of the thread
	Caps         CapSet   // effective capabilities while the ids are in force
}

// CapSet is a set of capabilities, bit N for capability N of capabilities(7).
type CapSet uint64

// Has reports whether the set contains capability n (unix.CAP_*).
func (s CapSet) Has(n int) bool { return s&(1<<n) != 0 }

// Without returns the set without the capabilities given.
func (s CapSet) Without(caps ...int) CapSet {
	for _, n := range caps {
		s &^= 1 << n
	}
	return s
}

// ThreadCaps returns the capabilities of the calling thread.
func ThreadCaps() (effective, permitted CapSet, err error) {
	var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, 0, &Error{Op: "capget", Err: err}
	}
	return CapSet(data[0].Effective) | CapSet(data[1].Effective)<<32,
		CapSet(data[0].Permitted) | CapSet(data[1].Permitted)<<32, nil
}

// capData is the argument of capset(2). The inheritable set is empty: nothing
// that the server starts should inherit a capability.
func capData(effective, permitted CapSet) (unix.CapUserHeader, [2]unix.CapUserData) {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32)},
	}
}

func capset(effective, permitted CapSet) unix.Errno {
	hdr, data := capData(effective, permitted)
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0)
	return errno
}

// Run calls fn on a thread whose file system ids and effective capabilities
// are those of c. base is what the thread has, and has again afterwards; what
// does not differ is left alone.
//
// setfsuid(2) refuses silently, so the ids are read back here, and it drops the
// file system capabilities when it leaves 0, unless KeepProcessCaps has seen to
// that, so they are raised again. If a thread can't be restored the process
// ends: it must never answer anyone with wrong rights.
func (c Creds) Run(base Creds, permitted CapSet, fn func() unix.Errno) unix.Errno {
	if c.FsUID == base.FsUID && c.FsGID == base.FsGID && c.Groups == nil {
		if c.Caps == base.Caps {
			return fn()
		}
		return RunWithCaps(c.Caps, base.Caps, permitted, fn)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if errno := c.apply(base, permitted); errno != 0 {
		base.restore(permitted)
		return errno
	}
	defer func() {
		if base.apply(c, permitted) != 0 {
			base.restore(permitted)
		}
	}()
	return fn()
}

// setgroups is setgroups(2) for the calling thread alone.
func setgroups(groups []uint32) unix.Errno {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0)
	return errno
}

// RunWithCaps calls fn with other effective capabilities and the ids that the
// thread has, and gives it base back afterwards, also if fn panics.
func RunWithCaps(caps, base, permitted CapSet, fn func() unix.Errno) unix.Errno {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if errno := capset(caps, permitted); errno != 0 {
		return errno
	}
	defer func() {
		if back := capset(base, permitted); back != 0 {
			go panic(fmt.Sprintf("sys: restore the capabilities of a thread: %v", back))
			select {}
		}
	}()
	return fn()
}

// restore gives a thread these rights whatever it has.
func (c Creds) restore(permitted CapSet) {
	from := Creds{FsUID: ^c.FsUID, FsGID: ^c.FsGID, Caps: ^c.Caps}
	if errno := c.apply(from, permitted); errno != 0 {
		// On a goroutine of its own, where no caller can recover from it.
		go panic(fmt.Sprintf("sys: restore fsuid %d, fsgid %d of a thread: %v", c.FsUID, c.FsGID, errno))
		select {}
	}
}

// apply changes what is not as in from, the groups first: after the user, the
// right to do so may be gone.
func (c Creds) apply(from Creds, permitted CapSet) unix.Errno {
	if c.Groups != nil {
		if errno := setgroups(c.Groups); errno != 0 {
			return errno
		}
	}
	if c.FsGID != from.FsGID {
		unix.RawSyscall(unix.SYS_SETFSGID, uintptr(c.FsGID), 0, 0)
		// An invalid id changes nothing and returns the current one.
		if gid, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, ^uintptr(0), 0, 0); uint32(gid) != c.FsGID {
			return unix.EPERM
		}
	}
	caps := c.Caps != from.Caps
	if c.FsUID != from.FsUID {
		unix.RawSyscall(unix.SYS_SETFSUID, uintptr(c.FsUID), 0, 0)
		if uid, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0); uint32(uid) != c.FsUID {
			return unix.EPERM
		}
		caps = caps || !capsStay.Load()
	}
	if !caps {
		return 0
	}
	return capset(c.Caps, permitted)
}

// capsStay is set when no change of ids changes the capabilities of a thread.
var capsStay atomic.Bool

// KeepProcessCaps takes all capabilities but those of keep from every thread
// of the process, now and later, and from the bounding set. Those of raise among
// them stay permitted but are not effective: a thread raises them for what needs
// them. From then on a change of ids leaves the capabilities as they are. Nothing
// stays inheritable or ambient.
func KeepProcessCaps(keep, raise CapSet) error {
	effective, permitted, err := ThreadCaps()
	if err != nil {
		return err
	}
	keepCapsOfIDs()
	for _, c := range inBoundingSet(^(keep & permitted)) {
		// Without CAP_SETPCAP the set stays as it is.
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); errno != 0 {
			break
		}
	}
	hdr, data := capData(effective&keep&^raise, permitted&keep)
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return &Error{Op: "capset", Detail: "all threads", Err: errno}
	}
	return nil
}

// noSetuidFixup is SECBIT_NO_SETUID_FIXUP. It ends the rule that file system
// capabilities go when the file system uid becomes another than 0, and come when it
// becomes 0.
const noSetuidFixup = 1 << 2

// keepCapsOfIDs ends that rule for all threads. Then Run has nothing to put right.
// Without CAP_SETPCAP it stays as it is.
func keepCapsOfIDs() {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return
	}
	if bits&noSetuidFixup != 0 { // inherited by all threads, see RestrictThread
		capsStay.Store(true)
		return
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, uintptr(bits)|noSetuidFixup, 0)
	capsStay.Store(errno == 0)
}

// RestrictThread removes every capability but those of keep from the bounding set of
// the calling thread, and has a change of ids leave its capabilities as they are. A
// process that is forked from the thread starts like that, which is much cheaper than
// to change all its threads. Without CAP_SETPCAP that is EPERM.
func RestrictThread(keep CapSet) error {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits)|noSetuidFixup, 0, 0, 0)
	}
	if err != nil {
		return &Error{Op: "prctl", Detail: "secure bits", Err: err}
	}
	for _, c := range inBoundingSet(^keep) {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return &Error{Op: "prctl", Detail: "bounding set", Err: err}
		}
	}
	return nil
}

// inBoundingSet returns which capabilities of want are in the thread's bounding set.
func inBoundingSet(want CapSet) []int {
	var found []int
	for c := range 64 {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			break // the kernel knows no more of them
		}
		if has == 1 && want.Has(c) {
			found = append(found, c)
		}
	}
	return found
}

// WithThreadCap calls fn with a capability that the calling thread is permitted, on a
// thread that ends soon, see OnOwnThread.
func WithThreadCap(n int, fn func() error) error {
	effective, permitted, err := ThreadCaps()
	if err != nil {
		return err
	}
	if effective.Has(n) {
		return fn()
	}
	if errno := capset(effective|1<<n, permitted); errno != 0 {
		return &Error{Op: "capset", Detail: "raise one", Err: errno}
	}
	if err := fn(); err != nil {
		return err
	}
	if errno := capset(effective, permitted); errno != 0 {
		return &Error{Op: "capset", Detail: "lower one", Err: errno}
	}
	return nil
}
