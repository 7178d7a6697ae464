package fuseconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// kernel is the other end of a connection whose messages are those of a socket:
// there the tests can do what a kernel does seldom, or never.
type kernel struct {
	t    *testing.T
	fd   int
	conn *Conn
	log  *logBuffer
	buf  []byte
}

const testInit = 26 // FUSE_INIT

// connect has a connection served by h, but for INIT, which is answered with
// a max_write of 1 MiB.
func connect(t *testing.T, h Handler) *kernel {
	t.Helper()
	return connectAs(t, false, h)
}

// connectAs is connect with Conn.Remote.
func connectAs(t *testing.T, remote bool, h Handler) *kernel {
	t.Helper()
	return connectWith(t, h, func(c *Conn) { c.Remote = remote })
}

// connectWith is connect with a connection that prepare has changed before Serve.
func connectWith(t *testing.T, h Handler, prepare func(*Conn)) *kernel {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: fds[0], log: new(logBuffer), buf: make([]byte, 2<<20)}
	for _, fd := range fds {
		for _, opt := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 4<<20)
		}
	}
	dev := os.NewFile(uintptr(fds[1]), "socket")
	defer dev.Close()
	k.send(testInit, 1, initIn(7, 40))
	k.conn, err = Open(dev, slog.New(slog.NewTextHandler(k.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	prepare(k.conn)
	err = k.conn.Serve(func(in, out [][]byte) (int, bool) {
		if opcodeOf(in[0]) != testInit {
			return h(in, out)
		}
		n, ok := answer(in, out, string(make([]byte, 64)))
		binary.NativeEndian.PutUint32(out[0][outHeaderSize+20:], 1<<20)
		return n, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	k.receive() // the answer to INIT
	t.Cleanup(k.hangUp)
	return k
}

func initIn(major, minor uint32) []byte {
	body := make([]byte, 64)
	binary.NativeEndian.PutUint32(body[0:], major)
	binary.NativeEndian.PutUint32(body[4:], minor)
	binary.NativeEndian.PutUint32(body[12:], 1<<30)
	binary.NativeEndian.PutUint32(body[16:], 1<<5)
	return body
}

func (k *kernel) send(op uint32, unique uint64, body []byte) {
	k.t.Helper()
	message := make([]byte, inHeaderSize, inHeaderSize+len(body))
	binary.NativeEndian.PutUint32(message[0:], uint32(inHeaderSize+len(body)))
	binary.NativeEndian.PutUint32(message[4:], op)
	binary.NativeEndian.PutUint64(message[8:], unique)
	if _, err := unix.Write(k.fd, append(message, body...)); err != nil {
		k.t.Fatal(err)
	}
}

// receive waits for an answer.
func (k *kernel) receive() (unique uint64, errno unix.Errno, body []byte) {
	k.t.Helper()
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}, 20_000)
	}
	if err != nil || n == 0 {
		k.t.Fatalf("no answer: %v\n%s", err, k.log)
	}
	buf := k.buf
	if n, err = unix.Read(k.fd, buf); err != nil {
		k.t.Fatal(err)
	}
	if n < outHeaderSize || int(binary.NativeEndian.Uint32(buf)) != n {
		k.t.Fatalf("an answer of %d bytes: %x", n, buf[:min(n, 64)])
	}
	return uniqueOf(buf), errnoOf(buf), bytes.Clone(buf[outHeaderSize:n])
}

// quiet fails the test if there is an answer that nobody has asked for.
func (k *kernel) quiet() {
	k.t.Helper()
	k.send(opAny, 999, nil) // is answered after what was sent before, or the threads were slow
	if unique, _, _ := k.receive(); unique != 999 {
		k.t.Errorf("an answer to %d", unique)
	}
}

// waitFor fails the test with what is wrong if ok does not become true.
func (k *kernel) waitFor(wrong string, ok func() bool) {
	k.t.Helper()
	testenv.WaitFor(k.t, wrong, ok)
}

const opAny = 3 // any opcode that is answered

// hangUp ends the connection, and waits until nothing is under way.
func (k *kernel) hangUp() {
	if k.fd < 0 {
		return
	}
	unix.Close(k.fd)
	k.fd = -1
	done := make(chan struct{})
	go func() {
		k.conn.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(testenv.Patience):
		k.t.Errorf("still waiting after the end of the connection\n%s", k.log)
	}
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func answer(in, out [][]byte, body string) (int, bool) {
	n := putError(out[0], uniqueOf(in[0]), 0)
	n += copy(out[0][n:], body)
	binary.NativeEndian.PutUint32(out[0], uint32(n))
	return n, true
}

func TestInit(t *testing.T) {
	k := connect(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "") })
	if want := (Init{Major: 7, Minor: 40, Flags: 1<<30 | 1<<37}); k.conn.Init != want {
		t.Errorf("Init is %+v, want %+v", k.conn.Init, want)
	}
}

