package fuseconn

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inRing puts a request into memory as the kernel does.
func inRing(op uint32, structure, payload string) *ride {
	t := &ride{header: make([]byte, 4096), payload: make([]byte, 1<<16)}
	binary.NativeEndian.PutUint32(t.header[0:], uint32(inHeaderSize+len(structure)+len(payload)))
	binary.NativeEndian.PutUint32(t.header[4:], op)
	binary.NativeEndian.PutUint64(t.header[8:], 77)
	copy(t.header[ringOpAt:], structure)
	binary.NativeEndian.PutUint32(t.header[ringPayloadAt:], uint32(len(payload)))
	copy(t.payload, payload)
	return t
}

// echo answers with the pieces of the request, and reads the last one after it
// has written the answer.
func echo(in, out [][]byte) (int, bool) {
	n := copy(out[1], "["+string(in[0][inHeaderSize:])+"]")
	n += copy(out[1][n:], in[1])
	putError(out[0], uniqueOf(in[0]), 0)
	binary.NativeEndian.PutUint32(out[0], uint32(outHeaderSize+n))
	return outHeaderSize + n, true
}

func TestRingRequests(t *testing.T) {
	for _, c := range []struct {
		name   string
		ride   *ride
		broken func(*ride)
		errno  unix.Errno
		answer string
	}{
		{name: "structure alone", ride: inRing(opAny, "abc", ""), answer: "[abc]"},
		{name: "nothing", ride: inRing(opAny, "", ""), answer: "[]"},
		// Both ways at once, in the same memory.
		{name: "ioctl", ride: inRing(opIoctl, "abc", "payload"), answer: "[abc]payload"},
		{name: "a lock", ride: inRing(opSetlkw, "lock", ""), answer: "[lock]"},
		{name: "answer to a nudge", ride: inRing(opNotifyReply, "x", "")},
		{name: "the longest structure", ride: inRing(opAny, strings.Repeat("s", 88), ""), answer: "[" + strings.Repeat("s", 88) + "]"},
		{name: "a longer one", ride: inRing(opAny, strings.Repeat("s", 89), ""), errno: unix.EIO},
		{name: "longer structure than there is room", ride: inRing(opAny, "", ""), errno: unix.EIO,
			broken: func(r *ride) { binary.NativeEndian.PutUint32(r.header, 1<<30) }},
		{name: "shorter than its header", ride: inRing(opAny, "", ""), errno: unix.EIO,
			broken: func(r *ride) { binary.NativeEndian.PutUint32(r.header, 20) }},
		{name: "longer payload than the message", ride: inRing(opAny, "", ""), errno: unix.EIO,
			broken: func(r *ride) { binary.NativeEndian.PutUint32(r.header[ringPayloadAt:], 1<<31) }},
	} {
		conn := &Conn{handler: echo, log: slog.New(slog.DiscardHandler), rings: new(rings)}
		if c.broken != nil {
			c.broken(c.ride)
		}
		n := conn.handleRing(c.ride)
		if got := errnoOf(c.ride.header); got != c.errno || uniqueOf(c.ride.header) != 77 {
			t.Errorf("%s: answer %d to request %d, want %d to 77", c.name, got, uniqueOf(c.ride.header), c.errno)
		}
		if n < outHeaderSize || n != int(binary.NativeEndian.Uint32(c.ride.header)) {
			t.Errorf("%s: length %d, header says %d", c.name, n, binary.NativeEndian.Uint32(c.ride.header))
			continue
		}
		if got := c.ride.payload[:n-outHeaderSize]; !bytes.Equal(got, []byte(c.answer)) {
			t.Errorf("%s: answer %q, want %q", c.name, got, c.answer)
		}
	}
}

func TestRingLockLimit(t *testing.T) {
	conn := &Conn{log: slog.New(slog.DiscardHandler), rings: new(rings)}
	var nested func(in, out [][]byte) (int, bool)
	waiting := 0
	nested = func(in, out [][]byte) (int, bool) {
		waiting++
		r := inRing(opSetlkw, "", "")
		conn.handleRing(r) // as if another thread had taken it
		errno := errnoOf(r.header)
		return putError(out[0], uniqueOf(in[0]), errno), true
	}
	conn.handler = nested
	r := inRing(opSetlkw, "", "")
	conn.handleRing(r)
	if waiting != maxLockWaits || errnoOf(r.header) != unix.ENOLCK {
		t.Errorf("%d wait, the next one gets %v; want %d, ENOLCK", waiting, errnoOf(r.header), maxLockWaits)
	}
	if n := conn.rings.lockWaits.Load(); n != 0 {
		t.Errorf("%d still count as waiting", n)
	}
}
