package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// Report is what a run found out.
type Report struct {
	Version string         `json:"version"` // of idmount
	Date    time.Time      `json:"date"`
	Machine Machine        `json:"machine"`
	Full    bool           `json:"full"`
	Rounds  int            `json:"rounds"`
	Systems []SystemReport `json:"systems"`
	Rows    []RowReport    `json:"rows"`
}

// SystemReport says of a system whether it took part.
type SystemReport struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // of a peer's program
	Skipped string `json:"skipped,omitempty"` // why it did not take part
}

// RowReport is a row's figures.
type RowReport struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Unit     Unit     `json:"unit"`
	Baseline string   `json:"baseline,omitempty"` // the system that ratios are to
	Skipped  string   `json:"skipped,omitempty"`
	Results  []Result `json:"results"`
}

// Result is a system's in a row.
type Result struct {
	System string    `json:"system"`
	Failed string    `json:"failed,omitempty"`
	Values []float64 `json:"values,omitempty"` // by round, in the row's unit
	Value  Spread    `json:"value"`            // of these
	Ratio  *Spread   `json:"ratio,omitempty"`  // to the baseline of the same round

	// Ops is how many operations a value was taken over, and Requests what our
	// server was asked for meanwhile, by opcode, in the last round.
	Ops      int                `json:"ops,omitempty"`
	Requests map[string]uint64  `json:"requests,omitempty"`
	Extra    map[string]float64 `json:"extra,omitempty"`
}

// Result returns a system's result in the row, nil if there is none.
func (r *RowReport) Result(system string) *Result {
	for i := range r.Results {
		if r.Results[i].System == system {
			return &r.Results[i]
		}
	}
	return nil
}

// Row returns the row of a name, nil if there is none.
func (r *Report) Row(name string) *RowReport {
	for i := range r.Rows {
		if r.Rows[i].Name == name {
			return &r.Rows[i]
		}
	}
	return nil
}

// Failures lists what our own systems could not do.
func (r *Report) Failures() []string {
	var out []string
	for _, row := range r.Rows {
		for _, result := range row.Results {
			s, err := ParseSystem(result.System)
			if err == nil && !s.Peer() && result.Failed != "" {
				out = append(out, fmt.Sprintf("%s on %s: %s", row.Name, result.System, result.Failed))
			}
		}
	}
	return out
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// ReadJSON reads a report that WriteJSON has written.
func ReadJSON(r io.Reader) (*Report, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	report := new(Report)
	if err := d.Decode(report); err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	return report, nil
}

// Merge adds the rows and systems of another run on the same machine, so that a
// long run can be made in pieces. Rows that are there already are replaced.
func (r *Report) Merge(other *Report) error {
	if r.Machine.Kernel != other.Machine.Kernel || r.Machine.CPU != other.Machine.CPU || r.Machine.FileSystem != other.Machine.FileSystem {
		return fmt.Errorf("merge reports: they are of different machines: %s and %s", r.Machine, other.Machine)
	}
	for _, s := range other.Systems {
		at := slices.IndexFunc(r.Systems, func(have SystemReport) bool { return have.Name == s.Name })
		switch {
		case at < 0:
			r.Systems = append(r.Systems, s)
		case r.Systems[at].Skipped != "":
			r.Systems[at] = s
		}
	}
	for _, row := range other.Rows {
		at := slices.IndexFunc(r.Rows, func(have RowReport) bool { return have.Name == row.Name })
		if at < 0 {
			r.Rows = append(r.Rows, row)
		} else {
			r.Rows[at] = row
		}
	}
	r.Date = other.Date
	if r.Version != other.Version {
		r.Version += ", " + other.Version
	}
	return nil
}

// rowReport gathers samples.
type rowReport struct {
	row     Row
	skipped string
	samples map[string][]sample // by system, then by round
	failed  map[string]string
}

func (rr *rowReport) report(systems []System) RowReport {
	out := RowReport{Name: rr.row.Name, Title: rr.row.Title, Unit: rr.row.Unit, Skipped: rr.skipped}
	if out.Unit == "" {
		out.Unit = Nanoseconds
	}
	values := func(system string) []float64 {
		var out []float64
		for _, s := range rr.samples[system] {
			out = append(out, s.value)
		}
		return out
	}
	for _, candidate := range []string{Native, Source} {
		if len(rr.samples[candidate]) > 0 && rr.failed[candidate] == "" {
			out.Baseline = candidate
			break
		}
	}
	for _, s := range systems {
		all := rr.samples[s.Name]
		if len(all) == 0 && rr.failed[s.Name] == "" {
			continue
		}
		result := Result{System: s.Name, Failed: rr.failed[s.Name]}
		if len(all) > 0 && result.Failed == "" {
			result.Values = values(s.Name)
			result.Value = spread(result.Values)
			last := all[len(all)-1]
			result.Ops, result.Requests, result.Extra = last.ops, last.requests, last.extra
			if of := ratios(result.Values, values(out.Baseline)); len(of) > 0 {
				ratio := spread(of)
				result.Ratio = &ratio
			}
		}
		out.Results = append(out.Results, result)
	}
	return out
}
