package testenv

import (
	"testing"
	"time"
)

// Patience is how long a test waits for what has to happen. It is no measure of
// speed: a machine that does ten other things must not reach it.
const Patience = 5 * time.Minute

// WaitFor returns when ok is true, and fails the test with what is wrong if it never is.
func WaitFor(t testing.TB, wrong string, ok func() bool) {
	t.Helper()
	if !Becomes(ok) {
		t.Fatalf("after %v still: %s", Patience, wrong)
	}
}

// Becomes waits for ok, and reports whether it became true.
func Becomes(ok func() bool) bool {
	pause := 100 * time.Microsecond
	for end := time.Now().Add(Patience); !ok(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// Returns fails the test with what is wrong if fn never returns.
func Returns(t testing.TB, wrong string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(Patience):
		t.Fatalf("after %v still: %s", Patience, wrong)
	}
}
