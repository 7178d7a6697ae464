package fusefs

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Ids are never given out twice, and the table is empty after all is forgotten,
// whatever the order.
func TestTableGivesEachIDOnce(t *testing.T) {
	root := &node{key: "root"}
	table := newTable(root)
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[uint64]bool{rootID: true}
	var known []*node
	for i := range 200000 {
		// Phases of growth and of shrinking, past the boundaries of chunks.
		if grow := i/20000%2 == 0; random.IntN(10) < 7 == grow || len(known) == 0 {
			n := table.intern(&node{key: fmt.Sprint(i)})
			if n == nil || seen[n.id] {
				t.Fatalf("node %d: %+v, its id was used before", i, n)
			}
			seen[n.id] = true
			known = append(known, n)
			continue
		}
		at := random.IntN(len(known))
		n := known[at]
		known[at] = known[len(known)-1]
		known = known[:len(known)-1]
		if got := table.forget(n.id, 1); got != n {
			t.Fatalf("forget %d: %p, want %p", n.id, got, n)
		}
		if table.get(n.id) != nil || table.find([]byte(n.key)) != nil || table.forget(n.id, 1) != nil {
			t.Fatalf("node %d is known after it was forgotten", n.id)
		}
	}
	for _, n := range known {
		if table.get(n.id) != n || table.find([]byte(n.key)) != n {
			t.Fatalf("node %d is not known", n.id)
		}
		table.forget(n.id, 1)
	}
	count := 0
	table.each(func(n *node) { count++ })
	if count != 1 || table.len() != 1 || table.get(rootID) != root {
		t.Errorf("%d nodes by id and %d by key are left, want the root alone", count, table.len())
	}
	for number := range table.chunks[1:] {
		if table.chunks[number+1].Load() != nil {
			t.Errorf("chunk %d is empty and kept", number+1)
		}
	}
	if len(table.room) != int(table.begun) {
		t.Errorf("%d chunks have room, want all %d", len(table.room), table.begun)
	}
}

// A node whose look-ups are no longer counted stays.
func TestTableKeepsWhatItCannotCount(t *testing.T) {
	table := newTable(&node{key: "root"})
	n := table.intern(&node{key: "node"})
	n.refs = manyRefs - 1
	for range 3 {
		if got := table.lookup([]byte("node")); got != n {
			t.Fatalf("look up: %p, want %p", got, n)
		}
	}
	if table.forget(n.id, manyRefs+2) != nil || table.get(n.id) != n {
		t.Error("the node is forgotten with more look-ups than were counted")
	}
}

// Entries stay to be found whatever is removed from between them, with hashes
// that all begin at a few places.
func TestShard(t *testing.T) {
	table := newTable(&node{key: "root"})
	s := new(shard)
	random := rand.New(rand.NewPCG(3, 4))
	hashes := make(map[*node]uint32)
	var known []*node
	for i := range 20000 {
		if grow := i/2000%2 == 0; random.IntN(10) < 7 == grow || len(known) == 0 {
			n := &node{key: fmt.Sprint(i)}
			table.add(n)
			hashes[n] = uint32(random.IntN(4)*5 - 1) // the last slot too
			s.insert(hashes[n], uint32(n.id))
			known = append(known, n)
		} else {
			at := random.IntN(len(known))
			n := known[at]
			known[at] = known[len(known)-1]
			known = known[:len(known)-1]
			_, slot := s.find(table, hashes[n], []byte(n.key))
			s.remove(slot)
			if got, _ := s.find(table, hashes[n], []byte(n.key)); got != nil {
				t.Fatalf("node %s is found after it was removed", n.key)
			}
			table.release(n.id)
		}
		if i%500 == 0 {
			for _, n := range known {
				if got, _ := s.find(table, hashes[n], []byte(n.key)); got != n {
					t.Fatalf("step %d: node %s is not found", i, n.key)
				}
			}
		}
	}
	if s.used != len(known) {
		t.Errorf("%d entries, want %d", s.used, len(known))
	}
}
