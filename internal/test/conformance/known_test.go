package conformance

import (
	"slices"
	"testing"
)

// TestKnownAreNarrow looks for rules that would accept whatever a backend does.
func TestKnownAreNarrow(t *testing.T) {
	for _, k := range slices.Concat(KnownDifferences, sourceDifferences, exclusively, byRequests) {
		if !k.Narrow() {
			t.Errorf("it says neither what differs nor why: %s", k.Reason)
		}
	}
}
