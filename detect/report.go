package detect

import (
	"fmt"
	"io"
	"strings"
)

// Report is what Probe found out about one source.
type Report struct {
	Path      string `json:"path"`
	FSType    string `json:"fstype"`    // of the source's mount; "" if not in the mount table
	Kernel    string `json:"kernel"`    // release, an annotation: nothing is concluded from it
	Recursive bool   `json:"recursive"` // submounts were probed too

	MountAPI Finding `json:"mount_api"`      // open_tree and mount_setattr exist
	UserNS   Finding `json:"user_namespace"` // one can be made, with the map
	Map      Finding `json:"map"`            // the kernel can take a map of this size
	Idmap    Finding `json:"idmap"`          // the kernel idmaps the source

	// Mounts has the Idmap finding of each mount, with a recursive probe.
	Mounts []MountFinding `json:"mounts,omitempty"`

	FuseSource   Finding `json:"fuse_source"`   // the source is something that a FUSE mount can show
	FuseDevice   Finding `json:"fuse_device"`   // /dev/fuse opens
	Fuse         Finding `json:"fuse"`          // a FUSE mount answers our INIT
	Relay        Finding `json:"relay"`         // the kernel idmaps a FUSE mount
	TranslateMap Finding `json:"translate_map"` // the translate backend can do this map

	Passthrough  Finding `json:"passthrough"` // reads and writes bypass the server, for this source
	IOUring      Finding `json:"io_uring"`    // FUSE over io_uring
	FileHandles  Finding `json:"file_handles"`
	Capabilities Finding `json:"capabilities"` // of this process, that a FUSE server needs

	// CoherentCache says whether a FUSE mount can cache the source coherently; if
	// not, by default it keeps nothing, and every look-up asks the server.
	CoherentCache Finding `json:"coherent_cache"`

	// RootAccess says whether the source lets root do all that root may do
	// elsewhere, and Access how a FUSE server is to reach it, therefore or
	// because it was asked for.
	RootAccess Finding `json:"root_access"`
	Access     Access  `json:"access"`

	// SlowRequests says whether a request of a FUSE mount may take any time: else the
	// kernel ends a mount when one takes too long.
	SlowRequests Finding `json:"slow_requests"`

	// StackDepth is the FUSE stack depth with which passthrough works on the
	// source, 1 or 2; 0 if it does not.
	StackDepth int `json:"stack_depth,omitempty"`
	// MissingCapabilities names them as capabilities(7) does.
	MissingCapabilities []string `json:"missing_capabilities,omitempty"`
	// Protocol is what the kernel said in its INIT request; nil without FUSE.
	Protocol *Protocol `json:"protocol,omitempty"`
}

// MountFinding is the Idmap finding of one mount of a tree.
type MountFinding struct {
	Path    string  `json:"path"`
	FSType  string  `json:"fstype"`
	Finding Finding `json:"finding"`
}

// Supports says whether a backend works here: the first of its conditions that
// is a No, else the first that is Unknown, else a Yes.
func (r *Report) Supports(b Backend) Finding {
	var needs []Finding
	switch b {
	case Native:
		needs = []Finding{r.MountAPI, r.Map, r.UserNS, r.Idmap}
	case Relay:
		needs = []Finding{r.FuseSource, r.FuseDevice, r.Fuse, r.Map, r.UserNS, r.Relay, r.relayAccess()}
	case Translate:
		needs = []Finding{r.TranslateMap, r.FuseSource, r.FuseDevice, r.Fuse}
	default:
		return unknown(nil, "%q is no backend", b)
	}
	for _, v := range []Verdict{No, Unknown} {
		for _, f := range needs {
			if f.Verdict == v {
				return f
			}
		}
	}
	if b == Relay {
		return r.Relay
	}
	return needs[len(needs)-1]
}

// WriteText writes the report as a table for people.
func (r *Report) WriteText(w io.Writer) error {
	width := len("user namespace  ")
	for _, m := range r.Mounts {
		width = max(width, len(m.Path)+4)
	}
	var err error
	print := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	fstype := r.FSType
	if fstype == "" {
		fstype = "unknown type"
	}
	print("%s: %s, Linux %s\n\n", r.Path, fstype, r.Kernel)

	line := func(name, verdict, reason string) {
		print("%-*s%-8s%s\n", width, name, verdict, reason)
	}
	row := func(name string, f Finding) { line(name, f.Verdict.String(), f.Reason) }
	line("BACKEND", "WORKS", "REASON")
	for _, b := range []Backend{Native, Relay, Translate} {
		row(string(b), r.Supports(b))
	}
	print("\n")
	line("PROBE", "RESULT", "REASON")
	row("mount api", r.MountAPI)
	row("user namespace", r.UserNS)
	row("map", r.Map)
	row("idmap", r.Idmap)
	for _, m := range r.Mounts {
		row("  "+m.Path, m.Finding)
	}
	row("fuse source", r.FuseSource)
	row("fuse device", r.FuseDevice)
	row("fuse", r.Fuse)
	row("fuse idmap", r.Relay)
	row("translated map", r.TranslateMap)
	row("passthrough", r.Passthrough)
	row("io_uring", r.IOUring)
	row("file handles", r.FileHandles)
	row("coherent cache", r.CoherentCache)
	row("capabilities", r.Capabilities)
	row("root access", r.RootAccess)
	row("slow requests", r.SlowRequests)
	if p := r.Protocol; p != nil {
		print("\nFUSE protocol %d.%d: %s\n", p.Major, p.Minor, strings.Join(p.Flags, " "))
	}
	return err
}
