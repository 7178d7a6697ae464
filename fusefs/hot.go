package fusefs

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The opcodes of include/uapi/linux/fuse.h that hot answers.
const (
	wireLookup      = 1
	wireForget      = 2
	wireGetattr     = 3
	wireSetattr     = 4
	wireUnlink      = 10
	wireOpen        = 14
	wireRead        = 15
	wireWrite       = 16
	wireRelease     = 18
	wireGetxattr    = 22
	wireFlush       = 25
	wireCreate      = 35
	wireBatchForget = 42
	wireStatx       = 52
)

// hot has fs answer a message if it is one of those that come most, and returns the
// length of the answer. Structures are read and written where the message and the
// answer lie: go-fuse makes a kilobyte of garbage of each message, which costs more
// than most take.
//
// It returns false, and has done nothing, for all others: those in pieces, as they
// come from a ring, those with extensions, and those that it does not understand.
// What it calls is given no channel, as nobody hears of interruptions here: Open
// returns EAGAIN instead of waiting, and is then called in the other way.
func hot(fs fuse.RawFileSystem, in, out [][]byte) (n int, ok bool) {
	if len(in) != 1 || len(out) != 1 {
		return 0, false
	}
	m, reply := in[0], out[0]
	h := structure[fuse.InHeader](m)
	if h == nil || h.TotalExtlen != 0 || len(reply) < maxAnswer {
		return 0, false
	}
	var (
		name   string
		status fuse.Status
		size   int // of the answer behind its header
	)
	switch h.Opcode {
	case wireLookup:
		if name, ok = nameBehind(h, m); ok {
			var e *fuse.EntryOut
			e, size = room[fuse.EntryOut](reply)
			status = fs.Lookup(nil, h, name, e)
		}
	case wireGetattr:
		if in := structure[fuse.GetAttrIn](m); in != nil {
			var a *fuse.AttrOut
			a, size = room[fuse.AttrOut](reply)
			status, ok = fs.GetAttr(nil, in, a), true
		}
	case wireSetattr:
		if in := structure[fuse.SetAttrIn](m); in != nil {
			var a *fuse.AttrOut
			a, size = room[fuse.AttrOut](reply)
			status, ok = fs.SetAttr(nil, in, a), true
		}
	case wireStatx:
		if in := structure[fuse.StatxIn](m); in != nil {
			var x *fuse.StatxOut
			x, size = room[fuse.StatxOut](reply)
			status, ok = fs.Statx(nil, in, x), true
		}
	case wireUnlink:
		if name, ok = nameBehind(h, m); ok {
			status = fs.Unlink(nil, h, name)
		}
	case wireOpen:
		if in := structure[fuse.OpenIn](m); in != nil {
			var o *fuse.OpenOut
			o, size = room[fuse.OpenOut](reply)
			status = fs.Open(nil, in, o)
			ok = status != fuse.EAGAIN
		}
	case wireCreate:
		in := structure[fuse.CreateIn](m)
		if name, ok = nameBehind(in, m); ok {
			var c *fuse.CreateOut
			c, size = room[fuse.CreateOut](reply)
			status = fs.Create(nil, in, name, c)
		}
	case wireFlush:
		if in := structure[fuse.FlushIn](m); in != nil {
			status, ok = fs.Flush(nil, in), true
		}
	case wireRelease:
		if in := structure[fuse.ReleaseIn](m); in != nil {
			fs.Release(nil, in)
			ok = true
		}
	case wireForget:
		if in := structure[fuse.ForgetIn](m); in != nil {
			fs.Forget(h.NodeId, in.Nlookup)
			return 0, true
		}
	case wireBatchForget:
		return 0, forgetAll(fs, m)
	case wireRead:
		if in := structure[fuse.ReadIn](m); in != nil && int(in.Size) <= len(reply)-answerHeader {
			size, status = read(fs, in, reply[answerHeader:][:in.Size])
			ok = true
		}
	case wireWrite:
		if in := structure[fuse.WriteIn](m); in != nil {
			var w *fuse.WriteOut
			w, size = room[fuse.WriteOut](reply)
			w.Size, status = fs.Write(nil, in, m[unsafe.Sizeof(*in):])
			ok = true
		}
	case wireGetxattr:
		in := structure[fuse.GetXAttrIn](m)
		if name, ok = nameBehind(in, m); ok && int(in.Size) <= len(reply)-answerHeader {
			size, status = getXAttr(fs, in, name, reply)
		} else {
			ok = false
		}
	}
	if !ok {
		return 0, false
	}
	if status != fuse.OK {
		size = 0
	}
	size += answerHeader
	binary.NativeEndian.PutUint32(reply[0:], uint32(size))
	binary.NativeEndian.PutUint32(reply[4:], uint32(-int32(status)))
	binary.NativeEndian.PutUint64(reply[8:], h.Unique)
	return size, true
}

const (
	answerHeader = int(unsafe.Sizeof(fuse.OutHeader{}))
	maxAnswer    = answerHeader + int(max(unsafe.Sizeof(fuse.CreateOut{}), unsafe.Sizeof(fuse.StatxOut{})))
)

// structure returns the structure that a message begins with, nil if it is shorter.
func structure[T any](m []byte) *T {
	var t T
	if uintptr(len(m)) < unsafe.Sizeof(t) {
		return nil
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(m)))
}

// room returns where the structure of an answer goes, cleared, and its length.
func room[T any](reply []byte) (*T, int) {
	var t T
	size := int(unsafe.Sizeof(t))
	clear(reply[answerHeader:][:size])
	return (*T)(unsafe.Pointer(&reply[answerHeader])), size
}

// nameBehind returns the name behind the structure that a message begins with. It is
// a copy, as it may be kept.
func nameBehind[T any](in *T, m []byte) (string, bool) {
	if in == nil {
		return "", false
	}
	rest := m[unsafe.Sizeof(*in):]
	end := bytes.IndexByte(rest, 0)
	if end < 0 {
		return "", false
	}
	return string(rest[:end]), true
}

func read(fs fuse.RawFileSystem, in *fuse.ReadIn, buf []byte) (int, fuse.Status) {
	result, status := fs.Read(nil, in, buf)
	if status != fuse.OK {
		return 0, status
	}
	defer result.Done()
	data, status := result.Bytes(buf)
	return copy(buf, data), status
}

// getXAttr answers with the value, or with its size if none fits.
func getXAttr(fs fuse.RawFileSystem, in *fuse.GetXAttrIn, name string, reply []byte) (int, fuse.Status) {
	if in.Size > 0 {
		n, status := fs.GetXAttr(nil, &in.InHeader, name, reply[answerHeader:][:in.Size])
		return int(n), status
	}
	n, status := fs.GetXAttr(nil, &in.InHeader, name, nil)
	if status == fuse.ERANGE {
		status = fuse.OK
	}
	o, size := room[fuse.GetXAttrOut](reply)
	o.Size = n
	return size, status
}

// forgetAll is struct fuse_batch_forget_in, and a node and a count for each.
func forgetAll(fs fuse.RawFileSystem, m []byte) bool {
	const each = 16
	rest := m[unsafe.Sizeof(fuse.InHeader{}):]
	if len(rest) < 8 {
		return false
	}
	count := int(binary.NativeEndian.Uint32(rest))
	rest = rest[8:]
	if len(rest)/each < count {
		return false
	}
	for ; count > 0; count-- {
		fs.Forget(binary.NativeEndian.Uint64(rest), binary.NativeEndian.Uint64(rest[8:]))
		rest = rest[each:]
	}
	return true
}
