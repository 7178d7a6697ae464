package bench

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goalReport has one row that a goal is about.
func goalReport(dev, ring, peer []float64) *Report {
	row := RowReport{Name: "write4k", Title: "write", Unit: Nanoseconds, Baseline: Native}
	base := []float64{100, 100, 200}
	for _, s := range []struct {
		name   string
		values []float64
	}{{Native, base}, {"translate", dev}, {"translate+uring", ring}, {"bindfs", peer}, {"fuse-overlayfs", []float64{9000, 9000, 9000}}} {
		if s.values == nil {
			continue
		}
		ratio := spread(ratios(s.values, base))
		row.Results = append(row.Results, Result{System: s.name, Values: s.values, Value: spread(s.values), Ratio: &ratio})
	}
	return &Report{Rows: []RowReport{row}}
}

func TestWriteGoals(t *testing.T) {
	for _, c := range []struct {
		name            string
		dev, ring, peer []float64
		want            string
	}{
		{
			"all reached", []float64{150, 120, 300}, []float64{110, 110, 220}, []float64{2000, 2000, 2000},
			"| write | 100 ns | 1.50 | 1.10 | 1.5 / 1.2 | yes / yes | 20.0 | – | 90.0 | 13.3× / 18.2× | 10× | yes / yes |",
		},
		{
			"too slow", []float64{160, 160, 320}, []float64{130, 130, 260}, []float64{1300, 1300, 1300},
			"| write | 100 ns | 1.60 | 1.30 | 1.5 / 1.2 | **no** / **no** | 13.0 | – | 90.0 | 8.12× / 10.0× | 10× | **no** / yes |",
		},
		{
			"no io_uring here", []float64{150, 150, 300}, nil, []float64{3000, 3000, 3000},
			"| write | 100 ns | 1.50 | – | 1.5 / 1.2 | yes / – | 30.0 | – | 90.0 | 20.0× / – | 10× | yes / – |",
		},
	} {
		var out strings.Builder
		if err := goalReport(c.dev, c.ring, c.peer).WriteGoals(&out); err != nil {
			t.Fatal(err)
		}
		// The row is also one of the goals of the exclusive mode, without figures.
		lines := strings.Split(out.String(), "\n")
		if len(lines) != 5 {
			t.Fatalf("%s: %d lines:\n%s", c.name, len(lines), out.String())
		}
		if diff := cmp.Diff(c.want, lines[2]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		for _, line := range lines[:4] {
			if got, want := strings.Count(line, "|"), 13; got != want {
				t.Errorf("%s: %d columns in %q, want %d", c.name, got-1, line, want-1)
			}
		}
	}
}

// TestGoalsAreRows finds a goal that nothing measures.
func TestGoalsAreRows(t *testing.T) {
	rows := make(map[string]bool)
	for _, w := range workloads() {
		for _, row := range w.rows {
			rows[row.Name] = true
		}
	}
	for _, g := range goals {
		for _, name := range g.rows {
			if !rows[name] {
				t.Errorf("a goal is about row %q, which no workload has", name)
			}
		}
		for _, system := range []func() string{
			func() string { dev, _ := g.systems(); return dev },
			func() string { _, ring := g.systems(); return ring },
		} {
			if !strings.Contains(" "+strings.Join(fullSystems, " ")+" ", " "+system()+" ") {
				t.Errorf("a goal is about %s, which no full run has", system())
			}
		}
	}
}

func TestUpdateTables(t *testing.T) {
	r := sampleReport()
	const document = "before\n\n<!-- bench: memory -->\nold\n<!-- /bench -->\n\nafter\n"
	got, err := UpdateTables(document, r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(got, "old") || !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "\nafter\n") || !strings.Contains(got, "| translate |") {
		t.Errorf("updated document:\n%s", got)
	}
	if again, err := UpdateTables(got, r); err != nil || again != got {
		t.Errorf("a second update changes it again: %v\n%s", err, cmp.Diff(got, again))
	}
	for _, bad := range []string{"<!-- bench: memory -->\n", "<!-- bench: nothing -->\n<!-- /bench -->"} {
		if _, err := UpdateTables(bad, r); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// TestDocument holds the figures in the documentation against the report that
// they come from.
func TestDocument(t *testing.T) {
	f, err := os.Open("../docs/performance.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := ReadJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := UpdateTables(string(document), r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(document)); diff != "" {
		t.Errorf("docs/performance.md is not what docs/performance.json says; go run ./bench/report -update docs/performance.md docs/performance.json (-want +got):\n%s", diff)
	}
}
