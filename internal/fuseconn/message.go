package fuseconn

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/fuse.h, what is looked at here.
const (
	inHeaderSize  = 40 // struct fuse_in_header
	outHeaderSize = 16 // struct fuse_out_header
	minReadBuffer = 8192

	opForget      = 2
	opRead        = 15
	opRelease     = 18
	opFsync       = 20
	opReleaseDir  = 29
	opFsyncDir    = 30
	opSetlkw      = 33
	opInterrupt   = 36
	opIoctl       = 39
	opNotifyReply = 41
	opBatchForget = 42
	opFallocate   = 43
	opCopyRange   = 47
	opSyncfs      = 50
)

func lengthOf(in []byte) int    { return int(binary.NativeEndian.Uint32(in)) }
func opcodeOf(in []byte) uint32 { return binary.NativeEndian.Uint32(in[4:]) }
func uniqueOf(in []byte) uint64 { return binary.NativeEndian.Uint64(in[8:]) }
func nodeOf(in []byte) uint64   { return binary.NativeEndian.Uint64(in[16:]) }

// interrupts returns the request that an INTERRUPT is about.
func interrupts(in []byte) uint64 { return binary.NativeEndian.Uint64(in[inHeaderSize:]) }

// errnoOf returns the errno of an answer, 0 if it is none.
func errnoOf(out []byte) unix.Errno { return unix.Errno(-int32(binary.NativeEndian.Uint32(out[4:]))) }

// expectsAnswer reports whether the kernel waits for one.
func expectsAnswer(opcode uint32) bool {
	switch opcode {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		return false
	}
	return true
}

// callerWaits reports whether a program waits for the answer, or for the kernel
// to send the message.
func callerWaits(opcode uint32) bool {
	return expectsAnswer(opcode) && opcode != opRelease && opcode != opReleaseDir
}

// mayTakeLong reports whether a request does so on a disk as well: it writes to
// it, or moves any amount of data.
func mayTakeLong(opcode uint32) bool {
	switch opcode {
	case opFsync, opFsyncDir, opFallocate, opCopyRange, opSyncfs:
		return true
	}
	return false
}

// bulky reports whether a message or its answer has more than so many bytes of
// data.
func bulky(in []byte, size uint32) bool {
	if uint32(len(in)) > size {
		return true
	}
	// struct fuse_read_in: fh, offset, size.
	return opcodeOf(in) == opRead && len(in) >= inHeaderSize+20 && binary.NativeEndian.Uint32(in[inHeaderSize+16:]) > size
}

// putError writes an answer that is an errno.
func putError(out []byte, unique uint64, errno unix.Errno) int {
	binary.NativeEndian.PutUint32(out[0:], outHeaderSize)
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(out[8:], unique)
	return outHeaderSize
}

// Init is what the kernel said of itself in INIT.
type Init struct {
	Flags        uint64 // FUSE_* of the INIT flags
	Major, Minor uint32 // of the protocol
}

const initExt = 1 << 30 // FUSE_INIT_EXT: there are flags2, protocol 7.36

// ParseInit reads an INIT request, whose body is struct fuse_init_in: major,
// minor, max_readahead, flags, flags2; false if there is less than was ever sent.
func ParseInit(in []byte) (Init, bool) {
	if len(in) < inHeaderSize+16 {
		return Init{}, false
	}
	body := in[inHeaderSize:]
	i := Init{
		Major: binary.NativeEndian.Uint32(body[0:]),
		Minor: binary.NativeEndian.Uint32(body[4:]),
		Flags: uint64(binary.NativeEndian.Uint32(body[12:])),
	}
	if i.Flags&initExt != 0 && len(body) >= 20 {
		i.Flags |= uint64(binary.NativeEndian.Uint32(body[16:])) << 32
	}
	return i, true
}

// initOutSize has room for struct fuse_init_out.
const initOutSize = outHeaderSize + 64

// payloadOf returns the most that a message carries beside its structures,
// from the answer to INIT: max_write, or max_pages.
func payloadOf(out []byte, pageSize int) int {
	body := out[outHeaderSize:]
	most := max(minReadBuffer, int(binary.NativeEndian.Uint32(body[20:])))
	if len(body) >= 30 {
		most = max(most, int(binary.NativeEndian.Uint16(body[28:]))*pageSize)
	}
	return most
}
