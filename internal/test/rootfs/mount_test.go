package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// mountIDs mounts src at dst with first… for 0…, until the end of the test.
// Of the options it sets the map and the daemon.
func mountIDs(t testing.TB, src, dst string, o idmount.Options) {
	t.Helper()
	m, err := idmap.Parse([]string{fmt.Sprintf("b:0:%d:%d", first, count)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	report, err := detect.Probe(t.Context(), src, detect.Options{Map: &m})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := detect.Choose(report, o.Backend); err != nil {
		testenv.Skip(t, testenv.NeedKernel, err.Error())
	}
	o.Map, o.Daemon, o.Stacking = m, testenv.Binary(t), "0" // passthrough wherever it is possible
	mounted, err := idmount.Mount(t.Context(), src, dst, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := idmount.Unmount(dst, false); err != nil {
			t.Error(err)
			unix.Unmount(dst, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		// The server holds the source: it has to be gone before that is unmounted.
		if mounted.PID != 0 && !testenv.Becomes(func() bool { return ended(mounted.PID) }) {
			t.Errorf("the server, process %d, still runs long after unmounting", mounted.PID)
		}
	})
	if mounted.Backend != o.Backend {
		t.Fatalf("mounted by %s (%s), want %s", mounted.Backend, mounted.Reason, o.Backend)
	}
}

// ended says whether a process has ended. A zombie has: whose child it is, is
// the facade's affair.
func ended(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return true
	}
	// proc_pid_stat(5): "pid (name) state …", and the name may hold anything.
	_, state, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	return strings.HasPrefix(state, "Z")
}
