package bench

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sampleReport is one of three rounds with everything that a report can have.
func sampleReport() *Report {
	rr := &rowReport{
		row: Row{Name: "stat", Title: "stat <again>"},
		samples: map[string][]sample{
			Source: {{value: 900}, {value: 1000}, {value: 1100}},
			Native: {{value: 1000}, {value: 2000}, {value: 1000}},
			"translate": {
				{value: 5000}, {value: 6000},
				{value: 7000, ops: 100, requests: map[string]uint64{"LOOKUP": 200, "GETATTR": 50, "FORGET": 999}},
			},
		},
		failed: map[string]string{Bindfs: "stat x: input/output error"},
	}
	bytes := &rowReport{
		row:     Row{Name: "memory", Title: "memory", Unit: Bytes},
		samples: map[string][]sample{"translate": {{value: 101.6, ops: 10}}},
	}
	skipped := &rowReport{row: Row{Name: "go", Title: "go build"}, skipped: "go is not installed"}
	systems, err := parseSystems([]string{Source, Native, Translate, Bindfs})
	if err != nil {
		panic(err)
	}
	return &Report{
		Version: "v1",
		Date:    time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC),
		Machine: Machine{Kernel: "6.18", CPU: "Processor", CPUs: 2, Memory: 24 << 30, FileSystem: "ext4"},
		Rounds:  3,
		Systems: []SystemReport{{Name: Source}, {Name: Native}, {Name: Translate}, {Name: Bindfs, Version: "1"}, {Name: Relay, Skipped: "too old"}},
		Rows:    []RowReport{rr.report(systems), bytes.report(systems), skipped.report(systems)},
	}
}

func TestRowReport(t *testing.T) {
	row := sampleReport().Row("stat")
	if row.Baseline != Native {
		t.Errorf("baseline %q, want native", row.Baseline)
	}
	// 5, 3 and 7 times: not 6000 to 1000, which the medians of each would give.
	if got, want := *row.Result(Translate).Ratio, (Spread{Median: 5, Min: 3, Max: 7}); got != want {
		t.Errorf("ratio %v, want %v", got, want)
	}
	if got := row.Result(Bindfs); got.Failed == "" || got.Ratio != nil {
		t.Errorf("the failed system has %+v", got)
	}
	if row.Result(Relay) != nil {
		t.Error("a system that did not take part has a result")
	}
}

func TestRowReportWithoutNative(t *testing.T) {
	systems, _ := parseSystems([]string{Source, Native, Translate})
	rr := &rowReport{
		row: Row{Name: "stat"},
		samples: map[string][]sample{
			Source: {{value: 10}}, Native: {{value: 10}}, Translate: {{value: 30}},
		},
		failed: map[string]string{Native: "gone"},
	}
	row := rr.report(systems)
	if row.Baseline != Source || row.Result(Translate).Ratio.Median != 3 {
		t.Errorf("baseline %q, ratio %v; want source and 3", row.Baseline, row.Result(Translate).Ratio)
	}
}

