package clients

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/idmount/idmount/internal/test/treecmp"
)

// transactions is what one writer does: each transaction adds a row and to a
// sum, so that a lost update shows.
func transactions(writer, n int) string {
	var b strings.Builder
	b.WriteString(".bail on\n.timeout 300000\nPRAGMA synchronous=NORMAL;\n")
	for i := range n {
		fmt.Fprintf(&b, "BEGIN IMMEDIATE;\nINSERT INTO t VALUES (%d, %d, printf('%%0500d', %d));\nUPDATE total SET n = n + 1, sum = sum + %d;\nCOMMIT;\n",
			writer, i, writer*1000000+i, writer+i)
	}
	return b.String()
}

// consistent reads again and again what has to agree in every snapshot.
func consistent(n int) string {
	return ".bail on\n.timeout 300000\n" + strings.Repeat("SELECT CASE WHEN (SELECT count(*) FROM t) = n AND "+
		"(SELECT coalesce(sum(writer + i), 0) FROM t) = sum THEN '' ELSE 'torn' END FROM total;\n", n)
}

// contest runs several writers and readers at once on one database.
func contest(s *stage, journal string, source int) string {
	const writers, readers = 3, 2
	n := amount(25, 400)
	home := s.home(journal, diskUser)
	s.sh(user, home, fmt.Sprintf(`
		sqlite3 -bail db "
			PRAGMA journal_mode=%s;
			CREATE TABLE t (writer INTEGER, i INTEGER, filler TEXT, PRIMARY KEY (writer, i));
			CREATE TABLE total (n INTEGER, sum INTEGER);
			INSERT INTO total VALUES (0, 0);" >/dev/null`, journal))
	var wg sync.WaitGroup
	start := func(as id, dir, script string) {
		wg.Go(func() {
			out, err := s.try(as, dir, "sqlite3 -batch db <<'END'\n"+script+"END\n")
			if err != nil {
				s.Errorf("%.2000v", err)
			} else if text := strings.TrimSpace(out); text != "" {
				s.Errorf("a reader saw %.200s", text)
			}
		})
	}
	for w := range writers {
		start(user, home, transactions(w, n))
	}
	for range readers {
		start(user, home, consistent(2*n))
	}
	for w := range source {
		start(onDisk, filepath.Join(s.disk, journal), transactions(writers+w, n))
	}
	wg.Wait()
	if s.Failed() {
		s.FailNow()
	}
	check := `sqlite3 -bail db "
		PRAGMA integrity_check;
		PRAGMA wal_checkpoint(TRUNCATE);
		SELECT writer, count(*), sum(i), min(filler), max(filler) FROM t GROUP BY writer ORDER BY writer;
		SELECT * FROM total;"`
	view := s.sh(user, home, check)
	// Nobody has it open any more, so what was written is on disk, and this is
	// the last call.
	if disk := s.sh(onDisk, filepath.Join(s.disk, journal), check); disk != view {
		s.Errorf("%s: the disk has\n%s\nand the mount shows\n%s", journal, disk, view)
	}
	return view
}

func TestSQLite(t *testing.T) {
	need(t, "sqlite3")
	each(t, []kind{native, relay, translate}, "ext4", shift, func(s *stage) outcome {
		// Locks are shared with users of the source, and with passthrough so is
		// the memory that sqlite maps.
		printed := contest(s, "wal", 1) + contest(s, "delete", 1)
		return s.outcome(printed, databases)
	})
}

// TestSQLiteOnMountAlone is for mounts that cache data of their own: memory is
// shared between the users of the mount, and with nobody else.
func TestSQLiteOnMountAlone(t *testing.T) {
	need(t, "sqlite3")
	each(t, []kind{native, requests, exclusive, exclusiveRelay}, "ext4", shift, func(s *stage) outcome {
		printed := contest(s, "wal", 0) + contest(s, "delete", 0)
		return s.outcome(printed, databases)
	})
}

// databases is for what several writers leave.
var databases = treecmp.Options{IgnoreContent: map[string]string{
	"wal/db": "pages have the order of the writers", "delete/db": "pages have the order of the writers",
}}
