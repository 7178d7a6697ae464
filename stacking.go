package idmount

import (
	"fmt"
	"strconv"

	"github.com/idmount/idmount/detect"
)

// Stacking is how many overlays, one on the other, can be stacked on a FUSE mount: as
// layers, or below what are layers of the next one.
//
// The kernel stacks two file systems at most. With passthrough (Linux 6.9), a FUSE mount
// counts as one more than its source, and without it as none. So the price of an overlay
// more can be that reads and writes go through the server:
//
//	source           passthrough with      without
//	disk, NFS        0, 1                  2
//	overlay          0                     1, 2
type Stacking string

// StackingAuto is 1, as containers have an overlay on the root file system that they are
// given; and 2 where the kernel could ID-map the source itself, and a FUSE backend that
// was asked for stands in for that.
const StackingAuto Stacking = "auto"

// ParseStacking reads auto, 0, 1 or 2. An empty text is the default, auto.
func ParseStacking(s string) (Stacking, error) {
	switch s {
	case "":
		return StackingAuto, nil
	case string(StackingAuto), "0", "1", "2":
		return Stacking(s), nil
	}
	return "", fmt.Errorf("stacking %q: want auto, 0, 1 or 2", s)
}

// overlays returns the number for a source.
func (s Stacking) overlays(r *detect.Report) int {
	if n, err := strconv.Atoi(string(s)); err == nil {
		return n
	}
	if r.Supports(Native).Verdict == detect.Yes {
		return 2
	}
	return 1
}
