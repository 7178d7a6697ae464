package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMeter(t *testing.T) {
	now := time.Unix(1000, 0)
	requests := map[string]uint64{"LOOKUP": 5, "READ": 1}
	m := &meter{
		rows:    []Row{{Name: "a"}, {Name: "b"}},
		samples: make(map[string]sample),
		now:     func() time.Time { return now },
		counts: func() (map[string]uint64, error) {
			out := make(map[string]uint64)
			for op, n := range requests {
				out[op] = n
			}
			return out, nil
		},
	}
	m.begin()
	now = now.Add(3 * time.Microsecond)
	requests["LOOKUP"] += 7
	m.end("a", 10)
	// What happens between two measurements is in none.
	now = now.Add(time.Hour)
	requests["OPEN"] = 2
	m.begin()
	now = now.Add(time.Microsecond)
	m.end("b", 1)
	want := map[string]sample{
		"a": {value: 300, ops: 10, requests: map[string]uint64{"LOOKUP": 7}},
		"b": {value: 1000, ops: 1, requests: map[string]uint64{}},
	}
	if diff := cmp.Diff(want, m.samples, cmp.AllowUnexported(sample{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWorkloadsAreNamedApart(t *testing.T) {
	seen := make(map[string]string)
	for _, w := range workloads() {
		if (w.run == nil) == (w.alone == nil) {
			t.Errorf("%s has to have one of run and alone", w.name)
		}
		for _, row := range w.rows {
			if other, ok := seen[row.Name]; ok {
				t.Errorf("row %s is of %s and of %s", row.Name, other, w.name)
			}
			seen[row.Name] = w.name
			if row.Title == "" {
				t.Errorf("row %s has no title", row.Name)
			}
		}
	}
	// A name means a workload, or a row, never one workload and another's row.
	for _, w := range workloads() {
		if of, ok := seen[w.name]; ok && of != w.name {
			t.Errorf("%s is a workload, and a row of %s", w.name, of)
		}
	}
}

func TestChooseWorkloads(t *testing.T) {
	all := []*workload{
		{name: "walk", rows: []Row{{Name: "walk-cold"}, {Name: "walk-warm"}}},
		{name: "huge", rows: []Row{{Name: "huge"}}, fullOnly: true},
	}
	for _, c := range []struct {
		names []string
		full  bool
		want  string
	}{
		{nil, false, "walk"},
		{nil, true, "walk huge"},
		{[]string{"walk-warm"}, false, "walk"},
		{[]string{"huge", "walk"}, false, "walk huge"},
	} {
		chosen, err := chooseWorkloads(all, c.names, c.full)
		var got []string
		for _, w := range chosen {
			got = append(got, w.name)
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%v, full %v: %v, %v; want %s", c.names, c.full, got, err, c.want)
		}
	}
	if _, err := chooseWorkloads(all, []string{"walk", "nap"}, true); err == nil || !strings.Contains(err.Error(), `"nap"`) {
		t.Errorf("error %v, want one about nap", err)
	}
}

// TestRun runs the workloads of single operations, once, on all kinds of
// systems, and asks for the requests that the figures rest on.
func TestRun(t *testing.T) {
	testenv.RequireRoot(t)
	dir := testenv.Source(t, "ext4")
	steps := 0
	report, err := Run(context.Background(), Options{
		Dir:       dir,
		Program:   testenv.Binary(t),
		Rounds:    1,
		Systems:   []string{"source", "native", "translate", "translate+nopass", "bindfs"},
		Workloads: []string{"small", "create", "write4k", "mount"},
		Progress:  func(Progress) { steps++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, failure := range report.Failures() {
		t.Error(failure)
	}
	if steps == 0 {
		t.Error("no progress was told")
	}
	for _, row := range report.Rows {
		if row.Skipped != "" || row.Baseline != Native {
			t.Errorf("%s: skipped %q, baseline %q", row.Name, row.Skipped, row.Baseline)
		}
		if r := row.Result("translate"); r == nil || r.Value.Median <= 0 || r.Ratio == nil {
			t.Errorf("%s on translate: %+v", row.Name, r)
		}
	}
	if row := report.Row("write4k"); row != nil {
		if got := row.Result("translate+nopass").Requests["WRITE"]; got == 0 {
			t.Error("write4k without passthrough: no WRITE was counted")
		}
	}
	if row := report.Row("create"); row != nil {
		r := row.Result("translate")
		if got := r.Requests["CREATE"]; got != uint64(r.Ops) {
			t.Errorf("%d CREATE for %d files", got, r.Ops)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestRequestsOfTheHottestOperations holds what makes the caches worth their
// while: what is warm is not asked for again.
func TestRequestsOfTheHottestOperations(t *testing.T) {
	testenv.RequireRoot(t)
	report, err := Run(context.Background(), Options{
		Dir:       testenv.Source(t, "ext4"),
		Program:   testenv.Binary(t),
		Rounds:    1,
		Systems:   []string{"translate", "translate+exclusive"},
		Workloads: []string{"small", "write4k"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		row, system string
		most        uint64 // for all operations of the row together
	}{
		{"write4k", "translate", 2},
		{"append", "translate", 2},
		{"write4k", "translate+exclusive", 2},
		{"small-read", "translate+exclusive", 0},
		{"open", "translate+exclusive", 0},
	} {
		row := report.Row(c.row)
		if row == nil || row.Result(c.system) == nil || row.Result(c.system).Failed != "" {
			t.Errorf("%s on %s: no figures: %+v", c.row, c.system, row)
			continue
		}
		total := uint64(0)
		requests := row.Result(c.system).Requests
		for op, n := range requests {
			if op != "FORGET" {
				total += n
			}
		}
		if total > c.most {
			t.Errorf("%s on %s: %d requests for %d operations, want %d at most: %v",
				c.row, c.system, total, row.Result(c.system).Ops, c.most, requests)
		}
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	testenv.RequireRoot(t)
	dir := testenv.Source(t, "tmpfs")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	_, err := Run(ctx, Options{
		Dir: dir, Program: testenv.Binary(t), Systems: []string{"native", "translate"}, Workloads: []string{"create"}, Rounds: 1000,
		Progress: func(p Progress) {
			if p.Round == 2 {
				stop()
			}
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRunLeavesOutWhatDoesNotWork(t *testing.T) {
	testenv.RequireRoot(t)
	dir := testenv.Source(t, "ramfs")
	report, err := Run(context.Background(), Options{
		Dir: dir, Program: testenv.Binary(t), Systems: []string{"source", "native", "translate"}, Workloads: []string{"write4k"}, Rounds: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := report.Systems[1]; s.Name != "native" || !strings.Contains(s.Skipped, "ramfs") {
		t.Errorf("native on ramfs: %+v, want the reason why not", s)
	}
	if row := report.Row("write4k"); row.Baseline != Source {
		t.Errorf("baseline %q, want the source", row.Baseline)
	}
}

func TestWalkCounts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	ctx := context.Background()
	if os.Geteuid() != 0 {
		testenv.Skip(t, testenv.NeedRoot, "mknod")
	}
	if err := makeEmptyFiles(ctx, dir, 250, 100); err != nil {
		t.Fatal(err)
	}
	if n, err := walk(ctx, dir); err != nil || n != 253 {
		t.Errorf("%d entries, %v; want 250 files and 3 directories", n, err)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := walk(stopped, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
