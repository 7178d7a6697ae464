package fuseconn

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
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

// TestRingWaitLimit: a request of a ring that waits keeps a thread, so the number of
// those is limited.
func TestRingWaitLimit(t *testing.T) {
	for _, c := range []struct {
		op   uint32
		want unix.Errno
	}{{opSetlkw, unix.ENOLCK}, {14, unix.EAGAIN}} { // OPEN
		var dropped atomic.Int32
		conn := &Conn{log: slog.New(slog.DiscardHandler), rings: new(rings), Dropped: func(uint64) { dropped.Add(1) }}
		conn.handler = func(in, out [][]byte) (int, bool) { return putError(out[0], uniqueOf(in[0]), Suspended), true }
		var waiting sync.WaitGroup
		for i := range maxRingWaits {
			waiting.Go(func() {
				r := inRing(c.op, "lock", "")
				binary.NativeEndian.PutUint64(r.header[8:], uint64(1000+i))
				conn.handleRing(r)
				if errno := errnoOf(r.header); errno != unix.EINTR || uniqueOf(r.header) != uint64(1000+i) {
					t.Errorf("opcode %d: request %d was answered %v", c.op, uniqueOf(r.header), errno)
				}
			})
		}
		for n := 0; n < maxRingWaits; time.Sleep(time.Millisecond) {
			conn.deferrals.mu.Lock()
			n = len(conn.deferrals.all)
			conn.deferrals.mu.Unlock()
		}
		r := inRing(c.op, "lock", "")
		conn.handleRing(r)
		if errnoOf(r.header) != c.want {
			t.Errorf("opcode %d: one too many gets %v, want %v", c.op, errnoOf(r.header), c.want)
		}
		for i := range maxRingWaits {
			conn.interrupt(uint64(1000 + i))
		}
		waiting.Wait()
		if n := conn.rings.waits.Load(); n != 0 || dropped.Load() != maxRingWaits+1 {
			t.Errorf("opcode %d: %d still count as waiting, %d were dropped", c.op, n, dropped.Load())
		}
	}
}

// TestRingWaits: a request that waits is tried again by its own thread, from what it was at
// first.
func TestRingWaits(t *testing.T) {
	for _, wait := range []unix.Errno{Deferred, Suspended} {
		conn := &Conn{log: slog.New(slog.DiscardHandler), rings: new(rings)}
		conn.flights.all, conn.flights.over = map[*flight]struct{}{}, make(chan struct{})
		tries := 0
		conn.handler = func(in, out [][]byte) (int, bool) {
			if tries++; tries < 4 {
				if wait == Suspended {
					time.AfterFunc(time.Millisecond, func() { conn.Resume(77) })
				}
				return putError(out[0], uniqueOf(in[0]), wait), true
			}
			copy(out[1], in[0][inHeaderSize:])
			putError(out[0], uniqueOf(in[0]), 0)
			binary.NativeEndian.PutUint32(out[0][0:], outHeaderSize+4)
			return outHeaderSize + 4, true
		}
		r := inRing(14, "lock", "")
		r.payload = make([]byte, 64)
		if n := conn.handleRing(r); n != outHeaderSize+4 || string(r.payload[:4]) != "lock" || tries != 4 {
			t.Errorf("%v: an answer of %d bytes after %d tries: %q", wait, n, tries, r.payload[:4])
		}
		if n := conn.rings.waits.Load(); n != 0 || len(conn.deferrals.all) != 0 {
			t.Errorf("%v: %d still count as waiting", wait, n)
		}
		conn.others.Wait()
	}
}

// A thread whose ring the kernel has no memory for pauses before it tries again.
func TestRingWithoutMemory(t *testing.T) {
	if unix.Geteuid() != 0 {
		testenv.Skip(t, testenv.NeedRoot, "seccomp(2) without no_new_privs")
	}
	for _, errno := range []unix.Errno{unix.EAGAIN, unix.EBUSY} {
		var noRing error
		sys.OnOwnThread(func() { // which the filter stays with
			var ring *sys.Ring
			if ring, noRing = sys.NewRing(2); noRing != nil {
				return
			}
			defer ring.Close()
			const number = 0 // of struct seccomp_data
			filter := []unix.SockFilter{
				{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
				{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_IO_URING_ENTER, Jf: 1},
				{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
				{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
			}
			program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
			if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
				t.Errorf("seccomp: %v", errno)
				return
			}
			c := &Conn{fd: -1, log: slog.New(slog.DiscardHandler), flights: flights{all: make(map[*flight]struct{}), over: make(chan struct{})}}
			r := &ride{queue: new(queue), ring: ring, header: make([]byte, ringHeader), payload: make([]byte, 1)}
			r.iov[0].Base, r.iov[1].Base = &r.header[0], &r.payload[0]
			if err := c.board(r); err != nil {
				t.Errorf("%v: board: %v", errno, err)
			}
			const long = 300 * time.Millisecond
			time.AfterFunc(long, c.end)
			ended := make(chan struct{})
			busy := func() time.Duration {
				var usage unix.Rusage
				if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
					t.Error(err)
				}
				return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
			}
			before := busy()
			go func() { // for a thread that spins, the end of the connection changes nothing
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
					panic("the thread tries without a pause")
				}
			}()
			c.ride(r)
			close(ended)
			if used := busy() - before; used > long/2 {
				t.Errorf("%v: the thread has used the processor for %v of %v", errno, used, long)
			}
		})
		if noRing != nil {
			testenv.Skip(t, testenv.NeedKernel, noRing.Error())
		}
	}
}
