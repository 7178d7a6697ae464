package kernels

import (
	"fmt"
	"slices"
	"strings"
)

// backendNames are the columns.
var backendNames = []string{"native", "relay", "translate"}

// table is the matrix as text.
func table(cells []Cell) string {
	var b strings.Builder
	for _, kernel := range kernelsOf(cells) {
		fmt.Fprintf(&b, "\nLinux %s\n%-20s %-10s %-10s %-10s\n", kernel, "source", "native", "relay", "translate")
		for _, source := range sourcesOf(cells, kernel) {
			fmt.Fprintf(&b, "%-20s", source)
			for _, backend := range backendNames {
				fmt.Fprintf(&b, " %-10s", find(cells, kernel, source, backend).Result)
			}
			b.WriteString("\n")
		}
		for _, r := range reasonsOf(cells, kernel) {
			fmt.Fprintf(&b, "  %s\n", r)
		}
	}
	return b.String()
}

// kernelsOf lists the kernels, oldest first.
func kernelsOf(cells []Cell) []string {
	var names []string
	for _, c := range cells {
		if !slices.Contains(names, c.Kernel) {
			names = append(names, c.Kernel)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		var am, an, bm, bn int
		fmt.Sscanf(a, "%d.%d", &am, &an)
		fmt.Sscanf(b, "%d.%d", &bm, &bn)
		return (am*1000 + an) - (bm*1000 + bn)
	})
	return names
}

func sourcesOf(cells []Cell, kernel string) []string {
	var names []string
	for _, c := range cells {
		if c.Kernel == kernel && !slices.Contains(names, c.Source) {
			names = append(names, c.Source)
		}
	}
	return names
}

// find returns the cell, or that of the source that the kernel lacks.
func find(cells []Cell, kernel, source, backend string) Cell {
	for _, c := range cells {
		if c.Kernel == kernel && c.Source == source && (c.Backend == backend || c.Backend == "") {
			return c
		}
	}
	return Cell{Kernel: kernel, Source: source, Backend: backend}
}

// reasonsOf lists why cells of a kernel did not pass, each reason once.
func reasonsOf(cells []Cell, kernel string) []string {
	var reasons []string
	where := map[string][]string{}
	for _, c := range cells {
		if c.Kernel != kernel || c.Reason == "" {
			continue
		}
		key := string(c.Result) + ": " + c.Reason
		if where[key] == nil {
			reasons = append(reasons, key)
		}
		where[key] = append(where[key], strings.TrimSpace(c.Backend+" "+c.Source))
	}
	for i, r := range reasons {
		reasons[i] = strings.Join(where[r], ", ") + ": " + r
	}
	return reasons
}
