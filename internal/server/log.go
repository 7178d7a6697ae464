package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"log/syslog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// A server in the background has nobody to write to but the system's log: the journal
// or, without one, syslog. Neither may hold up or fail the server:
//
//   - A record is queued, and one goroutine sends. A full queue drops records, and
//     the next one that is sent says how many.
//   - A message that repeats is logged once in repeatEach, with the number of times.
const (
	logQueue   = 64
	repeatEach = time.Minute
	// repeatKinds bounds how many messages are watched for repeats.
	repeatKinds = 128
	// sendTime is how long the log may take for one record. A socket that is full can
	// make it wait for ever.
	sendTime = 2 * time.Second
	// stuckSends is how many of those that wait longer may be left alone.
	stuckSends = 4
	// longestField bounds a field of a record, the stack of a panic for one: longer
	// records need a file.
	longestField = 16 << 10
)

// record is one line of the log.
type record struct {
	level   slog.Level
	message string
	fields  []field
}

type field struct{ name, value string }

// Log is the system's log of one server.
type Log struct {
	queue chan record
	done  chan struct{}
	send  func(record) error
	stuck chan struct{} // sends that have not returned

	mu      sync.Mutex
	closed  bool
	dropped int
	repeats map[string]*repeat
	now     func() time.Time // for tests
}

// repeat is what is known of a message that has been logged.
type repeat struct {
	logged time.Time
	held   int // times since
}

// OpenLog opens the system's log. It never fails: without a log daemon, records are
// lost.
func OpenLog() *Log {
	return newLog(new(systemLog).send)
}

func newLog(send func(record) error) *Log {
	l := &Log{
		queue:   make(chan record, logQueue),
		done:    make(chan struct{}),
		send:    send,
		stuck:   make(chan struct{}, stuckSends),
		repeats: make(map[string]*repeat),
		now:     time.Now,
	}
	go l.run()
	return l
}

// Logger returns a logger whose records have the fields that tell which mount they
// are about.
func (l *Log) Logger(fields ...slog.Attr) *slog.Logger {
	return slog.New(&handler{log: l}).With(attrsToAny(fields)...)
}

func attrsToAny(attrs []slog.Attr) []any {
	out := make([]any, len(attrs))
	for i, a := range attrs {
		out[i] = a
	}
	return out
}

// Close sends what is queued, for a limited time.
func (l *Log) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(sendTime):
	}
}

func (l *Log) run() {
	defer close(l.done)
	for r := range l.queue {
		select {
		case l.stuck <- struct{}{}:
		default:
			l.drop()
			continue
		}
		sent := make(chan error, 1)
		go func() {
			sent <- l.send(r)
			<-l.stuck
		}()
		select {
		case err := <-sent:
			if err != nil {
				l.drop()
			}
		case <-time.After(sendTime):
			l.drop()
		}
	}
}

func (l *Log) drop() {
	l.mu.Lock()
	l.dropped++
	l.mu.Unlock()
}

// add queues a record, unless it repeats one.
func (l *Log) add(r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	key := r.key()
	now := l.now()
	known := l.repeats[key]
	if known != nil && now.Sub(known.logged) < repeatEach {
		known.held++
		return
	}
	if known != nil && known.held > 0 {
		r.fields = append(r.fields, field{"repeated", strconv.Itoa(known.held)})
	}
	if known == nil && len(l.repeats) >= repeatKinds {
		for key, old := range l.repeats {
			if now.Sub(old.logged) >= repeatEach {
				delete(l.repeats, key)
			}
		}
		if len(l.repeats) >= repeatKinds {
			l.dropped++ // as many different ones in a minute: enough
			return
		}
	}
	if l.dropped > 0 {
		r.fields = append(r.fields, field{"dropped", strconv.Itoa(l.dropped)})
	}
	select {
	case l.queue <- r:
		l.dropped = 0
		l.repeats[key] = &repeat{logged: now}
	default:
		l.dropped++
	}
}

