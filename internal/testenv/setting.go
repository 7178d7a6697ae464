package testenv

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Setting writes a value to a file of the kernel's, below /proc or /sys, until the
// test ends. It is the whole machine's, so a process of its own puts it back, even
// if the test is killed: its input ends then.
func Setting(t testing.TB, path, value string) {
	t.Helper()
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	keeper := exec.Command("sh", "-c", `cat; printf %s "$1" >"$2"`, "sh", string(bytes.TrimSpace(was)), path)
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signal to the test's group is for it
	keeper.Stderr = os.Stderr
	end, err := keeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end.Close()
		if err := keeper.Wait(); err != nil {
			t.Errorf("put %s back: %v", path, err)
		}
	})
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}
