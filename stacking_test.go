package idmount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/internal/test/testenv"
)

// As many overlays can be stacked on a mount as it says, what was asked for at least, and
// passthrough is there as far as the kernel's limit of two stacked file systems leaves room.
func TestStacking(t *testing.T) {
	for _, c := range []struct {
		fstype   string
		stacking idmount.Stacking
		most     int  // with passthrough
		pass     bool // where the kernel has it
	}{
		{"ext4", "auto", 0, false}, // as on the native mount that relay and translate stand in for
		{"ext4", "0", 1, true},
		{"ext4", "1", 1, true},
		{"ext4", "2", 0, false},
		{"overlay", "auto", 0, false},
		{"overlay", "0", 0, true},
		{"overlay", "1", 0, false},
		{"overlay", "2", 0, false},
		{"ramfs", "auto", 1, true},
		{"fuse", "auto", 1, true},
		{"fuse", "2", 0, false},
	} {
		for _, backend := range backends[1:] {
			t.Run(fmt.Sprintf("%s/%s/%s", c.fstype, c.stacking, backend), func(t *testing.T) {
				source := testenv.Source(t, c.fstype)
				write(t, source+"/f", "text")
				if err := os.Mkdir(source+"/lower", 0o755); err != nil {
					t.Fatal(err)
				}
				report, err := detect.Probe(t.Context(), source, detect.Options{SkipCache: true})
				if err != nil {
					t.Fatal(err)
				}
				target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:0:65536"), Backend: backend, Stacking: c.stacking})
				pass, most := c.pass, c.most
				if !pass || report.Passthrough.Verdict != detect.Yes {
					pass, most = false, 2
				}
				if m.Passthrough != pass || m.Stacking != idmount.Stacking(fmt.Sprint(most)) {
					t.Errorf("passthrough %v, stacking %s; want %v, %d", m.Passthrough, m.Stacking, pass, most)
				}
				if reason := !c.pass && report.Passthrough.Verdict == detect.Yes; reason != (m.StackingReason != "") {
					t.Errorf("the reason for no passthrough is %q", m.StackingReason)
				}
				if n := overlaysOn(t, target+"/lower"); n != most {
					t.Errorf("%d overlays can be stacked on it, want %d", n, most)
				}
				if text, err := os.ReadFile(target + "/f"); err != nil || string(text) != "text" {
					t.Errorf("read: %q, %v", text, err)
				}
			})
		}
	}
}

// overlaysOn stacks overlays, one on the other, on a directory until the kernel refuses
// one, and returns how many that were.
func overlaysOn(t *testing.T, lower string) (n int) {
	t.Helper()
	layers := testenv.Source(t, "tmpfs")
	for ; n < 5; n++ {
		dir := func(name string) string {
			path := filepath.Join(layers, fmt.Sprint(name, n))
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		}
		merged := dir("merged")
		data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, dir("upper"), dir("work"))
		if err := unix.Mount("overlay", merged, "overlay", 0, data); err == unix.EINVAL {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { testenv.Unmount(t, merged) })
		lower = merged
	}
	return n
}

func TestParseStacking(t *testing.T) {
	for text, want := range map[string]idmount.Stacking{"": "auto", "auto": "auto", "0": "0", "1": "1", "2": "2", "3": "", "-1": "", "deep": ""} {
		if got, err := idmount.ParseStacking(text); got != want || (err == nil) != (want != "") {
			t.Errorf("ParseStacking(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}
