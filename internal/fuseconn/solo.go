package fuseconn

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Most callers ask for one thing after the other, and what they ask for is done
// in a moment. Then one thread does best that reads a request, handles it, and
// reads the next: it stays on its caller's processor, which goes from one to the
// other and back. Of two threads that take turns each is woken on the processor
// where it was last, and to wake an idle one takes longer than most requests.
//
// That is solo: a thread handles a request without another that waits for the
// next. It begins when requests have come one at a time for a while. It ends
// when they no longer do, and when one takes long, after which somebody looks:
// nobody is kept waiting by another's request for longer than two looks.
//
// On two processors company does not end it either: the callers keep one of them
// busy and one thread the other, and a second thread would take its turns from
// the first. There solo ends when a request has to sleep, for a disk or a lock,
// which every soloSample-th is asked; requests that move much data have company
// as elsewhere.

const (
	soloStreak = 32                   // requests one at a time before solo begins
	soloMost   = 4096                 // the same after requests have taken long again and again
	soloLook   = 5 * time.Millisecond // from one look to the next, which costs some 0.3
	soloIdle   = 4                    // looks without a request before solo ends
	soloSample = 8                    // every how many requests it is asked whether another waits
	soloCrowd  = 4                    // times in a row that it did before solo ends
	soloBulk   = 32 << 10             // bytes that are much data
)

// fewProcessors is for two. With one the second thread gets none in any case.
var fewProcessors = runtime.NumCPU() <= 2

type solo struct {
	on     atomic.Bool
	streak atomic.Int32 // requests one at a time
	need   atomic.Int32 // of a streak, before solo begins

	begun, done     atomic.Uint32 // requests
	asked, answered atomic.Uint32 // those of them whose callers wait

	began  chan struct{} // wakes the one who looks
	yield  atomic.Bool   // somebody has looked
	parked atomic.Bool   // a thread waits to be needed
	wake   chan struct{} // and for this
}

// turn is a thread's request at hand.
type turn struct {
	aside  bool   // no caller waits for it
	number uint32 // as solo.asked counts
	alone  bool   // no other was under way when it came
	crowd  int    // times in a row that another waited
	social bool   // company does not matter
	slept  int64  // how often the thread had when it came; -1 if that is not asked
}

// startSolo makes solo possible, which otherwise never begins.
func (c *Conn) startSolo() {
	s := &c.readers.solo
	s.need.Store(soloStreak)
	s.began, s.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	c.others.Go(c.lookAfterSolo)
}

// begin notes that a thread has read a message.
func (s *solo) begin(t *turn, message []byte) {
	s.begun.Add(1)
	t.aside = len(message) < inHeaderSize || !callerWaits(opcodeOf(message))
	if t.aside {
		return
	}
	t.number = s.asked.Add(1)
	t.alone = t.number-s.answered.Load() == 1
	t.social = fewProcessors && !bulky(message, soloBulk)
	t.slept = -1
	if t.social && t.number%soloSample == 0 && s.on.Load() {
		t.slept = timesSlept()
	}
}

// endTurn notes that the thread has handled its request, and has only the answer
// to write.
func (c *Conn) endTurn(t *turn) {
	s := &c.readers.solo
	s.done.Add(1)
	if t.aside {
		return
	}
	s.answered.Add(1)
	switch {
	case s.began == nil:
	case t.slept >= 0 && t.slept != timesSlept():
		c.endSoloFor(2 * s.need.Load())
	case !t.social && (!t.alone || s.asked.Load() != t.number):
		s.streak.Store(0)
	case s.streak.Add(1) >= s.need.Load() && s.on.CompareAndSwap(false, true):
		select {
		case s.began <- struct{}{}:
		default: // the last time has not been noticed yet
		}
	}
}

// isSolo reports whether the thread that has read a request may handle it
// without another that waits. If not, solo is over.
func (c *Conn) isSolo(r *reader) bool {
	switch s := &c.readers.solo; {
	case !s.on.Load():
		return false
	case r.aside:
		return true
	case mayTakeLong(opcodeOf(r.in())):
	case r.social || r.alone && !r.crowded():
		return true
	}
	c.endSolo()
	return false
}

// crowded reports whether others wait while this thread handles requests.
func (r *reader) crowded() bool {
	if r.number%soloSample != 0 && r.crowd == 0 {
		return false
	}
	if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, 0); n <= 0 {
		r.crowd = 0
		return false
	}
	r.crowd++
	return r.crowd >= soloCrowd
}

// timesSlept returns how often this thread has given its processor up in order to
// wait. It is another number if the goroutine has meanwhile gone to another
// thread, which it does when it was away for long.
func timesSlept() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &u) != nil {
		return 0
	}
	return u.Nvcsw
}

// endSoloFor ends solo, which begins again after a streak of so many requests.
func (c *Conn) endSoloFor(streak int32) {
	c.readers.solo.need.Store(min(streak, soloMost))
	c.endSolo()
}

// endSolo has one more thread wait for requests.
func (c *Conn) endSolo() {
	s := &c.readers.solo
	s.streak.Store(0)
	s.on.Store(false)
	c.unpark()
}

// park keeps a thread that solo has no use for, and returns when it has. It
// returns false to one that may leave, since there is another here.
func (c *Conn) park() bool {
	rs := &c.readers
	if !rs.solo.parked.CompareAndSwap(false, true) {
		return false
	}
	// The one that waited for requests may have got one meanwhile, or solo may
	// have ended, by somebody who saw nobody here.
	if rs.waiting.Load() == 0 || !rs.solo.on.Load() {
		c.unpark()
	}
	<-rs.solo.wake
	return true
}

// unpark has the parked thread wait for requests, if there is one.
func (c *Conn) unpark() {
	s := &c.readers.solo
	if s.parked.CompareAndSwap(true, false) {
		c.readers.waiting.Add(1)
		s.wake <- struct{}{}
	}
}

// pause is called by a thread between two requests. A goroutine that does not let
// go of the processor for 10 ms is taken from it by Go's scheduler, which then
// looks after it every 20 µs for a while: that costs a sixth of the time.
func (s *solo) pause() {
	if s.yield.Load() {
		s.yield.Store(false)
		runtime.Gosched()
	}
}

// lookAfterSolo ends it when a request takes long, and when there are none, so
// that nobody has to look.
func (c *Conn) lookAfterSolo() {
	s := &c.readers.solo
	for {
		select {
		case <-s.began:
		case <-c.flights.over:
			return
		}
		first := s.done.Load()
		for begun, done, idle := s.begun.Load(), first, 0; s.on.Load(); {
			select {
			case <-time.After(soloLook):
			case <-c.flights.over:
				return
			}
			s.yield.Store(true)
			b, d := s.begun.Load(), s.done.Load()
			switch {
			case d != done:
				idle = 0
				if d-first > soloMost {
					s.need.Store(soloStreak)
				}
			case b == d:
				if idle++; idle == soloIdle {
					c.endSolo()
				}
			case b == begun: // what was under way at the last look still is
				c.endSoloFor(2 * s.need.Load())
			}
			begun, done = b, d
		}
	}
}
