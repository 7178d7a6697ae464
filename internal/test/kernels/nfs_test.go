package kernels

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/uml"
)

//go:embed testdata/nfs.sh
var nfsScript string

// TestNFS is a day with an NFS volume: whose files they are on the server, what
// becomes of open files without a name, a server that goes away and comes back,
// and a pod with a user namespace. IDMOUNT_KERNELS=all does it by each version,
// with root squashed and without, on every kernel.
func TestNFS(t *testing.T) {
	testenv.RequireRoot(t)
	if os.Getenv(taskEnv) != "" {
		return
	}
	runs := []struct{ suite, squash, version string }{{"trixie", "squash", "4"}}
	if os.Getenv("IDMOUNT_KERNELS") == "all" {
		runs = nil
		for _, s := range uml.Suites {
			for _, squash := range []string{"squash", "no_squash"} {
				for _, version := range []string{"4", "4.0", "3"} {
					runs = append(runs, struct{ suite, squash, version string }{s.Name, squash, version})
				}
			}
		}
	}
	program, err := os.Executable()
	must(t, err)
	for _, r := range runs {
		t.Run(r.suite+"/"+r.squash+"/v"+r.version, func(t *testing.T) {
			k, err := uml.Fetch(t.Context(), r.suite, "")
			testenv.Fetched(t, err, uml.ErrUnavailable)
			n, err := uml.FetchNFS(t.Context(), "")
			testenv.Fetched(t, err, uml.ErrUnavailable)
			script := filepath.Join(testenv.Dir(t), "nfs.sh")
			must(t, os.WriteFile(script, []byte(nfsScript), 0o755))
			o := n.With(uml.Options{
				Command: []string{"/bin/sh", script, testenv.Binary(t), r.squash, r.version, program},
				Env:     []string{"RPC_NFSD=" + filepath.Join(n.Root, "usr/sbin/rpc.nfsd"), "LD_LIBRARY_PATH=" + n.Libraries()},
				Modules: []string{"fuse"},
				Expose:  []string{script, program, filepath.Dir(testenv.Binary(t))},
			}, uml.NFSOptions{RootSquash: r.squash == "squash"})
			got, err := k.Run(t.Context(), o)
			if err != nil || got.ExitCode != 0 || !strings.Contains(got.Output, "ok: all\n") {
				t.Errorf("exit code %d, %v\n%s", got.ExitCode, err, got.Output)
			}
			t.Logf("%v\n%s", got.Elapsed.Round(time.Second), got.Output)
		})
	}
}

// tryOpen opens a file with __FMODE_EXEC, by open(2) and by openat2(2), and says what
// each gives and why.
func tryOpen(path string) {
	const fmodeExec = 0x20
	fd, err := unix.Open(path, unix.O_RDONLY|fmodeExec, 0)
	fmt.Print(fd, " ", int(sys.Errno(err)))
	fd, err = unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: fmodeExec})
	fmt.Println("", fd, int(sys.Errno(err)))
}
