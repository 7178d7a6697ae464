package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
)

// A Case is where a difference was seen.
type Case struct{ Scenario, Caller, Backend, Source, Map string }

// Known is a difference that FUSE cannot close. The patterns are regular
// expressions for the whole of a field, and an empty one matches everything.
type Known struct {
	Reason                            string
	Scenario, Caller, Backend, Source string
	Key, Want, Got                    string
	// Equal, if not nil, has to find the two values the same.
	Equal func(want, got string) bool
	// Of, if not nil, has to find that the case is one of those that differ.
	Of func(c Case, d Difference) bool
	// Because, if not nil, has to find the cause in the rest of the case.
	Because func(want, got Result, d Difference) bool
	count   int
	re      [7]*regexp.Regexp
}

func (k *Known) compile() {
	for i, text := range []string{k.Scenario, k.Caller, k.Backend, k.Source, k.Key, k.Want, k.Got} {
		if text != "" {
			k.re[i] = regexp.MustCompile("^(?:" + text + ")$")
		}
	}
}

func (k *Known) matches(c Case, want, got Result, d Difference) bool {
	for i, text := range []string{c.Scenario, c.Caller, c.Backend, c.Source, d.Key, d.Want, d.Got} {
		if k.re[i] != nil && !k.re[i].MatchString(text) {
			return false
		}
	}
	if k.Equal != nil && !k.Equal(d.Want, d.Got) {
		return false
	}
	if k.Of != nil && !k.Of(c, d) {
		return false
	}
	return k.Because == nil || k.Because(want, got, d)
}

// Narrow reports whether a rule says which values it accepts, or by what cause. A
// key alone accepts anything there.
func (k *Known) Narrow() bool {
	return k.Want != "" || k.Got != "" || k.Equal != nil || k.Because != nil
}

// possible reports whether one of the backends could show the difference on
// one of the sources. Those that no source is special for are seen on ext4.
func (k *Known) possible(backends, sources []string) bool {
	backend := func(b string) bool { return b != "native" && (k.re[2] == nil || k.re[2].MatchString(b)) }
	source := func(s string) bool { return k.re[3] == nil && s == "ext4" || k.re[3] != nil && k.re[3].MatchString(s) }
	return slices.ContainsFunc(backends, backend) && slices.ContainsFunc(sources, source)
}

// A Report counts cases and differences.
type Report struct {
	mu      sync.Mutex
	Cases   int
	Known   []*Known
	Unknown map[string]int // differences by group, backend and what
	Totals  map[place]*total
}

// NewReport returns a report that knows the differences of the list.
func NewReport(list []Known) *Report {
	r := &Report{Unknown: map[string]int{}, Totals: map[place]*total{}}
	for _, k := range list {
		k.compile()
		r.Known = append(r.Known, &k)
	}
	return r
}

// Differences counts a case and returns those of its differences that are not
// known, nor the source's own where that was asked (direct may be nil).
func (r *Report) Differences(c Case, want, got Result, direct *Direct) []Difference {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Cases++
	all := compare(want, got)
	found := len(all)
	all = slices.DeleteFunc(all, func(d Difference) bool {
		return direct != nil && direct.Own(d) || r.explain(c, want, got, d)
	})
	at := place{c.Source, c.Map, c.Caller, c.Backend}
	if r.Totals[at] == nil {
		r.Totals[at] = &total{}
	}
	r.Totals[at].add(total{1, found - len(all), len(all)})
	return all
}

// explain reports whether a difference is known.
func (r *Report) explain(c Case, want, got Result, d Difference) bool {
	for _, k := range r.Known {
		if k.matches(c, want, got, d) {
			k.count++
			return true
		}
	}
	group, _, _ := strings.Cut(c.Scenario, "/")
	key := namePattern.ReplaceAllString(d.Key, "NAME")
	r.Unknown[fmt.Sprintf("%s %s: %s: native %s, got %s", c.Backend, group, key, shorten(d.Want), shorten(d.Got))]++
	return false
}

var namePattern = regexp.MustCompile(`"[^"]*"`)

func shorten(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// unused are the known differences that nothing has shown, of those that the
// backends and sources in question could have shown.
func (r *Report) unused(backends, sources []string) []string {
	var out []string
	for _, k := range r.Known {
		if k.count == 0 && k.possible(backends, sources) {
			out = append(out, k.Reason)
		}
	}
	return out
}

// Used are the reasons of the known differences that were shown.
func (r *Report) Used() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, k := range r.Known {
		if k.count > 0 {
			out = append(out, k.Reason)
		}
	}
	return out
}

// maxLines bounds a summary.
const maxLines = 200

// summary lists the differences that nothing explains, the most frequent first.
func (r *Report) summary() string {
	var lines []string
	for what, n := range r.Unknown {
		lines = append(lines, fmt.Sprintf("%6d %s", n, what))
	}
	sort.Sort(sort.Reverse(sort.StringSlice(lines)))
	if len(lines) > maxLines {
		lines = append(lines[:maxLines], fmt.Sprintf("and %d classes more", len(lines)-maxLines))
	}
	return strings.Join(lines, "\n")
}
