package fusefs

import (
	"hash/maphash"
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
	seed   maphash.Seed
	byKey  [shards]shard

	mu    sync.Mutex        // taken with a shard's held
	known int               // nodes
	most  int               // that there were since memory was given back
	given [maxChunks]uint32 // ids, by chunk
	room  []uint32          // chunks with free indices, the next one last
	begun uint32            // chunks that have ever been used
}

// shards are so many that one has few nodes: making it larger is done with its
// lock held.
const shards = 256

// shard finds nodes by identity. It is a hash table with linear probing that
// holds no pointers: a map from keys to nodes takes three times the memory, and
// the garbage collector looks at all of it.
type shard struct {
	mu    sync.Mutex
	slots []uint64 // 32 bits of the key's hash, and the node's index; 0 is free
	used  int
}

const leastSlots = 8

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
	t := &table{seed: maphash.MakeSeed(), begun: 1, known: 1}
	root.id = rootID
	root.refs = manyRefs // the kernel never forgets the root
	c := &chunk{count: 2}
	c.used[0] = 1 | 1<<rootID // 0 is no id
	c.nodes[rootID].Store(root)
	t.chunks[0].Store(c)
	t.given[0] = 1
	t.room = []uint32{0}
	s, hash := t.shard([]byte(root.key))
	s.insert(hash, rootID)
	return t
}

// shard returns where a key belongs, and its hash there.
func (t *table) shard(key []byte) (*shard, uint32) {
	hash := maphash.Bytes(t.seed, key)
	return &t.byKey[hash>>32%shards], uint32(hash)
}

// at returns the node with an index that is in use.
func (t *table) at(index uint32) *node {
	return t.chunks[index>>chunkBits].Load().nodes[index&(chunkSize-1)].Load()
}

// find returns the node with a key, and its slot.
func (s *shard) find(t *table, hash uint32, key []byte) (*node, int) {
	if len(s.slots) == 0 {
		return nil, 0
	}
	mask := len(s.slots) - 1
	for i := int(hash) & mask; s.slots[i] != 0; i = (i + 1) & mask {
		if uint32(s.slots[i]>>32) == hash {
			if n := t.at(uint32(s.slots[i])); n.key == string(key) {
				return n, i
			}
		}
	}
	return nil, 0
}

func (s *shard) insert(hash, index uint32) {
	if (s.used+1)*16 > len(s.slots)*13 {
		s.resize(max(leastSlots, 2*len(s.slots)))
	}
	s.place(uint64(hash)<<32 | uint64(index))
	s.used++
}

func (s *shard) place(entry uint64) {
	mask := len(s.slots) - 1
	i := int(entry>>32) & mask
	for s.slots[i] != 0 {
		i = (i + 1) & mask
	}
	s.slots[i] = entry
}

func (s *shard) resize(size int) {
	old := s.slots
	s.slots = make([]uint64, size)
	for _, entry := range old {
		if entry != 0 {
			s.place(entry)
		}
	}
}

// remove frees a slot. Entries behind it that would no longer be found move up.
func (s *shard) remove(i int) {
	mask := len(s.slots) - 1
	for j := (i + 1) & mask; s.slots[j] != 0; j = (j + 1) & mask {
		home := int(s.slots[j]>>32) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.slots[i] = s.slots[j]
			i = j
		}
	}
	s.slots[i] = 0
	s.used--
	if len(s.slots) > leastSlots && s.used < len(s.slots)/8 {
		s.resize(len(s.slots) / 4)
	}
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

// lookup returns the known node with an identity, and counts a look-up of it.
func (t *table) lookup(key []byte) *node {
	s, hash := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _ := s.find(t, hash, key)
	if n != nil && n.refs < manyRefs {
		n.refs++
	}
	return n
}

// intern returns the known node with fresh's identity or makes fresh known,
// and counts a look-up of it. nil means that there are no more ids.
func (t *table) intern(fresh *node) *node {
	key := []byte(fresh.key)
	s, hash := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, _ := s.find(t, hash, key); n != nil {
		if n.refs < manyRefs {
			n.refs++
		}
		return n
	}
	fresh.refs = 1
	if !t.add(fresh) {
		return nil
	}
	s.insert(hash, uint32(fresh.id))
	return fresh
}

// supersede is intern where old is known by fresh's identity and is another file.
func (t *table) supersede(old, fresh *node) *node {
	key := []byte(fresh.key)
	s, hash := t.shard(key)
	s.mu.Lock()
	if n, slot := s.find(t, hash, key); n == old {
		s.remove(slot)
	}
	s.mu.Unlock()
	return t.intern(fresh)
}

// add gives a node an id.
func (t *table) add(n *node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
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
		t.known++
		t.most = max(t.most, t.known)
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
func (t *table) find(key []byte) *node {
	s, hash := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _ := s.find(t, hash, key)
	return n
}

// len returns how many nodes there are.
func (t *table) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known
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
	key := []byte(n.key)
	s, hash := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.refs == manyRefs {
		return nil
	}
	n.refs -= uint32(min(count, uint64(n.refs)))
	if n.refs > 0 || t.get(id) != n {
		return nil
	}
	if found, slot := s.find(t, hash, key); found == n {
		s.remove(slot)
	}
	t.release(id)
	return n
}

// release gives an id back.
func (t *table) release(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
	t.known--
	if t.most >= manyNodes && t.known < t.most/8 {
		t.most = t.known
		go debug.FreeOSMemory()
	}
}
