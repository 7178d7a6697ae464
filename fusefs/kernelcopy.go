package fusefs

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// kernelCopy says which attributes of a node the kernel has, and judges by: a
// fingerprint of those in the last answer, and whether that is all it can have.
//
// The kernel may apply two answers in either order, or drop the later one
// (fuse_change_attributes). So after an answer with other attributes than the one
// before, it may have either, until two more answers with the same attributes have
// come: one after all earlier answers are applied, and one after that one is. Only
// the answer to a SETATTR is always applied, and nothing older after it.
//
// The word has a fingerprint of 44 bits, a stage of 2 and a time of 18, in seconds.
// The zero value says that the kernel has nothing.
type kernelCopy struct{ word atomic.Uint64 }

// The stages of a kernelCopy.
const (
	copyNone    = iota // the kernel has nothing
	copySure           // it has what the last answer said
	copyChanged        // it may have something older
	copyAgain          // it was told again, when older answers were out of the way
)

const (
	timeBits  = 18
	timeMask  = 1<<timeBits - 1
	stageMask = 3

	// applyTime is far longer than an answer is under way: from when the server
	// reads the attributes to when the kernel has applied them.
	applyTime = 30
)

// copyOf makes a word.
func copyOf(fingerprint uint64, stage uint64, due uint32) uint64 {
	return fingerprint&^(1<<(timeBits+2)-1) | stage<<timeBits | uint64(due)&timeMask
}

// same reports whether a word has a fingerprint.
func same(word, fingerprint uint64) bool { return (word^fingerprint)>>(timeBits+2) == 0 }

func stageOf(word uint64) uint64 { return word >> timeBits & stageMask }

// isDue reports whether the time of a word is past. A time half of the range away
// counts as one to come.
func isDue(word uint64, now uint32) bool { return (now-uint32(word&timeMask))&timeMask < timeMask/2 }

// seconds is a clock that only goes on.
func seconds() uint32 { return uint32(time.Since(started) / time.Second) }

// sent notes an answer, before it is given.
func (c *kernelCopy) sent(fingerprint uint64) {
	for {
		old := c.word.Load()
		next := afterAnswer(old, fingerprint)
		if next == old || c.word.CompareAndSwap(old, next) {
			return
		}
	}
}

func afterAnswer(old, fingerprint uint64) uint64 {
	stage := stageOf(old)
	switch {
	case stage == copyNone:
		return copyOf(fingerprint, copySure, 0)
	case !same(old, fingerprint):
		return copyOf(fingerprint, copyChanged, seconds()+applyTime)
	case stage == copySure:
		return old
	}
	now := seconds()
	switch {
	case !isDue(old, now):
		return old
	case stage == copyChanged:
		return copyOf(fingerprint, copyAgain, now+applyTime)
	}
	return copyOf(fingerprint, copySure, 0)
}

// replaced notes an answer to a SETATTR, before it is given.
func (c *kernelCopy) replaced(fingerprint uint64) { c.word.Store(copyOf(fingerprint, copySure, 0)) }

// dropped notes that the kernel has nothing any more.
func (c *kernelCopy) dropped() { c.word.Store(0) }

// none reports whether the kernel has nothing.
func (c *kernelCopy) none() bool { return stageOf(c.word.Load()) == copyNone }

// is reports whether the kernel has this, and can have nothing else.
func (c *kernelCopy) is(fingerprint uint64) bool {
	word := c.word.Load()
	if !same(word, fingerprint) {
		return false
	}
	switch stageOf(word) {
	case copySure:
		return true
	case copyAgain:
		return isDue(word, seconds())
	}
	return false
}

// fingerprintKey is secret: nobody can choose owners with the same fingerprint.
var fingerprintKey = [4]uint64{rand.Uint64() | 1, rand.Uint64() | 1, rand.Uint64() | 1, rand.Uint64() | 1}

// fingerprint is that of the owners and the mode of a node.
func (n *node) fingerprint(uid, gid, mode uint32) uint64 {
	a := mix(uint64(uid)<<32|uint64(gid), n.id)
	return mix(a, uint64(mode))
}

// fingerprintACL is that of an ACL as it is on disk, empty if there is none.
func (n *node) fingerprintACL(acl []byte) uint64 {
	h := mix(uint64(len(acl)), n.id)
	for len(acl) > 0 {
		var part [8]byte
		acl = acl[copy(part[:], acl):]
		h = mix(h, uint64(part[0])|uint64(part[1])<<8|uint64(part[2])<<16|uint64(part[3])<<24|
			uint64(part[4])<<32|uint64(part[5])<<40|uint64(part[6])<<48|uint64(part[7])<<56)
	}
	return h
}

func mix(a, b uint64) uint64 {
	k := &fingerprintKey
	hi, lo := bits.Mul64(a^k[0], b^k[1])
	hi2, lo2 := bits.Mul64(hi^k[2], lo^k[3])
	return hi2 ^ lo2 ^ lo
}

// shown notes an answer with the attributes of a node, before it is given.
func (n *node) shown(st *unix.Stat_t) { n.attrs.sent(n.fingerprint(st.Uid, st.Gid, st.Mode)) }
