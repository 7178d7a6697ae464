package bench

import (
	"fmt"
	"slices"
	"strings"
)

// System is a way to show a directory. Its name is the kind, then its variants
// joined by "+": translate+uring+exclusive.
type System struct {
	Name      string
	Kind      string
	Transport string // of ours: "" is /dev/fuse
	Cache     string // of ours: "" is the default
	NoPass    bool   // of ours: without passthrough
	Multi     bool   // bindfs with several threads
}

// The kinds of systems.
const (
	Source        = "source"
	Native        = "native"
	Relay         = "relay"
	Translate     = "translate"
	Bindfs        = "bindfs"
	FuseOverlayfs = "fuse-overlayfs"
)

// Ours reports whether the system is a FUSE mount of this program.
func (s System) Ours() bool { return s.Kind == Relay || s.Kind == Translate }

// Peer reports whether the system is another program's.
func (s System) Peer() bool { return s.Kind == Bindfs || s.Kind == FuseOverlayfs }

// shortSystems and fullSystems are those of a short and of a full run.
var (
	shortSystems = []string{
		"source", "native", "relay", "translate", "translate+exclusive", "bindfs", "fuse-overlayfs",
	}
	fullSystems = []string{
		"source", "native",
		"relay", "relay+uring",
		"translate", "translate+uring",
		"translate+none", "translate+ttl", "translate+exclusive", "translate+uring+exclusive",
		"translate+nopass", "translate+uring+nopass",
		"bindfs", "bindfs+multi", "fuse-overlayfs",
	}
)

// ParseSystem reads a system's name.
func ParseSystem(name string) (System, error) {
	fail := func(format string, args ...any) (System, error) {
		return System{}, fmt.Errorf("system %q: %s", name, fmt.Sprintf(format, args...))
	}
	kind, rest, _ := strings.Cut(name, "+")
	s := System{Name: name, Kind: kind}
	kinds := []string{Source, Native, Relay, Translate, Bindfs, FuseOverlayfs}
	if !slices.Contains(kinds, kind) {
		return fail("must be one of %s, with variants such as translate+uring", strings.Join(kinds, ", "))
	}
	if rest == "" {
		if strings.HasSuffix(name, "+") {
			return fail("a variant is missing after +")
		}
		return s, nil
	}
	for _, variant := range strings.Split(rest, "+") {
		switch {
		case s.Ours() && (variant == "dev" || variant == "uring") && s.Transport == "":
			s.Transport = variant
		case s.Ours() && slices.Contains([]string{"none", "ttl", "coherent", "exclusive"}, variant) && s.Cache == "":
			s.Cache = variant
		case s.Ours() && variant == "nopass" && !s.NoPass:
			s.NoPass = true
		case s.Kind == Bindfs && variant == "multi" && !s.Multi:
			s.Multi = true
		case s.Ours():
			return fail("the variants of %s are a transport (dev, uring), a cache mode (none, ttl, coherent, exclusive) and nopass", kind)
		case s.Kind == Bindfs:
			return fail("the variant of bindfs is multi")
		default:
			return fail("%s has no variants", kind)
		}
	}
	return s, nil
}

// parseSystems reads a list of names, which may not repeat.
func parseSystems(names []string) ([]System, error) {
	var systems []System
	for i, name := range names {
		s, err := ParseSystem(name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("system %q is named twice", name)
		}
		systems = append(systems, s)
	}
	return systems, nil
}
