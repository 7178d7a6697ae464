package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// table is a part of a document that is made from a report.
type table struct {
	name, title string
	write       func(*Report, io.Writer) error
}

// The systems of tables that have no room for all.
var (
	mainSystems  = []string{"source", "native", "relay", "translate", "translate+uring", "bindfs", "bindfs+multi", "fuse-overlayfs"}
	cacheSystems = []string{"native", "translate+none", "translate+ttl", "translate", "translate+exclusive", "translate+uring+exclusive"}
	passSystems  = []string{"native", "translate", "translate+nopass", "translate+uring+nopass", "bindfs+multi", "fuse-overlayfs"}
	ourSystems   = []string{"relay", "translate", "translate+uring", "translate+none", "translate+exclusive", "translate+uring+exclusive", "translate+nopass", "translate+uring+nopass"}
)

var tables = []table{
	{"machine", "The run", (*Report).writeRun},
	{"goals", "What is to be reached, and what is", (*Report).WriteGoals},
	{"main", "All workloads", func(r *Report, w io.Writer) error { return r.WriteMarkdown(w, r.only(mainSystems)) }},
	{"caches", "Cache modes", func(r *Report, w io.Writer) error { return r.WriteMarkdown(w, r.only(cacheSystems)) }},
	{"passthrough", "Without passthrough", func(r *Report, w io.Writer) error { return r.WriteMarkdown(w, r.only(passSystems)) }},
	{"peers", "How many times faster than the fastest peer", func(r *Report, w io.Writer) error { return r.WritePeers(w, r.only(ourSystems)) }},
	{"requests", "Requests", func(r *Report, w io.Writer) error {
		return r.WriteRequests(w, []string{"translate+none", "translate", "translate+exclusive", "translate+nopass"})
	}},
	{"memory", "Memory", (*Report).WriteMemory},
}

// only returns those of the systems that took part.
func (r *Report) only(systems []string) []string {
	measured := r.measured()
	return slices.DeleteFunc(slices.Clone(systems), func(s string) bool { return !slices.Contains(measured, s) })
}

// writeRun says where the figures come from.
func (r *Report) writeRun(w io.Writer) error {
	kind := "short"
	if r.Full {
		kind = "full"
	}
	t := &textWriter{w: w}
	t.printf("%s; a %s run of %d rounds on %s, idmount %s.", r.Machine, kind, r.Rounds, r.Date.Format("2 January 2006"), r.Version)
	for _, s := range r.Systems {
		if s.Version != "" && !strings.Contains(s.Name, "+") {
			t.printf(" %s is version %s.", s.Name, s.Version)
		}
	}
	t.printf("\n")
	return t.err
}

// WriteTables writes all tables of a report.
func WriteTables(w io.Writer, r *Report) error {
	for _, table := range tables {
		if _, err := fmt.Fprintf(w, "## %s\n\n", table.title); err != nil {
			return err
		}
		if err := table.write(r, w); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

const (
	tableBegin = "<!-- bench: "
	tableEnd   = "<!-- /bench -->"
)

// UpdateTables replaces the tables of a document, each between the lines
// "<!-- bench: NAME -->" and "<!-- /bench -->".
func UpdateTables(document string, r *Report) (string, error) {
	var out strings.Builder
	rest := document
	for {
		before, after, found := strings.Cut(rest, tableBegin)
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, after, ok := strings.Cut(after, " -->\n")
		_, after, ended := strings.Cut(after, tableEnd)
		if !ok || !ended {
			return "", fmt.Errorf("a table has no end: %q is missing", tableEnd)
		}
		rest = after
		written := false
		for _, table := range tables {
			if table.name != name {
				continue
			}
			fmt.Fprintf(&out, "%s%s -->\n", tableBegin, name)
			if err := table.write(r, &out); err != nil {
				return "", err
			}
			out.WriteString(tableEnd)
			written = true
		}
		if !written {
			return "", fmt.Errorf("table %q: there is none of this name", name)
		}
	}
}
