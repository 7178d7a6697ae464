package treecmp

import (
	"slices"
	"strings"
	"testing"
)

// MustScan is Scan in a test, which ends if it fails.
func MustScan(t testing.TB, root string) Tree {
	t.Helper()
	tree, err := Scan(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// Report fails the test with the first differences, if there are any.
func Report(t testing.TB, what string, differences []string) {
	t.Helper()
	const most = 40
	n := len(differences)
	if n == 0 {
		return
	}
	if n > most {
		differences = append(slices.Clone(differences[:most]), "…")
	}
	t.Errorf("%s: %d differences:\n\t%s", what, n, strings.Join(differences, "\n\t"))
}