func TestInitRefused(t *testing.T) {
	for name, h := range map[string]Handler{
		"an error": func(in, out [][]byte) (int, bool) { return putError(out[0], uniqueOf(in[0]), unix.EIO), true },
		"nothing":  func(in, out [][]byte) (int, bool) { return 0, false },
		"a stub":   func(in, out [][]byte) (int, bool) { return answer(in, out, "stub") },
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		k := &kernel{t: t, fd: fds[0]}
		k.send(testInit, 1, initIn(7, 40))
		dev := os.NewFile(uintptr(fds[1]), "socket")
		c, err := Open(dev, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Serve(h); err == nil {
			t.Errorf("%s: served", name)
		}
		dev.Close()
		if _, err := unix.Write(k.fd, []byte("x")); err != unix.EPIPE {
			t.Errorf("%s: the connection is still open: %v", name, err)
		}
		unix.Close(k.fd)
	}
}

func TestInitShort(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: fds[0]}
	k.send(testInit, 1, []byte("short"))
	dev := os.NewFile(uintptr(fds[1]), "socket")
	defer dev.Close()
	if _, err := Open(dev, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "INIT of 45 bytes") {
		t.Errorf("Open: %v", err)
	}
	unix.Close(k.fd)
}

func TestAnswers(t *testing.T) {
	const errno, errnoFor = 100, 200 // opcodes of this test
	k := connect(t, func(in, out [][]byte) (int, bool) {
		switch op := opcodeOf(in[0]); op {
		case errno:
			return putError(out[0], uniqueOf(in[0]), unix.Errno(binary.NativeEndian.Uint32(in[0][inHeaderSize:]))), true
		case opForget, opBatchForget, opNotifyReply, opAny:
			return answer(in, out, "")
		case 101:
			return 0, false
		case 102:
			return 0, true
		case 103:
			panic("on purpose")
		}
		return answer(in, out, string(in[0][inHeaderSize:]))
	})
	word := func(e unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(e)) }
	for i, c := range []struct {
		op    uint32
		body  []byte
		errno unix.Errno
		echo  string
	}{
		{op: 50, body: []byte("hello"), echo: "hello"},
		{op: errno, body: word(unix.ENOENT), errno: unix.ENOENT},
		{op: errno, body: word(unix.EHWPOISON), errno: unix.EHWPOISON},
		{op: errno, body: word(511), errno: 511},
		{op: errno, body: word(512), errno: unix.EIO},        // ERESTARTSYS
		{op: errno, body: word(524), errno: unix.EOPNOTSUPP}, // ENOTSUPP
		{op: errno, body: word(1 << 20), errno: unix.EIO},
		{op: 101, errno: unix.EIO},
		{op: 102, errno: unix.EIO},
		{op: 103, errno: unix.EIO},
		{op: 50, body: []byte(strings.Repeat("x", 1<<20)), echo: strings.Repeat("x", 1<<20)},
	} {
		k.send(c.op, uint64(10+i), c.body)
		unique, got, body := k.receive()
		if unique != uint64(10+i) || got != c.errno || string(body) != c.echo {
			t.Errorf("opcode %d: answer to %d, errno %d, %d bytes; want %d, %d, %d", c.op, unique, got, len(body), 10+i, c.errno, len(c.echo))
		}
	}
	if log := k.log.String(); !strings.Contains(log, "on purpose") || !strings.Contains(log, "conn_test.go") {
		t.Errorf("the panic and its place are not in the log: %s", log)
	}
	for _, op := range []uint32{opForget, opBatchForget, opNotifyReply} {
		k.send(op, 50, make([]byte, 16))
		k.quiet()
	}
}

