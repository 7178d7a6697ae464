package kernels

import (
	"fmt"
	"strings"
)

// The tables of docs/kernels.md stand between these lines.
const (
	documentBegin = "<!-- written by make test-kernels -->\n"
	documentEnd   = "<!-- end of the tables -->\n"
)

var marks = map[Result]string{Pass: "yes", None: "no", Fail: "fails"}

// document is the matrix as the tables of docs/kernels.md.
func document(cells []Cell) string {
	var b strings.Builder
	for _, kernel := range kernelsOf(cells) {
		fmt.Fprintf(&b, "\n### Linux %s\n\n| source | native | relay | translate |\n| --- | --- | --- | --- |\n", kernel)
		for _, source := range sourcesOf(cells, kernel) {
			fmt.Fprintf(&b, "| %s |", source)
			for _, backend := range backendNames {
				fmt.Fprintf(&b, " %s |", marks[find(cells, kernel, source, backend).Result])
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
		for _, r := range reasonsOf(cells, kernel) {
			fmt.Fprintf(&b, "- %s\n", r)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// compareDocument returns what the tables in text say otherwise than cells.
func compareDocument(text string, cells []Cell) []string {
	said := map[string]string{}
	kernel := ""
	for line := range strings.Lines(text) {
		if k, ok := strings.CutPrefix(line, "### Linux "); ok {
			kernel = strings.TrimSpace(k)
		}
		columns := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(columns) != 1+len(backendNames) {
			continue
		}
		for i, backend := range backendNames {
			said[kernel+" "+strings.TrimSpace(columns[0])+" "+backend] = strings.TrimSpace(columns[i+1])
		}
	}
	var wrong []string
	for _, c := range cells {
		for _, backend := range backendNames {
			if c.Backend != backend && c.Backend != "" || c.Result == Fail {
				continue
			}
			where := c.Kernel + " " + c.Source + " " + backend
			if said[where] != marks[c.Result] {
				wrong = append(wrong, fmt.Sprintf("%s: the document says %q, the kernel %q", where, said[where], marks[c.Result]))
			}
		}
	}
	return wrong
}

// replaceTables puts tables where the old ones were in text.
func replaceTables(text, tables string) (string, error) {
	before, rest, ok := strings.Cut(text, documentBegin)
	if !ok {
		return "", fmt.Errorf("no line %q", strings.TrimSpace(documentBegin))
	}
	_, after, ok := strings.Cut(rest, documentEnd)
	if !ok {
		return "", fmt.Errorf("no line %q", strings.TrimSpace(documentEnd))
	}
	return before + documentBegin + tables + documentEnd + after, nil
}
