package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// Both ways make the same mount, which outlives the one that it was cloned from, and
// leave no other behind.
func TestCloneDetached(t *testing.T) {
	for name, clone := range map[string]func(*os.File, string) (*os.File, error){
		"any kernel":  CloneDetached,
		"before 6.15": cloneElsewhere,
	} {
		t.Run(name, func(t *testing.T) {
			dir := testenv.PrivateMounts(t)
			mkdir(t, dir, "source", "inner", "below")
			mkdir(t, dir, "target")
			tree, err := OpenTree(filepath.Join(dir, "source"), unix.OPEN_TREE_CLONE)
			if err != nil {
				t.Fatal(err)
			}
			if err := MountSetattr(tree, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}); err != nil && !errors.Is(err, unix.ENOSYS) {
				t.Fatal(err)
			}
			if _, err := clone(tree, "none"); !errors.Is(err, unix.ENOENT) {
				t.Errorf("of a directory that is not there: %v", err)
			}
			inner, err := clone(tree, "inner")
			tree.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer inner.Close()
			before := mounts(t)
			target := filepath.Join(dir, "target")
			if err := MoveMount(inner, target); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(target, unix.MNT_DETACH)
			if _, err := os.Stat(filepath.Join(target, "below")); err != nil {
				t.Error(err)
			}
			if line := mountLine(t, target); !strings.Contains(line, "/source/inner ") || !strings.Contains(line, "nosuid") {
				t.Errorf("mounted as %q", line)
			}
			if got := mounts(t); got != before+1 {
				t.Errorf("%d mounts more, want 1", got-before)
			}
		})
	}
}

func mounts(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}