func TestWriteText(t *testing.T) {
	var out strings.Builder
	if err := sampleReport().WriteText(&out); err != nil {
		t.Fatal(err)
	}
	want := `Linux 6.18, 2 × Processor, 24 GiB, ext4
2026-01-02 03:04 UTC; idmount v1
3 rounds; × is the time of the native mount (of the source where there is none): median [least–most]

              source             native   translate          bindfs
stat <again>  0.90× [0.50–1.10]  1.00 µs  5.00× [3.00–7.00]  failed
memory        –                  –        102 B              –
go build      go is not installed

Requests an operation:
stat  translate  2.5 (LOOKUP 2, GETATTR 0.5)

relay is left out: too old
bindfs failed in stat: stat x: input/output error
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWriteHTML(t *testing.T) {
	var out strings.Builder
	if err := sampleReport().WriteHTML(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"Linux 6.18, 2 × Processor, 24 GiB, ext4", "3 rounds", "prefers-color-scheme: dark",
		"stat &lt;again&gt;", "1× is native, 1.00 µs", ">5.00×<", "translate: 5.00× [3.00–7.00]",
		"LOOKUP 2, GETATTR 0.5", "102 B", "relay is left out: too old", "failed: stat x: input/output error",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, not := range []string{"http://", "https://", " src=", "@import", "ZgotmplZ", "NaN", "Inf", "<again>", "%!"} {
		if strings.Contains(text, not) {
			t.Errorf("the page has %q", not)
		}
	}
	if strings.Count(text, "<svg") != 2+3 || strings.Count(text, "<section>") != strings.Count(text, "</section>") {
		t.Errorf("want a chart for each of two rows, and three marks of the legend:\n%s", text)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	var out bytes.Buffer
	want := sampleReport()
	if err := want.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	got, err := ReadJSON(&out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := ReadJSON(strings.NewReader(`{"rows": 3}`)); err == nil {
		t.Error("no error for something else than a report")
	}
}

func TestMerge(t *testing.T) {
	a, b := sampleReport(), sampleReport()
	b.Rows = b.Rows[:2]
	b.Rows[0].Title = "measured again"
	b.Rows[1].Name = "another"
	b.Systems = []SystemReport{{Name: Relay}, {Name: "translate+uring"}}
	if err := a.Merge(b); err != nil {
		t.Fatal(err)
	}
	var rows, systems []string
	for _, row := range a.Rows {
		rows = append(rows, row.Name+": "+row.Title)
	}
	for _, s := range a.Systems {
		systems = append(systems, s.Name+s.Skipped)
	}
	if diff := cmp.Diff([]string{"stat: measured again", "memory: memory", "go: go build", "another: memory"}, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{Source, Native, Translate, Bindfs, Relay, "translate+uring"}, systems); diff != "" {
		t.Errorf("systems (-want +got):\n%s", diff)
	}
	b.Machine.Kernel = "5.10"
	if err := a.Merge(b); err == nil {
		t.Error("reports of two kernels were merged")
	}
}

func TestFailuresAreOurs(t *testing.T) {
	r := sampleReport()
	if got := r.Failures(); got != nil {
		t.Errorf("a peer's failure is not ours: %v", got)
	}
	r.Rows[0].Results = append(r.Rows[0].Results, Result{System: "relay+uring", Failed: "no"})
	if diff := cmp.Diff([]string{"stat on relay+uring: no"}, r.Failures()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDuration(t *testing.T) {
	for _, c := range []struct {
		ns   float64
		want string
	}{
		{0.5, "0.50 ns"}, {9.996, "10.0 ns"}, {99.96, "100 ns"}, {999.4, "999 ns"}, {999.9, "1.00 µs"},
		{1234, "1.23 µs"}, {45_600, "45.6 µs"}, {999_960, "1.00 ms"}, {2.5e9, "2.50 s"}, {123.4e9, "123 s"},
	} {
		if got := Duration(c.ns); got != c.want {
			t.Errorf("Duration(%v) = %q, want %q", c.ns, got, c.want)
		}
	}
}

func TestFioLatency(t *testing.T) {
	report := []byte(`{"jobs": [{"read": {"clat_ns": {"mean": 0.0}}, "write": {"clat_ns": {"mean": 1500.5}}}]}`)
	if got, err := fioLatency(report, true); err != nil || got != 1500.5 {
		t.Errorf("%v, %v; want 1500.5", got, err)
	}
	for _, bad := range []string{"", "{}", string(report)} {
		if got, err := fioLatency([]byte(bad), false); err == nil {
			t.Errorf("%q: %v, want an error", bad, got)
		}
	}
}

// TestManualNamesAll holds the manual's list of workloads against the code.
func TestManualNamesAll(t *testing.T) {
	manual, err := os.ReadFile("../docs/man/idmount.8")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), ".Ss idmount bench\n")
	section, _, _ = strings.Cut(section, ".Ss ")
	words := strings.Fields(section)
	for _, name := range Workloads() {
		found := false
		for _, w := range words {
			found = found || w == name
		}
		if !found {
			t.Errorf("the manual does not name workload %s", name)
		}
	}
}
