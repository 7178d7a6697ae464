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
		if table.get(n.id) != nil || table.find(n.key) != nil || table.forget(n.id, 1) != nil {
			t.Fatalf("node %d is known after it was forgotten", n.id)
		}
	}
	for _, n := range known {
		if table.get(n.id) != n || table.find(n.key) != n {
			t.Fatalf("node %d is not known", n.id)
		}
		table.forget(n.id, 1)
	}
	count := 0
	table.each(func(n *node) { count++ })
	if count != 1 || len(table.byKey) != 1 || table.get(rootID) != root {
		t.Errorf("%d nodes by id and %d by key are left, want the root alone", count, len(table.byKey))
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
