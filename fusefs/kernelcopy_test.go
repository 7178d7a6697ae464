package fusefs

import "testing"

// TestKernelCopy: after an answer with other attributes, the kernel may have either until
// two more answers have come in time.
func TestKernelCopy(t *testing.T) {
	n := &node{id: 7}
	alice, root := n.fingerprint(1000, 1000, 0o100755), n.fingerprint(0, 0, 0o100755)
	// pass has the due time of the stage pass.
	pass := func(c *kernelCopy) {
		word := c.word.Load()
		c.word.Store(copyOf(word, stageOf(word), seconds()-1))
	}
	check := func(c *kernelCopy, what string, fingerprint uint64, want bool) {
		t.Helper()
		if got := c.is(fingerprint); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	var c kernelCopy
	if !c.none() {
		t.Error("a new one has something")
	}
	c.sent(alice)
	check(&c, "first", alice, true)
	check(&c, "another owner", root, false)
	c.sent(root)
	check(&c, "changed", root, false)
	check(&c, "the one before", alice, false)
	c.sent(root)
	pass(&c)
	check(&c, "changed, and never told again", root, false)
	c.sent(root)
	check(&c, "told again a moment ago", root, false)
	pass(&c)
	check(&c, "told again", root, true)
	c.sent(root)
	if stageOf(c.word.Load()) != copySure {
		t.Error("not sure after three answers")
	}
	c.sent(alice)
	c.replaced(root)
	check(&c, "the answer to a SETATTR", root, true)
	c.sent(alice)
	c.sent(root)
	c.sent(root)
	check(&c, "there and back", root, false)
	c.dropped()
	if !c.none() {
		t.Error("something is left")
	}
	if n.fingerprint(0, 0, 0o100755) == (&node{id: 8}).fingerprint(0, 0, 0o100755) {
		t.Error("two nodes have the same fingerprint")
	}
}
