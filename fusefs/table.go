package fusefs

import (
	"maps"
	"math/bits"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

const (
	chunkBits = 10
	chunkSize = 1 << chunkBits
	maxChunks = 1 << 16 // 67 million nodes at a time
	rootID    = 1
)

// table finds nodes by id, without a lock, and by identity.
//
// An id is an index and, above it, how many ids its chunk of the index space
// had given out before: ids are never used twice, so a stale one is noticed.
// When the kernel forgets most of what it knew, the memory goes back.
type table struct {
	chunks [maxChunks]atomic.Pointer[chunk]

	mu    sync.Mutex
	byKey map[string]*node
	most  int               // entries that byKey has had since it was made
	given [maxChunks]uint32 // ids, by chunk
	room  []uint32          // chunks with free indices, the next one last
	begun uint32            // chunks that have ever been used
}

// chunk is the nodes of consecutive indices.
type chunk struct {
	nodes [chunkSize]atomic.Pointer[node]

	// Guarded by table.mu.
	used  [chunkSize / 64]uint64
	count int
}

// manyNodes is from where on it pays to give memory back.
const manyNodes = 1 << 14

func newTable(root *node) *table {
	t := &table{byKey: make(map[string]*node), begun: 1}
	root.id = rootID
	root.refs = 1 << 62 // the kernel never forgets the root
	c := &chunk{count: 2}
	c.used[0] = 1 | 1<<rootID // 0 is no id
	c.nodes[rootID].Store(root)
	t.chunks[0].Store(c)
	t.given[0] = 1
	t.room = []uint32{0}
	t.byKey[root.key] = root
	return t
}

// get returns nil for an id that is not in use.
func (t *table) get(id uint64) *node {
	index := id & (1<<32 - 1)
	if index>>chunkBits >= maxChunks {
		return nil
	}
	c := t.chunks[index>>chunkBits].Load()
	if c == nil {
		return nil
	}
	n := c.nodes[index&(chunkSize-1)].Load()
	if n == nil || n.id != id {
		return nil
	}
	return n
}

// intern returns the known node with fresh's identity or makes fresh known,
// and counts a look-up of it. nil means that there are no more ids.
func (t *table) intern(fresh *node) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byKey[fresh.key]; n != nil {
		n.refs++
		return n
	}
	fresh.refs = 1
	if !t.add(fresh) {
		return nil
	}
	return fresh
}

func (t *table) add(n *node) bool {
	for {
		if len(t.room) == 0 {
			if t.begun == maxChunks {
				return false
			}
			t.room = append(t.room, t.begun)
			t.begun++
		}
		last := len(t.room) - 1
		number := t.room[last]
		if t.given[number] == 1<<32-1 {
			t.room = t.room[:last]
			continue
		}
		c := t.chunks[number].Load()
		if c == nil {
			c = new(chunk)
			t.chunks[number].Store(c)
		}
		slot := c.take()
		if c.count == chunkSize {
			t.room = t.room[:last]
		}
		n.id = uint64(t.given[number])<<32 | uint64(number)<<chunkBits | uint64(slot)
		t.given[number]++
		c.nodes[slot].Store(n)
		t.byKey[n.key] = n
		t.most = max(t.most, len(t.byKey))
		return true
	}
}

// take takes a free index, of which there is one.
func (c *chunk) take() int {
	i := 0
	for c.used[i] == ^uint64(0) {
		i++
	}
	bit := bits.TrailingZeros64(^c.used[i])
	c.used[i] |= 1 << bit
	c.count++
	return i*64 + bit
}

// find returns the known node with an identity, without counting a look-up.
func (t *table) find(key string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[key]
}

// each calls fn for the nodes that are known all the while.
func (t *table) each(fn func(*node)) {
	for i := range t.chunks {
		c := t.chunks[i].Load()
		if c == nil {
			continue
		}
		for j := range c.nodes {
			if n := c.nodes[j].Load(); n != nil {
				fn(n)
			}
		}
	}
}

// forget takes back count look-ups and returns the node if those were the last.
func (t *table) forget(id, count uint64) *node {
	n := t.get(id)
	if n == nil || id == rootID {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if count > n.refs {
		count = n.refs
	}
	n.refs -= count
	if n.refs > 0 || t.get(id) != n {
		return nil
	}
	delete(t.byKey, n.key)
	t.release(id)
	if t.most >= manyNodes && len(t.byKey) < t.most/8 {
		// A map keeps the room of all that it ever held.
		kept := make(map[string]*node, len(t.byKey))
		maps.Copy(kept, t.byKey)
		t.byKey, t.most = kept, len(kept)
		go debug.FreeOSMemory()
	}
	return n
}

// release gives the index of an id back.
func (t *table) release(id uint64) {
	index := id & (1<<32 - 1)
	number, slot := uint32(index>>chunkBits), index&(chunkSize-1)
	c := t.chunks[number].Load()
	c.nodes[slot].Store(nil)
	c.used[slot/64] &^= 1 << (slot % 64)
	if c.count == chunkSize {
		t.room = append(t.room, number)
	}
	if c.count--; c.count == 0 {
		t.chunks[number].Store(nil)
	}
}