func (r *record) key() string {
	var b strings.Builder
	fmt.Fprint(&b, r.level, r.message)
	for _, f := range r.fields {
		fmt.Fprint(&b, "\x00", f.name, "=", f.value)
	}
	return b.String()
}

// text is the record for a reader: the message, and all fields that do not tell which
// mount it is about.
func (r *record) text() string {
	var b strings.Builder
	b.WriteString(r.message)
	for _, f := range r.fields {
		if !slices.Contains(mountFields, f.name) && f.name != "stack" && f.name != "errno" {
			fmt.Fprintf(&b, ", %s: %s", f.name, f.value)
		}
	}
	return b.String()
}

// The fields of every record of a server.
var mountFields = []string{"mount", "source", "backend"}

// handler collects the attributes of a slog.Logger.
type handler struct {
	log    *Log
	fields []field
	group  string
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	fields := slices.Clone(h.fields)
	r.Attrs(func(a slog.Attr) bool {
		fields = h.appendAttr(fields, a)
		return true
	})
	h.log.add(record{level: r.Level, message: r.Message, fields: fields})
	return nil
}

// appendAttr appends the number of an error of the system as a field of its own.
func (h *handler) appendAttr(fields []field, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		for _, inner := range v.Group() {
			fields = h.appendAttr(fields, inner)
		}
		return fields
	}
	text := v.String()
	fields = append(fields, field{h.group + a.Key, text[:min(len(text), longestField)]})
	var errno unix.Errno
	if err, ok := v.Any().(error); ok && errors.As(err, &errno) {
		fields = append(fields, field{"errno", strconv.Itoa(int(errno))})
	}
	return fields
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.fields = slices.Clone(h.fields)
	for _, a := range attrs {
		next.fields = h.appendAttr(next.fields, a)
	}
	return &next
}

func (h *handler) WithGroup(name string) slog.Handler {
	next := *h
	next.group += name + "."
	return &next
}

const identifier = "idmount"

// systemLog sends records to the journal, if it is there at that moment, else to
// syslog.
type systemLog struct {
	mu     sync.Mutex
	syslog *syslog.Writer // nil until it is needed
}

func (s *systemLog) send(r record) error {
	if journal.Enabled() {
		return sendToJournal(r)
	}
	w, err := s.connect()
	if err != nil {
		return err
	}
	return sendToSyslog(w, r)
}

func (s *systemLog) connect() (_ *syslog.Writer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.syslog == nil {
		s.syslog, err = syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, identifier)
	}
	return s.syslog, err
}

func sendToJournal(r record) error {
	// The fields of the journal: systemd.journal-fields(7), and our own.
	vars := map[string]string{"SYSLOG_IDENTIFIER": identifier}
	for _, f := range r.fields {
		vars[journalName(f.name)] = f.value
	}
	priority := journal.PriInfo
	switch {
	case r.level >= slog.LevelError:
		priority = journal.PriErr
	case r.level >= slog.LevelWarn:
		priority = journal.PriWarning
	}
	return journal.Send(r.text(), priority, vars)
}

// journalName is the name of a field in the journal: ERRNO is everybody's, the others
// are ours.
func journalName(name string) string {
	if name == "errno" {
		return "ERRNO"
	}
	valid := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return c
		}
		return '_'
	}, name)
	return "IDMOUNT_" + valid
}

func sendToSyslog(w *syslog.Writer, r record) error {
	var b strings.Builder
	b.WriteString(r.text())
	for _, f := range r.fields {
		if slices.Contains(mountFields, f.name) || f.name == "errno" {
			fmt.Fprintf(&b, " %s=%q", f.name, f.value)
		}
	}
	switch {
	case r.level >= slog.LevelError:
		return w.Err(b.String())
	case r.level >= slog.LevelWarn:
		return w.Warning(b.String())
	}
	return w.Info(b.String())
}
