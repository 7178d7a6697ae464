package fuseconn

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	for _, few := range []bool{true, false} {
		t.Run(fmt.Sprint("few ", few), func(t *testing.T) {
			processors(t, few)
			testSoloBlocks(t)
		})
	}
}

func testSoloBlocks(t *testing.T) {
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
	solo := &k.conn.readers.solo
	for i, op := range []uint32{blocks, opRelease, blocks} {
		k.becomesSolo()
		k.send(op, 10, nil)
		k.quiet()
		// A thread that was not parked yet goes on alone until somebody looks.
		k.waitFor("solo while a request blocks", func() bool { return !solo.on.Load() })
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
	if need := solo.need.Load(); need <= soloStreak {
		t.Errorf("after requests that took long, solo begins after %d", need)
	}
}

// processors has the connections of a test think that there are few processors,
// or many.
func processors(t *testing.T, few bool) {
	old := fewProcessors
	t.Cleanup(func() { fewProcessors = old }) // after the connections have ended
	fewProcessors = few
}

// TestSoloCompany: on two processors one thread handles short requests that come
// at once.
func TestSoloCompany(t *testing.T) {
	processors(t, true)
	k := connect(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "") })
	stays := 0
	for range 20 {
		k.becomesSolo()
		const crowd = 64
		for i := range crowd {
			k.send(60, uint64(1000+i), nil)
		}
		for range crowd {
			k.receive()
		}
		if k.conn.readers.solo.on.Load() {
			stays++
		}
	}
	// The garbage collector may have a thread sleep at any time.
	if stays == 0 {
		t.Error("a crowd ends solo")
	}
}

// TestSoloBulk: much data is moved by several threads, on two processors too.
func TestSoloBulk(t *testing.T) {
	for _, few := range []bool{true, false} {
		processors(t, few)
		var s solo
		var small, large turn
		s.begin(&small, make([]byte, soloBulk))
		s.begin(&large, make([]byte, soloBulk+1))
		if small.social != few || large.social {
			t.Errorf("few processors %v: company does not matter: %v for little data, %v for much", few, small.social, large.social)
		}
	}
}

// TestBulky: a READ has its data in the answer.
func TestBulky(t *testing.T) {
	read := func(size uint32) []byte {
		m := make([]byte, inHeaderSize+40)
		binary.NativeEndian.PutUint32(m[4:], opRead)
		binary.NativeEndian.PutUint32(m[inHeaderSize+16:], size)
		return m
	}
	if bulky(read(4096), 4096) || !bulky(read(4097), 4096) || bulky(read(1 << 20)[:inHeaderSize+19], 4096) {
		t.Error("READ")
	}
	write := make([]byte, 4096)
	if bulky(write, 4096) || !bulky(append(write, 0), 4096) {
		t.Error("WRITE")
	}
}

// TestSoloCrowd: requests that sleep are handled at once, however short each of
// them is.
func TestSoloCrowd(t *testing.T) {
	for _, few := range []bool{true, false} {
		t.Run(fmt.Sprint("few ", few), func(t *testing.T) {
			processors(t, few)
			testSoloCrowd(t)
		})
	}
}

func testSoloCrowd(t *testing.T) {
	var inside, most atomic.Int32
	k := connect(t, func(in, out [][]byte) (int, bool) {
		n := inside.Add(1)
		defer inside.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if opcodeOf(in[0]) == 60 {
			ts := unix.NsecToTimespec(int64(soloLook / 50))
			unix.Nanosleep(&ts, nil) // as a call that waits for a disk
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
