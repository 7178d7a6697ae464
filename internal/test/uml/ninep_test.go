package uml

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestNinePServeIsShell(t *testing.T) {
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader((&NineP{Root: "/c/it's 9p"}).serve("/mnt/a b"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sh -n: %v: %s", err, out)
	}
}

func TestNineP(t *testing.T) {
	k := fetch(t, "bookworm")
	n, err := FetchNineP(t.Context(), "")
	testenv.Fetched(t, err, ErrUnavailable)
	o := Options{Command: []string{"sh", "-c", `cd /mnt/9p && echo x >user/a && setpriv --reuid 1000 --regid 1001 --clear-groups touch client/b &&
		stat -c %u:%g server/a server/b && grep -cE ' /mnt/9p/(user|client) 9p' /proc/mounts`}}
	r, err := k.Run(t.Context(), n.With(o, "/mnt/9p"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "0:0\n1000:1001\n2\n"; r.ExitCode != 0 || r.Output != want {
		t.Errorf("exit code %d, output %q, want %q; console:\n%s", r.ExitCode, r.Output, want, r.Console)
	}
}
