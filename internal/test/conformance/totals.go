package conformance

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// place is what totals are kept for.
type place struct{ source, mapName, caller, backend string }

// total counts cases and the facts that differ in them: those that are known and
// those that nothing explains.
type total struct{ cases, known, unexplained int }

func (t *total) add(o total) {
	t.cases += o.cases
	t.known += o.known
	t.unexplained += o.unexplained
}

// table has the totals of each source and map, for all callers and for each, with
// cases, known differences and unexplained ones for each backend.
func (r *Report) table(sources []string, maps []*Map, backends []string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "source\tmap\tcaller\t"+strings.Join(backends, "\t")+"\t(cases/known/unexplained)")
	row := func(source, mapName, caller string, in func(place) bool) {
		fmt.Fprintf(w, "%s\t%s\t%s", source, mapName, caller)
		for _, backend := range backends {
			var sum total
			for p, t := range r.Totals {
				if p.backend == backend && in(p) {
					sum.add(*t)
				}
			}
			fmt.Fprintf(w, "\t%d/%d/%d", sum.cases, sum.known, sum.unexplained)
		}
		fmt.Fprintln(w)
	}
	for _, s := range sources {
		for _, m := range maps {
			here := func(p place) bool { return p.source == s && p.mapName == m.Name }
			row(s, m.Name, "all", here)
			for _, c := range Callers {
				row(s, m.Name, c.Name, func(p place) bool { return here(p) && p.caller == c.Name })
			}
		}
	}
	row("all", "all", "all", func(p place) bool { return slices.Contains(sources, p.source) })
	w.Flush()
	return b.String()
}
