package idmount

import (
	"bufio"
	"context"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// TestUnmountWithCopyElsewhere unmounts while a process in another mount namespace has
// a copy of the mount, whose server therefore does not end.
func TestUnmountWithCopyElsewhere(t *testing.T) {
	testenv.RequireRoot(t)
	defer func(was time.Duration) { endGrace = was }(endGrace)
	endGrace = 3 * time.Minute

	source, target := testenv.Source(t, "tmpfs"), testenv.Dir(t)
	o := Options{Map: idmap.Identity(), Backend: Translate, Daemon: testenv.Binary(t)}
	m, err := Mount(context.Background(), source, target, o)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		t.Fatal(err)
	}
	major, minor := int(unix.Major(st.Dev)), int(unix.Minor(st.Dev))

	other := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; exec cat")
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() {
		stdin.Close()
		other.Wait()
	}
	defer end()
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	start := time.Now()
	if err := Unmount(target, false); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took >= endGrace {
		t.Errorf("Unmount took %v: it has waited for the server", took)
	}
	if unix.Kill(m.PID, 0) != nil {
		t.Error("the server has ended, although the mount is in use")
	}
	if !mountedAnywhere(device{major, minor}) {
		t.Error("mountedAnywhere does not see the mount of the other namespace")
	}
	end()
	if !testenv.Becomes(func() bool { return unix.Kill(m.PID, 0) == unix.ESRCH }) {
		t.Error("the server outlives its last mount")
	}
	if mountedAnywhere(device{major, minor}) {
		t.Error("mountedAnywhere sees a mount that is gone")
	}
}
