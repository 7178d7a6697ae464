package idmount_test

import (
	"os/exec"
	"testing"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// TestMountPointsOfTheSource: what is mounted on a name of the source, in the mount
// namespace of process 1, keeps that name, as natively. It runs in a pid namespace with
// a process 1 of its own.
func TestMountPointsOfTheSource(t *testing.T) {
	testenv.RequireRoot(t)
	const script = `
set -eu
cd "$1"
mkdir source target
mount -t tmpfs source source
mkdir source/d source/other
touch source/f
mount -t tmpfs inside source/d
mount --bind source/other source/f 2>/dev/null || mount --bind /etc/hostname source/f
"$2" mount --backend "$3" --map b:0:0:65536 source target >/dev/null
busy() { if out=$(LC_ALL=C "$@" 2>&1); then echo "$*: succeeds, want EBUSY"; else case $out in *busy*) ;; *) echo "$out, want EBUSY" ;; esac; fi; }
busy rmdir target/d
busy mv -T target/d target/moved
busy mv -T target/other target/d
busy rm -f target/f
busy mv -T target/f target/moved
mountpoint -q source/d || echo "the mount is gone"
"$2" umount target
`
	for _, backend := range []idmount.Backend{idmount.Native, idmount.Relay, idmount.Translate} {
		t.Run(string(backend), func(t *testing.T) {
			cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc",
				"sh", "-c", script, "sh", testenv.Dir(t), testenv.Binary(t), string(backend))
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
