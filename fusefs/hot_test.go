package fusefs

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/fuseconn"
)

// echo is a file system that says what it is asked, and answers with what is easily
// told apart.
type echo struct {
	fuse.RawFileSystem
	status fuse.Status
	heard  []string
}

func (e *echo) hear(format string, args ...any) fuse.Status {
	e.heard = append(e.heard, fmt.Sprintf(format, args...))
	return e.status
}

func (e *echo) Lookup(_ cancel, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	out.NodeId, out.Ino = 7, 8
	return e.hear("lookup %+v %q", *h, name)
}

func (e *echo) Forget(id, count uint64) { e.hear("forget %d %d", id, count) }

func (e *echo) GetAttr(_ cancel, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Ino = 9
	return e.hear("getattr %+v", *in)
}

func (e *echo) SetAttr(_ cancel, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Ino = 10
	return e.hear("setattr %+v", *in)
}

func (e *echo) Statx(_ cancel, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	out.Ino = 11
	return e.hear("statx %+v", *in)
}

func (e *echo) Unlink(_ cancel, h *fuse.InHeader, name string) fuse.Status {
	return e.hear("unlink %+v %q", *h, name)
}

func (e *echo) Open(_ cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.Fh = 12
	return e.hear("open %+v", *in)
}

func (e *echo) Create(_ cancel, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.NodeId, out.Fh = 13, 14
	return e.hear("create %+v %q", *in, name)
}

func (e *echo) Read(_ cancel, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	status := e.hear("read %+v into %d", *in, len(buf))
	return fuse.ReadResultData([]byte("data")[:min(4, len(buf))]), status
}

func (e *echo) Write(_ cancel, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return uint32(len(data)), e.hear("write %+v %q", *in, data)
}

func (e *echo) Release(_ cancel, in *fuse.ReleaseIn) { e.hear("release %+v", *in) }

func (e *echo) Flush(_ cancel, in *fuse.FlushIn) fuse.Status { return e.hear("flush %+v", *in) }

func (e *echo) GetXAttr(_ cancel, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	status := e.hear("getxattr %+v %q into %d", *h, name, len(dest))
	if len(dest) < 5 {
		return 5, fuse.ERANGE
	}
	return uint32(copy(dest, "value")), status
}

// TestHotAnswersAsGoFuse has messages of all kinds and lengths answered in both ways,
// in one piece and in two, of which the second is where the answer goes.
func TestHotAnswersAsGoFuse(t *testing.T) {
	quiet := &fuse.MountOptions{Logger: log.New(io.Discard, "", 0)}
	for opcode := uint32(0); opcode < 64; opcode++ {
		for _, status := range []fuse.Status{fuse.OK, fuse.Status(unix.EOVERFLOW)} {
			for length := 0; length <= 160; length++ {
				for _, size := range []uint32{0, 3, 64, 1 << 20} {
					for _, split := range []int{0, headSize[opcode]} {
						m := message160(opcode, length, size)
						if split > length {
							continue
						}
						ours, theirs := &echo{RawFileSystem: fuse.NewDefaultRawFileSystem(), status: status}, &echo{RawFileSystem: fuse.NewDefaultRawFileSystem(), status: status}
						in, out := [][]byte{append([]byte(nil), m...)}, [][]byte{make([]byte, 4096)}
						if split > 0 {
							// As a ring has them.
							head, payload := make([]byte, 256), make([]byte, 4080)
							copy(head, m[:split])
							copy(payload, m[split:])
							in, out = [][]byte{head[:split], payload[:length-split]}, [][]byte{head[:16], payload}
						} else {
							for i := range out[0] {
								out[0][i] = 0xff // of the last message
							}
						}
						n, ok := hot(ours, in, out)
						if !ok {
							if len(ours.heard) > 0 {
								t.Fatalf("opcode %d of %d bytes: left to go-fuse after %q", opcode, length, ours.heard)
							}
							continue
						}
						want := make([]byte, 4096)
						wantN, _ := fuse.NewProtocolServer(theirs, quiet).HandleRequest([][]byte{m}, [][]byte{want})
						if diff := cmp.Diff(theirs.heard, ours.heard); diff != "" {
							t.Fatalf("opcode %d of %d bytes, %d of them in front: calls (-go-fuse +ours):\n%s", opcode, length, split, diff)
						}
						if diff := cmp.Diff(want[:wantN], slices.Concat(out...)[:n]); diff != "" {
							t.Fatalf("opcode %d of %d bytes, %d of them in front, status %v: answer (-go-fuse +ours):\n%s", opcode, length, split, status, diff)
						}
					}
				}
			}
		}
	}
}

// headSize is how long header and structure are.
var headSize = map[uint32]int{
	wireLookup: 40, wireForget: 48, wireGetattr: 56, wireSetattr: 128, wireUnlink: 40, wireOpen: 48, wireRead: 80, wireWrite: 80,
	wireRelease: 64, wireGetxattr: 48, wireFlush: 64, wireCreate: 56, wireBatchForget: 48, wireStatx: 64,
}

// TestHotIsHot: of each of its opcodes it answers a whole message.
func TestHotIsHot(t *testing.T) {
	for opcode := range headSize {
		e := &echo{RawFileSystem: fuse.NewDefaultRawFileSystem()}
		if _, ok := hot(e, [][]byte{message160(opcode, 160, 64)}, [][]byte{make([]byte, 4096)}); !ok || len(e.heard) == 0 {
			t.Errorf("opcode %d: %t, calls %q", opcode, ok, e.heard)
		}
	}
	e := &echo{RawFileSystem: fuse.NewDefaultRawFileSystem(), status: fuse.Status(fuseconn.Deferred)}
	out := make([]byte, 4096)
	n, ok := hot(e, [][]byte{message160(wireOpen, 160, 64)}, [][]byte{out})
	if errno := -int32(binary.NativeEndian.Uint32(out[4:])); !ok || n != answerHeader || errno != int32(fuseconn.Deferred) {
		t.Errorf("OPEN that has to wait: %t, errno %d in %d bytes", ok, errno, n)
	}
}

// message160 is one of the opcode, with a size where READ and GETXATTR have theirs, and
// two names at its end.
func message160(opcode uint32, length int, size uint32) []byte {
	m := make([]byte, 160)
	for i := range m {
		m[i] = byte(i)
	}
	binary.NativeEndian.PutUint32(m[4:], opcode)
	binary.NativeEndian.PutUint32(m[36:], 0) // extensions
	switch opcode {
	case wireGetxattr:
		binary.NativeEndian.PutUint32(m[40:], size)
	case wireRead:
		binary.NativeEndian.PutUint32(m[56:], size)
	case wireBatchForget:
		binary.NativeEndian.PutUint32(m[40:], uint32(max(0, length-48)/16))
	}
	copy(m[130:], "one\x00two\x00")
	m = m[:length]
	if length >= 4 {
		binary.NativeEndian.PutUint32(m, uint32(length))
	}
	return m
}
