package testenv

import (
	"errors"
	"os"
	"testing"
)

// A ReasonID names why a test may be skipped.
type ReasonID string

const (
	NeedRoot       ReasonID = "need-root"       // not run by root
	NeedProgram    ReasonID = "need-program"    // a program that the test calls is not installed
	NeedFileSystem ReasonID = "need-filesystem" // the kernel lacks a file system
	NeedKernel     ReasonID = "need-kernel"     // the kernel is too old for what is tested
	NeedGuest      ReasonID = "need-guest"      // a kernel to boot, or what runs there, can't be fetched
	NeedPassthru   ReasonID = "need-passthrough"
	ShortRun       ReasonID = "short" // go test -short, or what only longer runs do
)

// allowedInCI are the skips that a complete environment may have. The others
// mean that something is not installed there, and tests nothing unnoticed.
var allowedInCI = map[ReasonID]bool{
	NeedKernel: true,
	ShortRun:   true,
}

// Skip ends the test as skipped, with the reason. With IDMOUNT_CI=1 in the
// environment a reason that CI has no excuse for fails the test instead.
func Skip(t testing.TB, id ReasonID, text string) {
	t.Helper()
	if os.Getenv("IDMOUNT_CI") == "1" && !allowedInCI[id] {
		t.Fatalf("skip not allowed in CI: %s: %s", id, text)
	}
	t.Skipf("%s: %s", id, text)
}

// Fetched skips the test if err is that something can't be had here, and fails it
// for any other.
func Fetched(t testing.TB, err, unavailable error) {
	t.Helper()
	switch {
	case errors.Is(err, unavailable):
		Skip(t, NeedGuest, err.Error())
	case err != nil:
		t.Fatal(err)
	}
}

// Quick reports whether only tests run that need neither root nor a mount: make check.
func Quick() bool { return os.Getenv("IDMOUNT_CHECK") != "" }

// RequireRoot skips the test unless root of the initial user namespace runs it.
func RequireRoot(t testing.TB) {
	t.Helper()
	if Quick() {
		t.Skip("mounts file systems, which make check leaves out")
	}
	if os.Geteuid() != 0 {
		Skip(t, NeedRoot, "mounting file systems takes root")
	}
}
