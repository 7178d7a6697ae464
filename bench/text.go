package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteText writes the report for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	t := &textWriter{w: w}
	t.printf("%s\n%s; idmount %s\n", r.Machine, r.Date.Format("2006-01-02 15:04 MST"), r.Version)
	t.printf("%d rounds; × is the time of the native mount (of the source where there is none): median [least–most]\n\n", r.Rounds)
	columns := r.measured()
	tab := tabwriter.NewWriter(t, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tab, "\t%s\n", strings.Join(columns, "\t"))
	for _, row := range r.Rows {
		fmt.Fprint(tab, row.Title)
		if row.Skipped != "" {
			fmt.Fprintf(tab, "\t%s\n", row.Skipped)
			continue
		}
		for _, column := range columns {
			fmt.Fprintf(tab, "\t%s", row.cell(column))
		}
		fmt.Fprintln(tab)
	}
	tab.Flush()
	r.writeRequests(t)
	for _, s := range r.Systems {
		if s.Skipped != "" {
			t.printf("\n%s is left out: %s", s.Name, s.Skipped)
		}
	}
	for _, row := range r.Rows {
		for _, result := range row.Results {
			if result.Failed != "" {
				t.printf("\n%s failed in %s: %s", result.System, row.Name, result.Failed)
			}
		}
	}
	t.printf("\n")
	return t.err
}

// writeRequests writes what the kernel asked our servers for.
func (r *Report) writeRequests(t *textWriter) {
	headed := false
	tab := tabwriter.NewWriter(t, 0, 0, 2, ' ', 0)
	for _, row := range r.Rows {
		for _, result := range row.Results {
			if result.Requests == nil || result.Ops == 0 {
				continue
			}
			if !headed {
				t.printf("\nRequests an operation:\n")
				headed = true
			}
			fmt.Fprintf(tab, "%s\t%s\t%s\n", row.Name, result.System, requestsText(result))
		}
	}
	tab.Flush()
}

// requestsText says which requests an operation took, the most frequent first.
// FORGET is nobody's to wait for, and left out.
func requestsText(r Result) string {
	ops := slices.SortedFunc(maps.Keys(r.Requests), func(a, b string) int {
		if r.Requests[a] != r.Requests[b] {
			return int(int64(r.Requests[b]) - int64(r.Requests[a]))
		}
		return strings.Compare(a, b)
	})
	total := uint64(0)
	var parts []string
	for _, op := range ops {
		if op == "FORGET" {
			continue
		}
		total += r.Requests[op]
		parts = append(parts, op+" "+perOp(r.Requests[op], r.Ops))
	}
	if total == 0 {
		return "none"
	}
	return fmt.Sprintf("%s (%s)", perOp(total, r.Ops), strings.Join(parts, ", "))
}

func perOp(n uint64, ops int) string {
	v := float64(n) / float64(ops)
	switch {
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	case v >= 0.095:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return fmt.Sprintf("%.3f", v)
}

// measured lists the systems that took part.
func (r *Report) measured() []string {
	var names []string
	for _, s := range r.Systems {
		if s.Skipped == "" {
			names = append(names, s.Name)
		}
	}
	return names
}

// cell is a system's figures in a row: a time for the source and the baseline,
// ratios for the others.
func (r *RowReport) cell(system string) string {
	result := r.Result(system)
	switch {
	case result == nil:
		return "–"
	case result.Failed != "":
		return "failed"
	case r.Unit == Bytes:
		return fmt.Sprintf("%.0f B", result.Value.Median)
	case system == r.Baseline || result.Ratio == nil:
		return Duration(result.Value.Median)
	}
	return result.Ratio.String()
}

// String is "1.2 [1.1–1.4]".
func (s Spread) String() string {
	return fmt.Sprintf("%s× [%s–%s]", ratioText(s.Median), ratioText(s.Min), ratioText(s.Max))
}

func ratioText(v float64) string {
	switch {
	case v >= 99.5:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Duration writes nanoseconds with three digits.
func Duration(ns float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		// What would be rounded up to the next unit belongs there.
		if ns >= unit.size*0.9995 {
			return threeDigits(ns/unit.size) + " " + unit.name
		}
	}
	return threeDigits(ns) + " ns"
}

func threeDigits(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// textWriter remembers the first error.
type textWriter struct {
	w   io.Writer
	err error
}

func (t *textWriter) Write(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.w.Write(p)
	t.err = err
	return n, err
}

func (t *textWriter) printf(format string, args ...any) { fmt.Fprintf(t, format, args...) }
