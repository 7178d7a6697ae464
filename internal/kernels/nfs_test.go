package kernels

import (
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idmount/idmount/internal/testenv"
	"github.com/idmount/idmount/internal/uml"
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
	for _, r := range runs {
		t.Run(r.suite+"/"+r.squash+"/v"+r.version, func(t *testing.T) {
			k, err := uml.Fetch(t.Context(), r.suite, "")
			testenv.Fetched(t, err, uml.ErrUnavailable)
			n, err := uml.FetchNFS(t.Context(), "")
			testenv.Fetched(t, err, uml.ErrUnavailable)
			script := filepath.Join(testenv.Dir(t), "nfs.sh")
			must(t, os.WriteFile(script, []byte(nfsScript), 0o755))
			o := n.With(uml.Options{
				Command: []string{"/bin/sh", script, testenv.Binary(t), r.squash, r.version},
				Env:     []string{"RPC_NFSD=" + filepath.Join(n.Root, "usr/sbin/rpc.nfsd"), "LD_LIBRARY_PATH=" + n.Libraries()},
				Modules: []string{"fuse"},
				Expose:  []string{script, filepath.Dir(testenv.Binary(t))},
				Timeout: 4 * time.Minute,
			}, uml.NFSOptions{RootSquash: r.squash == "squash"})
			got, err := k.Run(t.Context(), o)
			if err != nil || got.ExitCode != 0 || !strings.Contains(got.Output, "ok: all\n") {
				t.Errorf("exit code %d, %v\n%s", got.ExitCode, err, got.Output)
			}
			t.Logf("%v\n%s", got.Elapsed.Round(time.Second), got.Output)
		})
	}
}
