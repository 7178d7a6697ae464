package conformance

import "testing"

var defaultBackends = []string{"native"}

func mountBackend(t *testing.T, b *bench, backend string) string { return b.native }
