package fusefs

import (
	"container/list"
	"maps"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// pins are nodes that can't be found again, and whose descriptor therefore stays: their
// last name is gone, or, without handles, the one that they were found by. The kernel
// may still have such a file: by O_PATH, as a working directory, or open in a way of
// which the server is not told.
//
// A pin ends when the kernel forgets the node, which for most is at once, or when it is
// found by another name. Nothing else ends it, and users decide how many there are. So
// their number is bounded: the oldest one of the user who has most is given up for a
// new one. What it was of then is ESTALE.
type pins struct {
	most  int
	count int
	users map[uint32]*list.List // by uid: *node, the oldest first
}

// keptLists is how many users without pins keep their empty lists.
const keptLists = 64

// pin keeps the descriptor of a node, which it has, for a user. It does nothing for one
// that the kernel has forgotten meanwhile.
func (c *fdCache) pin(n *node, uid uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := n.held
	if h == nil || h.fd < 0 || h.forgotten || h.pin != nil {
		return
	}
	p := &c.pins
	if p.count >= p.most {
		c.giveUp()
	}
	if p.users == nil {
		p.users = make(map[uint32]*list.List)
	}
	if p.users[uid] == nil {
		p.users[uid] = list.New()
	}
	h.pin, h.pinner = p.users[uid].PushBack(n), uid
	p.count++
}

// giveUp ends the oldest pin of the user who has most. mu is held.
func (c *fdCache) giveUp() {
	var most *list.List
	for l := range maps.Values(c.pins.users) {
		if most == nil || l.Len() > most.Len() {
			most = l
		}
	}
	if most != nil {
		c.unpin(most.Front().Value.(*node).held)
	}
}

// unpin ends the pin of a node, if it has one: it can be evicted from now on. mu is held.
func (c *fdCache) unpin(h *held) {
	if h.pin == nil {
		return
	}
	l := c.pins.users[h.pinner]
	l.Remove(h.pin)
	if l.Len() == 0 && len(c.pins.users) > keptLists {
		delete(c.pins.users, h.pinner)
	}
	h.pin = nil
	c.pins.count--
}

// crowded reports whether a quarter of the pins is taken. Only from then on is it worth
// to find out whose they are.
func (c *fdCache) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pins.count >= c.pins.most/4
}

func (c *fdCache) setBudget(n int) { c.budget, c.pins.most = n, n/2 }

// mayPin reports whether a pin for a user would take that of nobody else away.
func (c *fdCache) mayPin(uid uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := 0
	if l := c.pins.users[uid]; l != nil {
		own = l.Len()
	}
	left := c.pins.most - c.pins.count
	return left > 0 && (uid == 0 || c.pins.count < c.pins.most/4 || own < left)
}

// pinNameless is for a file that is open for the last time, as fh, and may have lost
// its last name: somebody may still have it by O_PATH.
func (f *FS) pinNameless(n *node, fh uint64) {
	o := f.files.get(fh)
	u := f.path(n)
	if o == nil || u.errno != 0 {
		u.done()
		return
	}
	defer func() { u.done() }()
	var st unix.Stat_t
	if errno := sys.Stat(u.fd, &st); errno != 0 || st.Nlink > 0 && f.mountOf(n) != nil || f.renames {
		return
	}
	u = f.fds.lend(n, u)
	f.fds.pin(n, o.uid)
}