// TestManyBlocked: requests that block take nothing away from others, and the
// threads that they needed do not stay for ever.
func TestManyBlocked(t *testing.T) {
	const blocked = 300
	release := make(chan struct{})
	var inside atomic.Int32
	k := connect(t, func(in, out [][]byte) (int, bool) {
		if opcodeOf(in[0]) == 50 {
			inside.Add(1)
			<-release
		}
		return answer(in, out, "")
	})
	for i := range blocked {
		k.send(50, uint64(1000+i), nil)
	}
	k.waitFor("not all requests are handled", func() bool { return inside.Load() == blocked })
	k.quiet()
	close(release)
	for range blocked {
		k.receive()
	}
	// From now on one request at a time is asked for.
	for i := 0; k.conn.readers.total.Load() > blocked/10; i++ {
		if i > 10*patience {
			t.Fatalf("%d threads after %d requests one by one", k.conn.readers.total.Load(), i)
		}
		k.quiet()
	}
	k.waitFor("no thread waits for the next request", func() bool { return k.conn.readers.waiting.Load() >= 1 })
}

// TestThreadLimit: at the limit requests wait for each other, and nothing is lost.
func TestThreadLimit(t *testing.T) {
	release := make(chan struct{})
	k := connect(t, func(in, out [][]byte) (int, bool) {
		if opcodeOf(in[0]) == 50 {
			<-release
		}
		return answer(in, out, "")
	})
	k.conn.readers.total.Add(maxThreads - 10)
	for i := range 40 {
		k.send(50, uint64(i), nil)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	for range 40 {
		k.receive()
	}
	k.quiet()
	k.conn.readers.total.Add(-(maxThreads - 10))
}

// patient is a handler as go-fuse's: an interruption closes a channel of the
// request that it is about, and is EAGAIN if there is none.
type patient struct {
	mu      sync.Mutex
	cancel  map[uint64]chan struct{}
	delay   time.Duration // until a request is known
	handled atomic.Int32
}

func (p *patient) handle(in, out [][]byte) (int, bool) {
	unique := uniqueOf(in[0])
	switch opcodeOf(in[0]) {
	case opInterrupt:
		p.mu.Lock()
		defer p.mu.Unlock()
		if c := p.cancel[interrupts(in[0])]; c != nil {
			delete(p.cancel, interrupts(in[0]))
			close(c)
			return 0, true
		}
		return putError(out[0], unique, unix.EAGAIN), true
	case 50, opSetlkw:
		p.handled.Add(1)
		time.Sleep(p.delay)
		c := make(chan struct{})
		p.mu.Lock()
		p.cancel[unique] = c
		p.mu.Unlock()
		<-c
		return putError(out[0], unique, unix.EINTR), true
	}
	return answer(in, out, "")
}

func TestInterrupt(t *testing.T) {
	for _, delay := range []time.Duration{0, 20 * time.Millisecond} {
		for _, op := range []uint32{50, opSetlkw} {
			p := &patient{cancel: map[uint64]chan struct{}{}, delay: delay}
			k := connect(t, p.handle)
			k.send(op, 70, nil)
			k.send(opInterrupt, 71, binary.NativeEndian.AppendUint64(nil, 70))
			if unique, errno, _ := k.receive(); unique != 70 || errno != unix.EINTR {
				t.Errorf("answer to %d, %v", unique, errno)
			}
			// Of a request that is done: nothing happens.
			k.send(opInterrupt, 73, binary.NativeEndian.AppendUint64(nil, 70))
			k.send(opInterrupt, 73, nil) // and of none
			k.quiet()
			k.hangUp()
		}
	}
}

// TestEndInterrupts: when the connection ends nobody waits for what is under
// way, nor does the server.
func TestEndInterrupts(t *testing.T) {
	p := &patient{cancel: map[uint64]chan struct{}{}, delay: 10 * time.Millisecond}
	k := connect(t, p.handle)
	for i := range 50 {
		k.send([]uint32{50, opSetlkw}[i%2], uint64(100+i), nil)
	}
	k.waitFor("not all requests are handled", func() bool { return p.handled.Load() >= 50 })
	k.hangUp() // fails the test if it waits
	if k.conn.InvalidateInode(1, 0, 0) != unix.ENODEV {
		t.Error("a connection that has ended takes notifications")
	}
}

func TestNotifications(t *testing.T) {
	k := connect(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "") })
	if errno := k.conn.InvalidateEntry(5, "name"); errno != 0 {
		t.Fatal(errno)
	}
	unique, errno, body := k.receive()
	if unique != 0 || -int32(errno) != notifyInvalEntry || binary.NativeEndian.Uint64(body) != 5 ||
		binary.NativeEndian.Uint32(body[8:]) != 4 || binary.NativeEndian.Uint32(body[12:]) != expireOnly || string(body[16:]) != "name\x00" {
		t.Errorf("INVAL_ENTRY: %d %d %q", unique, errno, body)
	}
	if errno := k.conn.InvalidateInode(6, -1, 7); errno != 0 {
		t.Fatal(errno)
	}
	unique, errno, body = k.receive()
	if unique != 0 || -int32(errno) != notifyInvalInode || len(body) != 24 || binary.NativeEndian.Uint64(body) != 6 ||
		int64(binary.NativeEndian.Uint64(body[8:])) != -1 || binary.NativeEndian.Uint64(body[16:]) != 7 {
		t.Errorf("INVAL_INODE: %d %d %q", unique, errno, body)
	}
}

