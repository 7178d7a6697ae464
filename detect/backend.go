package detect

import "fmt"

// Backend is a way to make an idmapped mount, or Auto for the best that works.
type Backend string

const (
	Auto      Backend = "auto"
	Native    Backend = "native"    // the kernel idmaps the source itself
	Relay     Backend = "relay"     // the kernel idmaps our FUSE mount of the source
	Translate Backend = "translate" // our FUSE server translates ids
)

// ParseBackend reads a backend's name; "" is Auto.
func ParseBackend(name string) (Backend, error) {
	switch b := Backend(name); b {
	case "":
		return Auto, nil
	case Auto, Native, Relay, Translate:
		return b, nil
	}
	return "", fmt.Errorf("backend %q: must be auto, native, relay or translate", name)
}
