package conformance

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// TestLeftBehind tells what can't be removed after a case from what fails in it.
func TestLeftBehind(t *testing.T) {
	dir := testenv.Source(t, "tmpfs")
	rig := NewRig(t, MapByName("identity"), []string{"R0"})
	mount := func(d *Disk) {
		d.Mkdir("busy", "AA", 0o755)
		d.do("mount", func() error { return unix.Mount("test", d.path("busy"), "tmpfs", 0, "") })
		t.Cleanup(func() { _ = unix.Unmount(d.path("busy"), unix.MNT_DETACH) })
	}
	for _, c := range []struct {
		what  string
		setup func(*Disk)
		ran   bool // to its end
		errno unix.Errno
	}{
		{"the case and its removal", func(*Disk) {}, true, 0},
		{"the removal fails", mount, true, unix.EBUSY},
		{"the case fails", func(d *Disk) { d.Err = fmt.Errorf("x: %w", unix.ENOTEMPTY) }, false, unix.ENOTEMPTY},
		{"both fail", func(d *Disk) { mount(d); d.Err = unix.ENOTEMPTY }, false, unix.ENOTEMPTY},
	} {
		// The agent knows scenarios by their names.
		r, err := rig.Run(dir, dir, &Scenario{Name: Scenarios[0].Name, Setup: c.setup}, "R0")
		var left *LeftBehind
		if ran := err == nil || errors.As(err, &left); ran != c.ran || (len(r) > 0) != c.ran {
			t.Errorf("%s: %d facts, %v; ran to its end: want %v", c.what, len(r), err, c.ran)
		}
		if c.errno == 0 && err != nil || c.errno != 0 && !errors.Is(err, c.errno) {
			t.Errorf("%s: %v, want errno %v", c.what, err, c.errno)
		}
	}
}
