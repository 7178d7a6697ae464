package kernels

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Result is what came of a cell.
type Result string

const (
	Pass Result = "pass"
	Fail Result = "fail"
	None Result = "none" // the kernel has no such thing
)

// A Cell is one kernel, source and backend.
type Cell struct {
	Kernel  string `json:"kernel"`
	Source  string `json:"source"`
	Backend string `json:"backend"` // "" where the kernel lacks the source itself
	Result  Result `json:"result"`
	Reason  string `json:"reason,omitempty"`
	Cases   int    `json:"cases,omitempty"` // of the conformance suite
	// Rules are the reasons of the known differences that hid something.
	Rules []string `json:"rules,omitempty"`
}

// cellPrefix begins the lines by which a guest hands its cells over.
const cellPrefix = "CELL "

func (c Cell) line() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return cellPrefix + string(text)
}

// parseCells picks the cells out of what a guest has printed.
func parseCells(output string) ([]Cell, error) {
	var cells []Cell
	for line := range strings.Lines(output) {
		// The testing package may have begun the line.
		i := strings.Index(line, cellPrefix+"{")
		if i < 0 {
			continue
		}
		var c Cell
		if err := json.Unmarshal([]byte(line[i+len(cellPrefix):]), &c); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		cells = append(cells, c)
	}
	return cells, nil
}
