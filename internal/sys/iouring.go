package sys

import (
	"errors"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ring is an io_uring(7) for commands to a device (IORING_OP_URING_CMD with
// entries of 128 bytes, Linux 5.19). It belongs to the thread that made it: all
// methods are called there.
type Ring struct {
	fd      int
	shared  []byte // the rings of indexes and of completions
	entries []byte // of the submission queue

	sqTail, cqHead, cqTail *uint32
	sqArray, cqEntries     []byte
	sqMask, cqMask         uint32
	pending                uint32 // put in the queue, and not submitted
}

// Of include/uapi/linux/io_uring.h.
const (
	ringSubmitAll   = 1 << 7  // IORING_SETUP_SUBMIT_ALL
	ringEntries128  = 1 << 10 // IORING_SETUP_SQE128
	ringOneIssuer   = 1 << 12 // IORING_SETUP_SINGLE_ISSUER
	ringDeferWork   = 1 << 13 // IORING_SETUP_DEFER_TASKRUN
	ringGetEvents   = 1 << 0  // IORING_ENTER_GETEVENTS
	ringMapSingle   = 1 << 0  // IORING_FEAT_SINGLE_MMAP
	ringMapEntries  = 0x10000000
	ringOpCommand   = 46 // IORING_OP_URING_CMD
	ringEntrySize   = 128
	ringCompletion  = 16
	ringParamsBytes = 120
)

// struct io_uring_params
type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wqFD uint32
	_                                                      [3]uint32
	sq                                                     struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

var _ = [1]struct{}{}[unsafe.Sizeof(ringParams{})-ringParamsBytes]

// NewRing makes a ring for a few commands at a time (Linux 6.1). The calling
// goroutine has to be locked to its thread.
func NewRing(entries uint32) (*Ring, error) {
	p := ringParams{flags: ringSubmitAll | ringEntries128 | ringOneIssuer | ringDeferWork}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, &Error{Op: "io_uring_setup", Err: errno}
	}
	r := &Ring{fd: int(fd)}
	if p.features&ringMapSingle == 0 {
		r.Close()
		return nil, &Error{Op: "io_uring_setup", Err: unix.ENOSYS}
	}
	unix.CloseOnExec(r.fd)
	var err error
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*ringCompletion))
	if r.shared, err = unix.Mmap(r.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		r.entries, err = unix.Mmap(r.fd, ringMapEntries, int(p.sqEntries)*ringEntrySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		r.Close()
		return nil, &Error{Op: "mmap", Path: "io_uring", Err: err}
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.shared[off])) }
	r.sqTail, r.sqMask = word(p.sq.tail), *word(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.mask)
	r.sqArray = r.shared[p.sq.array:]
	r.cqEntries = r.shared[p.cq.cqes:]
	return r, nil
}

// Command puts a command for the device fd in the queue: its number, memory that
// it works on, which stays where it is until the completion, and what else it
// takes. Wait submits it. No more commands than the ring has entries may be
// under way.
func (r *Ring) Command(fd int, number uint32, iov []unix.Iovec, args [32]byte) {
	tail := *r.sqTail
	index := tail & r.sqMask
	entry := r.entries[index*ringEntrySize:][:ringEntrySize]
	clear(entry)
	entry[0] = ringOpCommand
	*(*int32)(unsafe.Pointer(&entry[4])) = int32(fd)
	*(*uint32)(unsafe.Pointer(&entry[8])) = number
	if len(iov) > 0 {
		*(*uint64)(unsafe.Pointer(&entry[16])) = uint64(uintptr(unsafe.Pointer(&iov[0])))
		*(*uint32)(unsafe.Pointer(&entry[24])) = uint32(len(iov))
	}
	copy(entry[48:], args[:])
	*(*uint32)(unsafe.Pointer(&r.sqArray[index*4])) = index
	atomic.StoreUint32(r.sqTail, tail+1)
	r.pending++
}

// Submit submits what is in the queue and, if asked to, waits for a completion.
// It may return without one, after a signal. After an error for which IsShort holds,
// the queue is as it was: the next call submits it.
func (r *Ring) Submit(wait bool) error {
	least := uintptr(0)
	if wait {
		least = 1
	}
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.pending), least, ringGetEvents, 0, 0)
	switch errno {
	case 0:
		r.pending -= uint32(n)
		return nil
	case unix.EINTR:
		return nil
	}
	return &Error{Op: "io_uring_enter", Err: errno}
}

// IsShort reports whether an error of Submit says that the kernel has no memory just now.
func IsShort(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY)
}

// Completed returns the result of a command that is completed: 0 or an errno.
func (r *Ring) Completed() (errno unix.Errno, ok bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return 0, false
	}
	errno = r.result(head)
	atomic.StoreUint32(r.cqHead, head+1)
	return errno, true
}

// Refused returns the errno of the last command if it failed at once, and leaves
// what Completed returns otherwise.
func (r *Ring) Refused() (unix.Errno, bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return 0, false
	}
	errno := r.result(head)
	return errno, errno != 0
}

func (r *Ring) result(head uint32) unix.Errno {
	c := r.cqEntries[(head&r.cqMask)*ringCompletion:]
	return unix.Errno(max(0, -*(*int32)(unsafe.Pointer(&c[8]))))
}

// Close gives the ring up. Commands that are under way are cancelled.
func (r *Ring) Close() {
	for _, mem := range [][]byte{r.entries, r.shared} {
		if mem != nil {
			_ = unix.Munmap(mem)
		}
	}
	unix.Close(r.fd)
}

// PossibleCPUs returns one more than the highest number that a processor of this
// machine may ever have.
func PossibleCPUs() (int, error) {
	const path = "/sys/devices/system/cpu/possible"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// A list of ranges in ascending order: 0-3,8-11
	n, number := 0, false
	for _, c := range text {
		switch {
		case c >= '0' && c <= '9':
			if !number {
				n = 0
			}
			n, number = n*10+int(c-'0'), true
		default:
			number = false
		}
	}
	if len(text) == 0 || n >= 1<<16 {
		return 0, &Error{Op: "read", Path: path, Err: unix.EINVAL}
	}
	return n + 1, nil
}
