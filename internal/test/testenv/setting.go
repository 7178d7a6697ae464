package testenv

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Setting writes a value to a file of the kernel's, below /proc or /sys, until the
// test ends, or its process: it is the whole machine's.
func Setting(t testing.TB, path, value string) {
	t.Helper()
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A process that is killed, or that a timeout ends, runs no cleanup. So another
	// one writes the old value, when nobody holds the other end of its input any more.
	keeper := exec.Command("/bin/sh", "-c", `cat; printf %s "$2" >"$1"`, "sh", path, strings.TrimSpace(string(was)))
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of the reach of ^C
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
			t.Errorf("write %s again: %v", path, err)
		}
	})
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}
