package clients

import (
	_ "embed"
	"fmt"
	"os/exec"
	accounts "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/treecmp"
)

// postgresScript makes a cluster, works on it, crashes it, and prints what has
// to agree with what.
//
//go:embed testdata/postgres.sh
var postgresScript string

func TestPostgres(t *testing.T) {
	if !long() {
		testenv.Skip(t, testenv.ShortRun, "a database cluster takes long; IDMOUNT_CLIENTS=long")
	}
	bin := postgresPrograms(t)
	// It wants a name for who it runs as.
	account, err := accounts.Lookup("postgres")
	if err != nil {
		testenv.Skip(t, testenv.NeedProgram, err.Error())
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		t.Fatal(err)
	}
	postgres, below := id{number: uint32(uid)}, id{number: uint32(unshifted + uid)}
	each(t, []kind{native, relay, translate, requests, exclusive, exclusiveRelay}, "ext4", unshift, func(s *stage) outcome {
		home := s.home("home", unshifted+uid)
		s.env = []string{"BIN=" + bin, fmt.Sprint("TRANSACTIONS=", 300)}
		s.Cleanup(func() {
			if out, err := s.try(postgres, home, `[ ! -e data/postmaster.pid ] || "$BIN/pg_ctl" -D data stop -m immediate`); err != nil {
				s.Errorf("%v\n%s", err, out)
			}
		})
		printed := s.sh(postgres, home, postgresScript)
		// What the disk has, by the disk's owner, for whom the tablespace is elsewhere.
		s.sh(below, filepath.Join(s.disk, "home"), `
			ln -sfn "$PWD/space" data/pg_tblspc/*
			"$BIN/pg_checksums" --check -D data`)
		got := outcome{printed: printed}
		for path, e := range treecmp.MustScan(s, s.disk) {
			if path != "." && (e.UID != below.number || e.GID != below.number) {
				s.Errorf("%s belongs to %d:%d on disk, want %d", path, e.UID, e.GID, below.number)
			}
		}
		return got
	})
}

// postgresPrograms is the directory of the newest version installed.
func postgresPrograms(t testing.TB) string {
	t.Helper()
	// Debian has them side by side, and few of them in the path.
	if dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(dirs) > 0 {
		return slices.Max(dirs)
	}
	p, err := exec.LookPath("pg_checksums")
	if err != nil {
		testenv.Skip(t, testenv.NeedProgram, err.Error())
	}
	return filepath.Dir(p)
}
