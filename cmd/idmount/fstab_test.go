package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFstabWarnings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fstab")
	const lines = `# /a /b idmount rbind
/a /b idmount map=b:0:1:1,rbind 0 0
/a /b ext4 bind 0 0
/a /c	idmount	map=b:0:1:1,recursive,user,x-systemd.automount 0 0

/a /d fuse.idmount bind,map=b:0:1:1 0 0
/a /e idmount X-mount.idmap=b:0:1:1\\040b:5:6:1
/a /f idmount
`
	if err := os.WriteFile(path, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	const bind = ": mount(8) takes this option for itself and makes an ordinary bind mount without a map: leave bind out, and write recursive for rbind"
	want := []string{
		path + ` line 2: mount option "rbind"` + bind,
		path + ` line 6: mount option "bind"` + bind,
		path + " line 7: mount(8) keeps X-mount.idmap for itself: write map=",
	}
	if diff := cmp.Diff(want, fstabWarnings(path)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := fstabWarnings(path + ".none"); got != nil {
		t.Errorf("no file: %q", got)
	}
}
