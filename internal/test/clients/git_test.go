package clients

import (
	_ "embed"
	"fmt"
	"path"
	"testing"

	"github.com/idmount/idmount/internal/test/treecmp"
)

// gitScript works in the current directory and prints what repositories say of
// themselves. All times are given, so all names of objects and packs are.
//
//go:embed testdata/git.sh
var gitScript string

func TestGit(t *testing.T) {
	need(t, "git")
	each(t, []kind{native, relay, translate, exclusive}, "ext4", shift, func(s *stage) outcome {
		s.env = []string{fmt.Sprint("COMMITS=", amount(12, 300)), "FSYNC=none"}
		if long() {
			s.env[1] = "FSYNC=default"
		}
		printed := s.sh(user, s.home("home", diskUser), gitScript)
		got := s.outcome(printed, treecmp.Options{IgnoreContent: map[string]string{}})
		for p := range got.disk {
			if path.Base(p) == "index" {
				got.options.IgnoreContent[p] = "inode numbers and times of the work tree"
			}
		}
		return got
	})
}
