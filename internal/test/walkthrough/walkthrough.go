// Package walkthrough holds the story that shows idmount's main job: a home
// directory of one user, used by another through an ID-mapped mount. It is a
// shell script, so that the same text runs as a test, as a demonstration, and
// inside kernels that are booted for the purpose.
package walkthrough

import _ "embed"

// Script is the walk-through; its head says how to call it.
//
//go:embed walkthrough.sh
var Script string
