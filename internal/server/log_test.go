package server

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// sink keeps what is sent.
type sink struct {
	mu   sync.Mutex
	text []string
}

func (s *sink) send(r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := r.text()
	for _, f := range r.fields {
		if f.name == "errno" {
			text += " errno=" + f.value
		}
	}
	s.text = append(s.text, text)
	return nil
}

// A message that repeats is one line a minute.
func TestLogRepeats(t *testing.T) {
	var s sink
	l := newLog(s.send)
	now := time.Unix(0, 0)
	l.now = func() time.Time { return now }
	logger := l.Logger(slog.String("mount", "/m"))
	cause := &sys.Error{Op: "open", Path: "/f", Err: unix.EIO}
	for range 1000 {
		logger.Error("read", "cause", cause)
	}
	logger.Debug("a request")
	now = now.Add(2 * repeatEach)
	logger.Error("read", "cause", cause)
	logger.Error("read", "cause", errors.New("another"))
	l.Close()
	want := "read, cause: open /f: input/output error errno=5\n" +
		"read, cause: open /f: input/output error, repeated: 999 errno=5\n" +
		"read, cause: another"
	if got := strings.Join(s.text, "\n"); got != want {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
}

// A log that does not take records, or takes for ever, holds nobody up.
func TestLogThatHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	l := newLog(func(record) error { <-release; return nil })
	logger := l.Logger()
	testenv.Returns(t, "the server waits for the log", func() {
		for i := range 10 * logQueue {
			logger.Error("message", "number", i)
		}
		l.Close()
		logger.Error("after the end")
	})
	if l.dropped == 0 {
		t.Error("nothing was dropped")
	}
}

func TestLogFails(t *testing.T) {
	l := newLog(func(record) error { return unix.ECONNREFUSED })
	l.Logger().Error("message")
	l.Close()
	if l.dropped != 1 {
		t.Errorf("%d records dropped, want 1", l.dropped)
	}
}

// Without a journal the log is syslog, which may be restarted meanwhile.
func TestSyslog(t *testing.T) {
	testenv.PrivateMounts(t)
	for _, dir := range []string{"/run", "/dev"} {
		testenv.Mount(t, "tmpfs", dir, "")
	}
	log := new(systemLog)
	defer func() { log.syslog.Close() }()
	r := record{level: slog.LevelError, message: "failed", fields: []field{{"mount", "/caf\xe9"}, {"cause", "no space"}, {"errno", "28"}}}
	if err := log.send(r); err == nil {
		t.Error("there is no log, and it was sent")
	}
	for range 2 {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/dev/log", Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		if err := log.send(r); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(testenv.Patience)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		const daemonErr = "<27>"
		want := `failed, cause: no space mount="/caf\xe9" errno="28"`
		if got := strings.TrimSpace(string(buf[:n])); !strings.HasPrefix(got, daemonErr) || !strings.HasSuffix(got, want) || !strings.Contains(got, "idmount[") {
			t.Errorf("syslog got %q, want %q", got, want)
		}
		conn.Close()
		os.Remove("/dev/log")
	}
}
