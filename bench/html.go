package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"sync"
)

//go:embed report.html
var pageText string

// page is parsed when it is needed: every start of the program would pay for it.
var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report.html").Parse(pageText))
})

// WriteHTML writes the report as one web page, which needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	return page().Execute(w, r.page())
}

// htmlPage is what the template shows.
type htmlPage struct {
	*Report
	Charts  []chart
	Columns []string
	Table   []tableRow
	Notes   []string
}

type tableRow struct {
	Title string
	Cells []string
}

// chart is a row's picture: a line for each system, on an axis of ratios that
// all rows share, so that they can be compared, or on one of their own for
// other units.
type chart struct {
	Title    string
	Subtitle string
	Height   float64
	Ticks    []tick
	One      float64 // where the baseline is; 0 if the axis has none
	Lines    []chartLine
	Requests []requestLine
}

type tick struct {
	X    float64
	Text string
}

type chartLine struct {
	Name         string
	Class        string // of system: base, ours, peer
	Y            float64
	From, To     float64 // the stem
	X, Low, High float64 // median and spread
	Text, Hover  string
	Failed       string
	Shape        string // differs by class: colour is not needed to tell them apart
}

type requestLine struct{ System, Text string }

// The picture's measures; the template knows the width.
const (
	chartLeft  = 190.0
	chartRight = 600.0
	chartLineH = 24.0
	chartTop   = 8.0
)

func (r *Report) page() htmlPage {
	p := htmlPage{Report: r, Columns: r.measured()}
	scale := r.ratioScale()
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Skipped != "" {
			p.Notes = append(p.Notes, fmt.Sprintf("%s: %s", row.Title, row.Skipped))
			continue
		}
		p.Charts = append(p.Charts, row.chart(scale))
		cells := tableRow{Title: row.Title}
		for _, system := range p.Columns {
			cells.Cells = append(cells.Cells, row.cell(system))
		}
		p.Table = append(p.Table, cells)
	}
	for _, s := range r.Systems {
		if s.Skipped != "" {
			p.Notes = append(p.Notes, fmt.Sprintf("%s is left out: %s", s.Name, s.Skipped))
		}
	}
	return p
}

// logScale maps ratios to places, equal ratios to equal distances.
type logScale struct{ low, high float64 }

func (s logScale) x(v float64) float64 {
	v = min(max(v, s.low), s.high)
	return chartLeft + (chartRight-chartLeft)*math.Log(v/s.low)/math.Log(s.high/s.low)
}

func (s logScale) ticks() []tick {
	var out []tick
	for decade := math.Pow(10, math.Floor(math.Log10(s.low))); decade <= s.high; decade *= 10 {
		for _, step := range []float64{1, 2, 5} {
			// Over many decades only the powers of ten have room.
			if step > 1 && s.high/s.low > 2000 {
				continue
			}
			if v := decade * step; v >= s.low*0.999 && v <= s.high*1.001 {
				out = append(out, tick{X: s.x(v), Text: fmt.Sprintf("%g×", v)})
			}
		}
	}
	return out
}

// ratioScale covers all ratios of the report.
func (r *Report) ratioScale() logScale {
	s := logScale{low: 0.8, high: 2}
	for _, row := range r.Rows {
		for _, result := range row.Results {
			if result.Ratio != nil {
				s.low = min(s.low, result.Ratio.Min)
				s.high = max(s.high, result.Ratio.Max)
			}
		}
	}
	s.low = max(s.low, 0.05)
	return s
}

func (r *RowReport) chart(scale logScale) chart {
	c := chart{Title: r.Title}
	ratio := r.Unit == Nanoseconds && r.Baseline != ""
	most := 0.0
	for _, result := range r.Results {
		most = max(most, result.Value.Max)
	}
	x := func(v float64) float64 { return chartLeft + (chartRight-chartLeft)*v/max(most, 1) }
	if ratio {
		x = scale.x
		c.Ticks = scale.ticks()
		c.One = scale.x(1)
		if base := r.Result(r.Baseline); base != nil {
			c.Subtitle = fmt.Sprintf("1× is %s, %s", r.Baseline, Duration(base.Value.Median))
		}
	}
	for i, result := range r.Results {
		line := chartLine{Name: result.System, Y: chartTop + chartLineH*(float64(i)+0.5), Class: "base", Shape: "diamond"}
		if s, err := ParseSystem(result.System); err == nil && s.Ours() {
			line.Class, line.Shape = "ours", "circle"
		} else if err == nil && s.Peer() {
			line.Class, line.Shape = "peer", "square"
		}
		shown := result.Value
		switch {
		case result.Failed != "":
			line.Failed = "failed: " + result.Failed
		case ratio && result.Ratio == nil:
			line.Failed = "no figures"
		case ratio:
			shown = *result.Ratio
			line.From = c.One
			line.Text = ratioText(shown.Median) + "×"
			line.Hover = fmt.Sprintf("%s: %s, %s in the median of %d rounds", result.System, shown, Duration(result.Value.Median), len(result.Values))
		default:
			line.From = chartLeft
			line.Text = r.valueText(result.Value.Median)
			line.Hover = fmt.Sprintf("%s: %s", result.System, line.Text)
		}
		if line.Failed == "" {
			line.X, line.Low, line.High = x(shown.Median), x(shown.Min), x(shown.Max)
			line.From, line.To = min(line.From, line.X), max(line.From, line.X)
		}
		c.Lines = append(c.Lines, line)
		if result.Requests != nil && result.Ops > 0 {
			c.Requests = append(c.Requests, requestLine{result.System, requestsText(result)})
		}
	}
	c.Height = chartTop + chartLineH*float64(len(c.Lines)) + 28
	return c
}

// valueText is a value with its unit.
func (r *RowReport) valueText(v float64) string {
	if r.Unit == Bytes {
		return fmt.Sprintf("%.0f B", v)
	}
	return Duration(v)
}

// The template's arithmetic.

// AxisY is where the axis is.
func (c chart) AxisY() float64 { return c.Height - 24 }

// TickY is where its labels are.
func (c chart) TickY() float64 { return c.Height - 8 }

// TextY is the base line of a line's text.
func (l chartLine) TextY() float64 { return l.Y + 4 }

// TextX is where its figure is: right of everything drawn.
func (l chartLine) TextX() float64 { return max(l.X, l.High) + 12 }

// Diamond and Square are the outlines of these marks.
func (l chartLine) Diamond() string {
	return fmt.Sprintf("M%.1f %.1fl6 6l-6 6l-6-6z", l.X, l.Y-6)
}

// Square is the outline of that mark.
func (l chartLine) Square() string {
	return fmt.Sprintf("M%.1f %.1fh10v10h-10z", l.X-5, l.Y-5)
}
