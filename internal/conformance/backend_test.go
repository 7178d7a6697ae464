package conformance

import (
	"testing"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/testenv"
)

var defaultBackends = []string{"relay", "translate"}

// mountBackend mounts the source of b by a backend, as users of the module do.
func mountBackend(t *testing.T, b *bench, backend string) string {
	t.Helper()
	m, err := idmap.New(extents(b.m.UIDs), extents(b.m.GIDs))
	if err != nil {
		t.Fatal(err)
	}
	target := testenv.Dir(t)
	mounted, err := idmount.Mount(t.Context(), b.source, target, idmount.Options{
		Map:     m,
		Backend: idmount.Backend(backend),
		Daemon:  testenv.Binary(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { testenv.Unmount(t, target) })
	if mounted.Backend != idmount.Backend(backend) {
		t.Fatalf("mounted by %s (%s), want %s", mounted.Backend, mounted.Reason, backend)
	}
	return target
}

func extents(in []Extent) []idmap.Extent {
	var out []idmap.Extent
	for _, e := range in {
		out = append(out, idmap.Extent(e))
	}
	return out
}
