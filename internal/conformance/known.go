package conformance

import (
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// A Case is where a difference was seen.
type Case struct{ Scenario, Caller, Backend, Source, Map string }

// Known is a difference that FUSE cannot close. The patterns are regular
// expressions for the whole of a field, and an empty one matches everything.
type Known struct {
	Reason                            string
	Scenario, Caller, Backend, Source string
	Key, Want, Got                    string
	scenario, caller, backend, source *regexp.Regexp
	key, want, got                    *regexp.Regexp
	count                             int
}

func (k *Known) compile() {
	for _, f := range []struct {
		text string
		re   **regexp.Regexp
	}{
		{k.Scenario, &k.scenario}, {k.Caller, &k.caller}, {k.Backend, &k.backend}, {k.Source, &k.source},
		{k.Key, &k.key}, {k.Want, &k.want}, {k.Got, &k.got},
	} {
		if f.text != "" {
			*f.re = regexp.MustCompile("^(?:" + f.text + ")$")
		}
	}
}

func (k *Known) matches(c Case, d Difference) bool {
	for _, f := range []struct {
		re   *regexp.Regexp
		text string
	}{
		{k.backend, c.Backend}, {k.key, d.Key}, {k.scenario, c.Scenario}, {k.caller, c.Caller}, {k.source, c.Source},
		{k.want, d.Want}, {k.got, d.Got},
	} {
		if f.re != nil && !f.re.MatchString(f.text) {
			return false
		}
	}
	return true
}

// A Report counts cases and differences.
type Report struct {
	Cases   int
	Known   []*Known
	Unknown map[string]int // differences by group, backend and what
}

// NewReport returns a report that knows the differences of the list.
func NewReport(list []Known) *Report {
	r := &Report{Unknown: map[string]int{}}
	for _, k := range list {
		k.compile()
		r.Known = append(r.Known, &k)
	}
	return r
}

// explain reports whether a difference is known.
func (r *Report) explain(c Case, d Difference) bool {
	for _, k := range r.Known {
		if k.matches(c, d) {
			k.count++
			return true
		}
	}
	group, _, _ := strings.Cut(c.Scenario, "/")
	r.Unknown[fmt.Sprintf("%s %s: %s: native %s, got %s", c.Backend, group, d.Key, shorten(d.Want), shorten(d.Got))]++
	return false
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// unused are the known differences that nothing has shown, of those that the
// backends in question could have shown.
func (r *Report) unused(backends []string) []string {
	var out []string
	for _, k := range r.Known {
		possible := false
		for _, b := range backends {
			possible = possible || b != "native" && (k.backend == nil || k.backend.MatchString(b))
		}
		if possible && k.count == 0 {
			out = append(out, k.Reason)
		}
	}
	return out
}

// summary lists the differences that nothing explains, the most frequent first.
func (r *Report) summary() string {
	var lines []string
	for what, n := range r.Unknown {
		lines = append(lines, fmt.Sprintf("%6d %s", n, what))
	}
	sort.Sort(sort.Reverse(sort.StringSlice(lines)))
	if len(lines) > 100 {
		lines = append(lines[:100], fmt.Sprintf("and %d classes more", len(lines)-100))
	}
	return strings.Join(lines, "\n")
}

// KnownDifferences are all that the suite accepts.
var KnownDifferences = []Known{}
