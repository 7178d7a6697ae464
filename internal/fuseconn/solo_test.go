package fuseconn

import (
	"sync/atomic"
	"testing"
	"time"
)

// becomesSolo sends requests one at a time until one thread handles them alone.
func (k *kernel) becomesSolo() {
	k.t.Helper()
	for i := range 100 * soloStreak {
		k.quiet()
		if rs := &k.conn.readers; rs.solo.on.Load() && rs.solo.parked.Load() && rs.waiting.Load() <= 1 {
			return
		}
		if i%soloStreak == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	k.t.Fatal("requests one at a time do not make one thread handle them")
}

// TestSoloBlocks: a request that takes long keeps nobody waiting, not even if it
// is another that it waits for.
func TestSoloBlocks(t *testing.T) {
	const blocks, releases = 60, 61
	release := make(chan struct{}, 1)
	k := connect(t, func(in, out [][]byte) (int, bool) {
		switch opcodeOf(in[0]) {
		case blocks, opRelease:
			<-release
		case releases:
			release <- struct{}{}
		}
		return answer(in, out, "")
	})
	for i, op := range []uint32{blocks, opRelease, blocks} {
		k.becomesSolo()
		k.send(op, 10, nil)
		k.quiet()
		if k.conn.readers.solo.on.Load() {
			t.Errorf("%d: solo while a request blocks", i)
		}
		k.send(releases, 11, nil)
		got := map[uint64]bool{}
		for range 2 {
			unique, _, _ := k.receive()
			got[unique] = true
		}
		if !got[10] || !got[11] {
			t.Errorf("%d: answers to %v", i, got)
		}
	}
	if need := k.conn.readers.solo.need.Load(); need <= soloStreak {
		t.Errorf("after requests that took long, solo begins after %d", need)
	}
}

// TestSoloCrowd: requests that come at once are handled at once, however short
// each of them is.
func TestSoloCrowd(t *testing.T) {
	var inside, most atomic.Int32
	k := connect(t, func(in, out [][]byte) (int, bool) {
		n := inside.Add(1)
		defer inside.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if opcodeOf(in[0]) == 60 {
			time.Sleep(soloLook / 50)
		}
		return answer(in, out, "")
	})
	k.becomesSolo()
	most.Store(0)
	const requests = 400
	for i := range requests {
		k.send(60, uint64(1000+i), nil)
	}
	for range requests {
		k.receive()
	}
	if n := most.Load(); n < 2 {
		t.Errorf("%d at a time", n)
	}
}

// TestSoloIdle: nobody looks after threads that have nothing to do, and two of
// them wait.
func TestSoloIdle(t *testing.T) {
	k := connect(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "") })
	for range 3 {
		k.becomesSolo()
		rs := &k.conn.readers
		k.waitFor("solo goes on without requests", func() bool { return !rs.solo.on.Load() })
		k.waitFor("one thread alone waits for requests", func() bool { return rs.waiting.Load() == 2 })
	}
}

// TestSoloEnds: the connection's end finds the thread that is not needed, too.
func TestSoloEnds(t *testing.T) {
	for range 20 {
		k := connect(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "") })
		k.becomesSolo()
		k.hangUp()
	}
}

// TestRemoteIsNeverSolo: what waits for a server keeps nobody else waiting, not
// for a moment.
func TestRemoteIsNeverSolo(t *testing.T) {
	k := connectAs(t, true, func(in, out [][]byte) (int, bool) { return answer(in, out, "") })
	for range 4 * soloStreak {
		k.quiet()
		if k.conn.readers.solo.on.Load() {
			t.Fatal("solo")
		}
	}
}
