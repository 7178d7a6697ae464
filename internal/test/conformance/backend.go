package conformance

import (
	"os"
	"testing"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

var defaultBackends = []string{"relay", "translate"}

// MountBackend mounts source by a backend, as users of the module do, until
// the test ends.
func MountBackend(t testing.TB, source string, m *Map, backend string) string {
	t.Helper()
	return MountWith(t, source, m, backend, optionsFromEnv(t))
}

// optionsFromEnv are those that a run is to be made with: IDMOUNT_CACHE_MODE as
// for --cache, IDMOUNT_PASSTHROUGH=no for a request each read and write, and
// IDMOUNT_TRANSPORT as for --transport.
func optionsFromEnv(t testing.TB) idmount.Options {
	t.Helper()
	cache, err := idmount.ParseCache(os.Getenv("IDMOUNT_CACHE_MODE"))
	if err != nil {
		t.Fatal(err)
	}
	transport, err := idmount.ParseTransport(os.Getenv("IDMOUNT_TRANSPORT"))
	if err != nil {
		t.Fatal(err)
	}
	if transport == idmount.TransportRing {
		testenv.IOUring(t)
	}
	return idmount.Options{Cache: cache, NoPassthrough: os.Getenv("IDMOUNT_PASSTHROUGH") == "no", Transport: transport}
}

// MountWith is MountBackend with options. Of those, Map, Backend and Daemon
// are not used.
func MountWith(t testing.TB, source string, m *Map, backend string, o idmount.Options) string {
	t.Helper()
	target := testenv.Dir(t)
	o.Map, o.Backend, o.Daemon = m.IDMap(t), idmount.Backend(backend), testenv.Binary(t)
	if o.Stacking == "" {
		o.Stacking = "0" // passthrough wherever it is possible
	}
	mounted, err := idmount.Mount(t.Context(), source, target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !o.Recursive {
			testenv.Unmount(t, target)
		} else if err := idmount.Unmount(target, false); err != nil {
			t.Error(err)
		}
	})
	if mounted.Backend != idmount.Backend(backend) {
		t.Fatalf("mounted by %s (%s), want %s", mounted.Backend, mounted.Reason, backend)
	}
	return target
}

// IDMap is the map as the module knows it.
func (m *Map) IDMap(t testing.TB) idmap.Map {
	t.Helper()
	out, err := idmap.New(extents(m.UIDs), extents(m.GIDs))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func extents(in []Extent) []idmap.Extent {
	var out []idmap.Extent
	for _, e := range in {
		out = append(out, idmap.Extent(e))
	}
	return out
}
