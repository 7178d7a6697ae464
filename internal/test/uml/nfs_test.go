package uml

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestNFSServeIsShell(t *testing.T) {
	n := &NFS{Root: "/c/it's nfs"}
	for _, o := range []NFSOptions{{}, {RootSquash: true, FS: "tmpfs", Dir: "/mnt/a b"}, {FS: "xfs"}} {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = strings.NewReader(n.Serve(o))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("sh -n of %+v: %v: %s", o, err, out)
		}
	}
	if text := n.Serve(NFSOptions{RootSquash: true}); !strings.Contains(text, "rw,root_squash,") {
		t.Errorf("root_squash is not exported:\n%s", text)
	}
}

func TestHostSuite(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"ID=debian\nVERSION_CODENAME=bookworm\n", "bookworm"},
		{"ID=\"debian\"\nVERSION_CODENAME=\"trixie\"\n", "trixie"},
		{"ID=fedora\nVERSION_CODENAME=x\n", ""},
		{"ID=debian\n", ""},
	} {
		file := filepath.Join(t.TempDir(), "os-release")
		if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := hostSuite(file)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("hostSuite of %q = %q, %v, want %q", tc.text, got, err, tc.want)
		}
	}
}

func TestNFS(t *testing.T) {
	k := fetch(t, "bookworm")
	n, err := FetchNFS(t.Context(), "")
	testenv.Fetched(t, err, ErrUnavailable)
	for _, tc := range []struct {
		name string
		o    NFSOptions
		want string
	}{
		{"no_root_squash", NFSOptions{}, "0\n0\n0\n"},
		{"root_squash", NFSOptions{RootSquash: true}, "65534\n65534\n0\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{Command: []string{"sh", "-c", `cd /mnt/nfs && touch /etc/x && echo x >v4/a && echo y >v3/b && echo z >server/c &&
				flock v4/a true && flock v3/b true && stat -c %u server/a server/b server/c && grep -E ' /mnt/nfs/v[34] nfs' /proc/mounts | wc -l`}}
			r, err := k.Run(t.Context(), n.With(o, tc.o))
			if err != nil {
				t.Fatal(err)
			}
			if want := tc.want + "2\n"; r.ExitCode != 0 || r.Output != want {
				t.Errorf("exit code %d, output %q, want %q; console:\n%s", r.ExitCode, r.Output, want, r.Console)
			}
		})
	}
}
