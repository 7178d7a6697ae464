package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

func init() { testenv.Handle("conformance", runHandler) }

// A bench is one source with one map: the native mount that says what is
// right, and the workers.
//
// Sources that the kernel can't idmap are held against a native mount of
// another file system, and what these two do differently by themselves is
// known by the name of the source.
type bench struct {
	source  string // where cases of the backends lie
	fstype  string
	m       *Map
	oracle  string // where those of the native mount lie
	native  string
	workers chan *worker

	mu      sync.Mutex
	results map[string]Result // of the native mount, by scenario and caller
	byRoot  map[string]Result // what root sees, by mount, scenario and disk
}

// newBench makes the native mount of source or, if that has none, of the
// directory that reference returns.
func newBench(t testing.TB, source, fstype string, m *Map, reference func() string) *bench {
	t.Helper()
	b := &bench{source: source, fstype: fstype, m: m, oracle: source, results: map[string]Result{}, byRoot: map[string]Result{}}
	native, err := tryOracle(t, source, m)
	if errors.Is(err, unix.EINVAL) {
		b.oracle = reference()
		native, err = tryOracle(t, b.oracle, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.native = native
	b.workers = startWorkers(t, m)
	return b
}

var cases atomic.Int64 // whose directories must not meet

// A LeftBehind is the error of a case that ran to its end, and whose directory
// could not be removed then.
type LeftBehind struct{ Err error }

func (e *LeftBehind) Error() string { return "remove the directory of the case: " + e.Err.Error() }
func (e *LeftBehind) Unwrap() error { return e.Err }

// run runs one case in a fresh directory below root, which mnt shows.
func (b *bench) run(w *worker, s *Scenario, caller, root, mnt string) (Result, error) {
	dir := filepath.Join(root, fmt.Sprintf("case%06d", cases.Add(1)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	r, err := b.runIn(dir, w, s, caller, mnt)
	left := remove(dir)
	switch {
	case err != nil:
		return nil, errors.Join(err, left)
	case left != nil:
		return r, &LeftBehind{left}
	}
	return r, nil
}

// runIn runs one case in an empty directory.
func (b *bench) runIn(dir string, w *worker, s *Scenario, caller, mnt string) (Result, error) {
	d := &Disk{Dir: dir, Map: b.m}
	d.Mkdir("", "AA", 0o777)
	s.Setup(d)
	if d.Err != nil {
		return nil, fmt.Errorf("prepare %s: %w", s.Name, d.Err)
	}
	seen := filepath.Join(mnt, filepath.Base(dir))
	q := caseRequest{Scenario: s.Name, Map: b.m.Name, Caller: caller, Dir: seen}
	if s.Before != nil {
		q.Before = true
		if err := w.agents[caller].Call("conformance", q, nil); err != nil {
			return nil, err
		}
		q.Before = false
	}
	if s.Change != nil {
		s.Change(d)
		if d.Err != nil {
			return nil, fmt.Errorf("change %s: %w", s.Name, d.Err)
		}
		time.Sleep(w.noticed)
	}
	var r Result
	if err := w.agents[caller].Call("conformance", q, &r); err != nil {
		return nil, err
	}
	var disk Result
	disk.snapshot("disk", dir)
	return slices.Concat(r, b.rootSees(mnt+"\x00"+s.Name, disk, seen), disk), nil
}

// remove is os.RemoveAll that is not stopped by files whose owner on disk is no
// id, which some calls leave natively: to remove one is EOVERFLOW.
func remove(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, unix.EOVERFLOW) {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		// Only what is no id may change then, be it one or both.
		for _, ids := range [][2]int{{0, 0}, {0, -1}, {-1, 0}} {
			if os.Lchown(path, ids[0], ids[1]) == nil {
				break
			}
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// rootSees is what root sees of a case. Many callers leave the same on disk,
// and what is the same there is looked at once.
func (b *bench) rootSees(key string, disk Result, dir string) Result {
	key = fmt.Sprint(key, disk)
	b.mu.Lock()
	r, ok := b.byRoot[key]
	b.mu.Unlock()
	if ok {
		return r
	}
	r.snapshot("root sees", dir)
	b.mu.Lock()
	b.byRoot[key] = r
	b.mu.Unlock()
	return r
}

// expected is the result on the native mount.
func (b *bench) expected(w *worker, s *Scenario, caller string) (Result, error) {
	key := s.Name + "\x00" + caller
	b.mu.Lock()
	r, ok := b.results[key]
	b.mu.Unlock()
	if ok {
		return r, nil
	}
	r, err := b.run(w, s, caller, b.oracle, b.native)
	if err == nil {
		b.mu.Lock()
		b.results[key] = r
		b.mu.Unlock()
	}
	return r, err
}

// check runs a scenario by the callers on a worker's mount and reports what
// differs from the native mount and is not known.
func (b *bench) check(t *testing.T, w *worker, s *Scenario, callers []CallerClass, backend string, report *Report) {
	for _, c := range callers {
		want, err := b.expected(w, s, c.Name)
		if err != nil {
			t.Errorf("caller %s: native: %v", c.Name, err)
			continue
		}
		got, err := b.run(w, s, c.Name, b.source, w.mount)
		if err != nil {
			t.Errorf("caller %s: %s: %v", c.Name, backend, err)
			continue
		}
		shown := 0
		for _, d := range report.Differences(Case{s.Name, c.Name, backend, b.fstype, b.m.Name}, want, got, nil) {
			if shown++; shown <= 5 {
				t.Errorf("caller %s: %s: native %s, %s %s", c.Name, d.Key, d.Want, backend, d.Got)
			}
		}
		if shown > 5 {
			t.Errorf("caller %s: and %d more", c.Name, shown-5)
		}
	}
}
