package testenv

import (
	"bytes"
	"os"
	"testing"
)

// Setting writes a value to a file of the kernel's, below /proc or /sys, until the
// test ends. It is the whole machine's.
func Setting(t testing.TB, path, value string) {
	t.Helper()
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, bytes.TrimSpace(was), 0); err != nil {
			t.Error(err)
		}
	})
}
