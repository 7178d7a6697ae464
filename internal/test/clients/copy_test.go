package clients

import (
	"testing"

	"github.com/idmount/idmount/internal/test/treecmp"
)

// TestCopy copies what has been written just now, also before it was closed.
// cp asks where a file of few blocks has data, and leaves out the rest.
func TestCopy(t *testing.T) {
	each(t, []kind{native, relay, translate, requests, exclusive, exclusiveRelay}, "ext4", shift, func(s *stage) outcome {
		printed := s.sh(user, s.home("home", diskUser), `
			seq 100000 >new
			cp new copied
			cmp new copied
			truncate -s 4M sparse
			echo end >>sparse
			cp sparse sparse-copied
			cmp sparse sparse-copied
			{ seq 100000; cp open open-copied; } >open
			cmp open open-copied
			sync new sparse
			cp new copied-again
			cmp new copied-again
			cat new copied sparse sparse-copied | sha256sum`)
		return s.outcome(printed, treecmp.Options{})
	})
}
