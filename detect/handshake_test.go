package detect

import (
	"context"
	"errors"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

// TestProbeMountEarly has the probe's requests answered while the mount is being made, as
// on a kernel with SELinux. All of it says the same, and a refused INIT ends it.
func TestProbeMountEarly(t *testing.T) {
	testenv.RequireRoot(t)
	defer func(was func() bool) { runsSELinux = was }(runsSELinux)
	for _, early := range []bool{false, true} {
		runsSELinux = func() bool { return early }
		dev, tree, p, err := probeMount(context.Background(), flagPosixACL, 0)
		if err != nil || p == nil || p.Major != 7 {
			t.Fatalf("early %t: %+v, %v", early, p, err)
		}
		tree.Close()
		dev.Close()
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		dev, tree, _, err = probeMount(gone, flagPosixACL, 0)
		if dev == nil || tree != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("early %t, cancelled: %v, %v, %v", early, dev, tree, err)
		}
		dev.Close()
	}
}
