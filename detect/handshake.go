package detect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/fuseconn"
)

// Protocol is what the kernel offers in its INIT request.
type Protocol struct {
	Major uint32   `json:"major"`
	Minor uint32   `json:"minor"`
	Flags []string `json:"flags"` // names of include/uapi/linux/fuse.h without FUSE_, in bit order

	bits uint64
}

// The flags that a probe asks about; the rest are known by name only.
const (
	flagPosixACL    = 1 << 20
	flagInitExt     = 1 << 30
	flagPassthrough = 1 << 37
	flagAllowIdmap  = 1 << 40
	flagOverIOUring = 1 << 41
)

var flagNames = [...]string{
	"ASYNC_READ", "POSIX_LOCKS", "FILE_OPS", "ATOMIC_O_TRUNC", "EXPORT_SUPPORT", "BIG_WRITES", "DONT_MASK", "SPLICE_WRITE",
	"SPLICE_MOVE", "SPLICE_READ", "FLOCK_LOCKS", "HAS_IOCTL_DIR", "AUTO_INVAL_DATA", "DO_READDIRPLUS", "READDIRPLUS_AUTO", "ASYNC_DIO",
	"WRITEBACK_CACHE", "NO_OPEN_SUPPORT", "PARALLEL_DIROPS", "HANDLE_KILLPRIV", "POSIX_ACL", "ABORT_ERROR", "MAX_PAGES", "CACHE_SYMLINKS",
	"NO_OPENDIR_SUPPORT", "EXPLICIT_INVAL_DATA", "MAP_ALIGNMENT", "SUBMOUNTS", "HANDLE_KILLPRIV_V2", "SETXATTR_EXT", "INIT_EXT", "INIT_RESERVED",
	"SECURITY_CTX", "HAS_INODE_DAX", "CREATE_SUPP_GROUP", "HAS_EXPIRE_ONLY", "DIRECT_IO_ALLOW_MMAP", "PASSTHROUGH", "NO_EXPORT_SUPPORT", "HAS_RESEND",
	"ALLOW_IDMAP", "OVER_IO_URING", "REQUEST_TIMEOUT",
}

// Has says whether the kernel offers the flags.
func (p *Protocol) has(flags uint64) bool { return p.bits&flags == flags }

func newProtocol(major, minor uint32, bits uint64) *Protocol {
	p := &Protocol{Major: major, Minor: minor, bits: bits}
	for i := range 64 {
		if bits&(1<<i) == 0 {
			continue
		}
		name := fmt.Sprintf("bit%d", i)
		if i < len(flagNames) {
			name = flagNames[i]
		}
		p.Flags = append(p.Flags, name)
	}
	return p
}

// Sizes and numbers of include/uapi/linux/fuse.h. The kernel that sends the
// request is the one we run on, so the byte order is ours.
const (
	opInit         = 26
	inHeaderSize   = 40
	outHeaderSize  = 16
	initOutSize    = 64
	handshakeLimit = 2 * time.Second
)

var errHandshake = errors.New("no INIT request from the kernel")

// handshake reads the kernel's INIT request from dev and grants those of the
// wanted flags that it offers. depth is the stack depth for passthrough.
func handshake(ctx context.Context, dev *os.File, want uint64, depth uint32) (*Protocol, error) {
	if err := waitReadable(ctx, dev); err != nil {
		return nil, err
	}
	// The kernel demands room for the largest write, at least 8 KiB, whatever
	// the request at hand (FUSE_MIN_READ_BUFFER).
	buf := make([]byte, 64<<10)
	n, err := unix.Read(int(dev.Fd()), buf)
	if err != nil {
		return nil, fmt.Errorf("read INIT: %w", err)
	}
	order := binary.NativeEndian
	init, ok := fuseconn.ParseInit(buf[:n])
	if !ok || order.Uint32(buf[4:]) != opInit {
		return nil, fmt.Errorf("%w: %d bytes, opcode %d", errHandshake, n, order.Uint32(buf[4:]))
	}
	unique := order.Uint64(buf[8:])
	in := buf[inHeaderSize:n]
	p := newProtocol(init.Major, init.Minor, init.Flags)

	grant := (want | flagInitExt) & init.Flags
	out := make([]byte, outHeaderSize+initOutSize)
	order.PutUint32(out[0:], uint32(len(out)))
	order.PutUint64(out[8:], unique)
	body := out[outHeaderSize:]
	order.PutUint32(body[0:], 7)
	order.PutUint32(body[4:], min(p.Minor, 40)) // 40 has max_stack_depth
	order.PutUint32(body[8:], order.Uint32(in[8:]))
	order.PutUint32(body[12:], uint32(grant))
	order.PutUint16(body[16:], 12)     // max_background
	order.PutUint16(body[18:], 9)      // congestion_threshold
	order.PutUint32(body[20:], 64<<10) // max_write
	order.PutUint32(body[24:], 1)      // time_gran, ns
	order.PutUint32(body[32:], uint32(grant>>32))
	if grant&flagPassthrough != 0 {
		order.PutUint32(body[36:], depth) // max_stack_depth
	}
	if _, err := unix.Write(int(dev.Fd()), out); err != nil {
		return nil, fmt.Errorf("answer INIT: %w", err)
	}
	return p, nil
}

func waitReadable(ctx context.Context, dev *os.File) error {
	end := time.Now().Add(handshakeLimit)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("%w within %v", errHandshake, handshakeLimit)
		}
		// Short slices, so that the context is heard.
		slice := min(left, 50*time.Millisecond)
		fds := []unix.PollFd{{Fd: int32(dev.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(slice.Milliseconds())+1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll /dev/fuse: %w", err)
		case n > 0 && fds[0].Revents&unix.POLLIN != 0:
			return nil
		case n > 0:
			return fmt.Errorf("%w: the connection ended", errHandshake)
		}
	}
}
