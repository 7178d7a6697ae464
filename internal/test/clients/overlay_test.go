package clients

import (
	_ "embed"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/treecmp"
)

// lowerScript makes the lower layer, and overlayScript changes what an overlay
// shows of it, both in the current directory.
//
//go:embed testdata/lower.sh
var lowerScript string

//go:embed testdata/overlay.sh
var overlayScript string

func TestOverlay(t *testing.T) {
	need(t, "sqlite3", "setfacl", "setfattr")
	testenv.RequireRoot(t)
	for name, options := range map[string]string{
		"plain":     "redirect_dir=off,index=off,metacopy=off,xino=off",
		"redirect":  "redirect_dir=on,index=on,metacopy=on,xino=off",
		"userxattr": "userxattr,index=off,xino=off",
	} {
		t.Run(name, func(t *testing.T) {
			merged := testenv.Dir(t)
			each(t, []kind{native, relay, translate, requests, exclusive}, "ext4", unshift, func(s *stage) outcome {
				for _, dir := range []string{"lower", "upper", "work"} {
					s.home(dir, unshifted)
				}
				s.sh(hostRoot, s.dir+"/lower", lowerScript)
				overlay := func() {
					s.Helper()
					data := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,%[2]s", s.dir, options)
					err := unix.Mount("overlay", merged, "overlay", 0, data)
					if errors.Is(err, unix.ENODEV) {
						testenv.Skip(s, testenv.NeedFileSystem, "no overlayfs")
					}
					if err != nil {
						s.Fatalf("mount an overlay (%s): %v", data, err)
					}
				}
				s.env = []string{"SETID=yes"}
				if name == "userxattr" {
					s.env[0] = "SETID=no" // a known difference
				}
				overlay()
				printed, err := s.try(hostRoot, merged, overlayScript)
				if err != nil {
					s.Error(err)
				}
				fresh := treecmp.MustScan(s, merged)
				testenv.Unmount(s, merged)
				if s.Failed() {
					s.FailNow()
				}

				// What is kept in the layers alone.
				overlay()
				again := treecmp.MustScan(s, merged)
				testenv.Unmount(s, merged)
				treecmp.Report(s, "the overlay, and mounted again", treecmp.Diff(fresh, again, treecmp.Options{Mtime: true}))

				got := s.outcome(printed, treecmp.Options{
					// File handles, of the file system below, and a random number.
					IgnoreXattrs: []string{
						"trusted.overlay.origin", "trusted.overlay.upper", "trusted.overlay.uuid", "user.overlay.origin", "user.overlay.uuid",
					},
					Ignore: map[string]string{"work/index": "named by file handles"},
				})
				got.view = again
				return got
			})
		})
	}
}
