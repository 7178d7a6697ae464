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
// It returns false, and has done nothing, for all others, for those with extensions,
// and for those that it does not understand. What it calls is given no channel, as none
// of it waits: see fuseconn.Deferred.
func hot(fs fuse.RawFileSystem, in, out [][]byte) (n int, ok bool) {
	m := message(in)
	h := structure[fuse.InHeader](m)
	header, body := out[0], out[len(out)-1]
	if len(out) == 1 && len(header) >= answerHeader {
		body = header[answerHeader:]
	}
	if h == nil || h.TotalExtlen != 0 || len(header) < answerHeader || len(body) < maxAnswer {
		return 0, false
	}
	unique := h.Unique // the header of the answer takes its place
	var (
		name   string
		status fuse.Status
		size   int // of the answer behind its header
	)
	switch h.Opcode {
	case wireLookup:
		if name, ok = nameBehind(h, m); ok {
			var e *fuse.EntryOut
			e, size = room[fuse.EntryOut](body)
			status = fs.Lookup(nil, h, name, e)
		}
	case wireGetattr:
		if in := structure[fuse.GetAttrIn](m); in != nil {
			var a *fuse.AttrOut
			a, size = room[fuse.AttrOut](body)
			status, ok = fs.GetAttr(nil, in, a), true
		}
	case wireSetattr:
		if in := structure[fuse.SetAttrIn](m); in != nil {
			var a *fuse.AttrOut
			a, size = room[fuse.AttrOut](body)
			status, ok = fs.SetAttr(nil, in, a), true
		}
	case wireStatx:
		if in := structure[fuse.StatxIn](m); in != nil {
			var x *fuse.StatxOut
			x, size = room[fuse.StatxOut](body)
			status, ok = fs.Statx(nil, in, x), true
		}
	case wireUnlink:
		if name, ok = nameBehind(h, m); ok {
			status = fs.Unlink(nil, h, name)
		}
	case wireOpen:
		if in := structure[fuse.OpenIn](m); in != nil {
			var o *fuse.OpenOut
			o, size = room[fuse.OpenOut](body)
			status, ok = fs.Open(nil, in, o), true
		}
	case wireCreate:
		in := structure[fuse.CreateIn](m)
		if name, ok = nameBehind(in, m); ok {
			var c *fuse.CreateOut
			c, size = room[fuse.CreateOut](body)
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
		if in := structure[fuse.ReadIn](m); in != nil && uint64(in.Size) <= uint64(len(body)) {
			size, status = read(fs, in, body[:in.Size])
			ok = true
		}
	case wireWrite:
		if in := structure[fuse.WriteIn](m); in != nil {
			var written uint32
			written, status = fs.Write(nil, in, behind(in, m))
			var w *fuse.WriteOut // where the data may have been
			w, size = room[fuse.WriteOut](body)
			w.Size, ok = written, true
		}
	case wireGetxattr:
		in := structure[fuse.GetXAttrIn](m)
		if name, ok = nameBehind(in, m); ok && uint64(in.Size) <= uint64(len(body)) {
			size, status = getXAttr(fs, in, name, body)
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
	binary.NativeEndian.PutUint32(header[0:], uint32(size))
	binary.NativeEndian.PutUint32(header[4:], uint32(-int32(status)))
	binary.NativeEndian.PutUint64(header[8:], unique)
	return size, true
}

const (
	answerHeader = int(unsafe.Sizeof(fuse.OutHeader{}))
	maxAnswer    = int(max(unsafe.Sizeof(fuse.CreateOut{}), unsafe.Sizeof(fuse.StatxOut{})))
)

// message is the pieces of one: what is behind its structure is in the same piece, or
// in one of its own.
type message [][]byte

// structure returns the structure that a message begins with, nil if there is less.
func structure[T any](m message) *T {
	var t T
	if uintptr(len(m[0])) < unsafe.Sizeof(t) {
		return nil
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(m[0])))
}

// behind returns what is behind the structure of a message.
func behind[T any](in *T, m message) []byte {
	if len(m) > 1 {
		return m[1]
	}
	return m[0][unsafe.Sizeof(*in):]
}

// nameBehind returns the name behind the structure of a message. It is a copy, as it
// may be kept.
func nameBehind[T any](in *T, m message) (string, bool) {
	if in == nil {
		return "", false
	}
	rest := behind(in, m)
	end := bytes.IndexByte(rest, 0)
	if end < 0 {
		return "", false
	}
	return string(rest[:end]), true
}

// room returns where the structure of an answer goes, cleared, and its length.
func room[T any](body []byte) (*T, int) {
	var t T
	size := int(unsafe.Sizeof(t))
	clear(body[:size])
	return (*T)(unsafe.Pointer(unsafe.SliceData(body))), size
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

// getXAttr answers with the value, or with its size if none is wanted.
func getXAttr(fs fuse.RawFileSystem, in *fuse.GetXAttrIn, name string, body []byte) (int, fuse.Status) {
	if in.Size > 0 {
		n, status := fs.GetXAttr(nil, &in.InHeader, name, body[:in.Size])
		return int(n), status
	}
	n, status := fs.GetXAttr(nil, &in.InHeader, name, nil)
	if status == fuse.ERANGE {
		status = fuse.OK
	}
	o, size := room[fuse.GetXAttrOut](body)
	o.Size = n
	return size, status
}

// forgetAll is struct fuse_batch_forget_in, and behind it a node and a count for each.
func forgetAll(fs fuse.RawFileSystem, m message) bool {
	type batch struct {
		fuse.InHeader
		Count, Dummy uint32
	}
	const each = 16
	in := structure[batch](m)
	if in == nil {
		return false
	}
	rest := behind(in, m)
	if uint64(len(rest)) < uint64(in.Count)*each {
		return false
	}
	for range in.Count {
		fs.Forget(binary.NativeEndian.Uint64(rest), binary.NativeEndian.Uint64(rest[8:]))
		rest = rest[each:]
	}
	return true
}