// TestAligned: the data of a WRITE and of the answer to a READ begin on pages,
// and a message is never where its answer goes.
func TestAligned(t *testing.T) {
	page := os.Getpagesize()
	r := &reader{room: 1 << 20, mem: make([]byte, 2<<20+16*page)}
	at := func(p []byte) int { return cap(r.mem) - cap(p) }
	if got := at(r.in()[writeData:]); got%page != 0 {
		t.Errorf("data to be written begins at %d", got)
	}
	for _, n := range []int{inHeaderSize, writeData, writeData + 1<<20, 4096, 4095, len(r.in())} {
		out := r.out(n)
		if got := at(out[outHeaderSize:]); got%page != 0 {
			t.Errorf("message of %d bytes: data that is read begins at %d", n, got)
		}
		if at(out) < at(r.in())+n {
			t.Errorf("message of %d bytes at %d: its answer is at %d", n, at(r.in()), at(out))
		}
		if len(out) < 1<<20+outHeaderSize+page {
			t.Errorf("message of %d bytes: room of %d for the answer", n, len(out))
		}
	}
}

// TestCloseRefusesInit gives a connection up whose mount waits for the answer to INIT.
func TestCloseRefusesInit(t *testing.T) {
	testenv.PrivateMounts(t)
	given := errors.New("given up")
	tree, err := sys.FuseMountServed(sys.FuseMountOptions{Source: "refused", ServeEarly: true}, func(dev *os.File) error {
		c, err := Open(dev, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		c.Close()
		return given
	})
	if tree != nil || !errors.Is(err, given) {
		t.Errorf("got %v, %v", tree, err)
	}
	// The refusal is the only message, and comes once.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: fds[0], buf: make([]byte, 1<<10)}
	defer unix.Close(k.fd)
	dev := os.NewFile(uintptr(fds[1]), "socket")
	defer dev.Close()
	k.send(testInit, 7, initIn(7, 40))
	c, err := Open(dev, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	if unique, errno, _ := k.receive(); unique != 7 || errno != unix.EIO {
		t.Errorf("request %d: %v", unique, errno)
	}
	if _, _, err := unix.Recvfrom(k.fd, k.buf, unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("another message: %v", err)
	}
}
