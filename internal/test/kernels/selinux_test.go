package kernels

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/uml"
)

// TestSELinux runs a kernel with SELinux, permissive, and a policy that has fs_use_xattr
// for fuse, or has not. Debian's kernels have SELinux; that of bullseye has no
// FUSE_SECURITY_CTX.
func TestSELinux(t *testing.T) {
	testenv.RequireRoot(t)
	if os.Getenv(taskEnv) != "" {
		return
	}
	const src, made, other = " u:object_r:src_t:s0", " u:object_r:new_t:s0", " u:object_r:other_t:s0"
	labels := func(chosen, mount string) string {
		var b strings.Builder
		for _, f := range []struct{ name, label string }{{".", src}, {"chosen", chosen}, {"dir", src}, {"fifo", src}, {"file", made}, {"link", src}} {
			b.WriteString("label " + f.name + f.label)
			if mount == "" {
				b.WriteString(f.label + "\n")
			} else {
				b.WriteString(mount + "\n")
			}
		}
		return b.String()
	}
	for _, r := range []struct{ suite, policy, backend, want string }{
		{"bullseye", "xattr", "translate", labels(made, "")},
		{"bookworm", "xattr", "translate", labels(other, "")},
		{"bookworm", "genfs", "translate", labels(made, " u:object_r:fuse_t:s0")},
		{"sid", "xattr", "relay", labels(other, "")},
	} {
		t.Run(r.suite+"/"+r.policy, func(t *testing.T) {
			k, err := uml.Fetch(t.Context(), r.suite, "")
			testenv.Fetched(t, err, uml.ErrUnavailable)
			dir := testenv.Dir(t)
			must(t, os.CopyFS(dir, os.DirFS("testdata")))
			got, err := k.Run(t.Context(), uml.Options{
				Command: []string{"/bin/sh", filepath.Join(dir, "selinux.sh"), testenv.Binary(t), filepath.Join(dir, "selinux-"+r.policy+".pol"), r.backend},
				Modules: []string{"fuse"},
				Expose:  []string{dir, filepath.Dir(testenv.Binary(t))},
			})
			output := strings.ReplaceAll(got.Output, "\x00", "")
			if err != nil || got.ExitCode != 0 || !strings.Contains(output, r.want+"ok: all\n") {
				t.Errorf("exit code %d, %v\n%s\nwant\n%s", got.ExitCode, err, output, r.want)
			}
		})
	}
}
