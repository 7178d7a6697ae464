package idmount

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"unicode/utf8"

	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/resolve"
)

// Backend is a way to make the mount.
type Backend = detect.Backend

// The backends. Auto takes the first of the others that works.
const (
	Auto      = detect.Auto
	Native    = detect.Native
	Relay     = detect.Relay
	Translate = detect.Translate
)

// SystemResolver looks up the names in maps: users and groups as getent(1) does, and
// user namespaces by /proc.
func SystemResolver() idmap.Resolver { return resolve.System{} }

// Options of a mount. Map is needed, all others may be zero.
type Options struct {
	Map       idmap.Map
	Backend   Backend // "" is Auto
	Recursive bool    // the submounts of the source too, as mounts of their own

	// Access is with whose ids a FUSE server reaches the source: "" or
	// AutoAccess for CallerAccess where the source refuses root, as NFS with
	// root_squash does, and DaemonAccess elsewhere.
	Access Access

	// Cache is what the kernel may keep of the source on a FUSE mount; the zero
	// value is CacheCoherent. A native mount needs none of it.
	Cache Cache

	// Transport is how requests reach the server of a FUSE mount; the zero value
	// is TransportAuto.
	Transport Transport

	// Stacking is how many overlays can be stacked on a FUSE mount; "" is
	// StackingAuto.
	Stacking Stacking

	// MountOptions is a list as mount(8) takes it: ro, nosuid, nodev, noexec,
	// noatime and friends, nosymfollow, private, slave, shared, unbindable; for a FUSE
	// mount context= and the other labels of SELinux. What can't do anything is in the
	// warnings of Mounted. What mount(8) reads for itself is ignored.
	MountOptions string

	// Daemon is the program that serves FUSE mounts, an absolute path; ""
	// looks up idmount in PATH.
	Daemon string

	Logger *slog.Logger // nil logs nothing

	// NoPassthrough makes every read and write of a FUSE mount a request, as on
	// kernels before 6.9. It exists to test and measure that.
	NoPassthrough bool

	// Requests counts what a FUSE mount is asked for, by opcode. Only Serve
	// counts: with Mount the requests are another process's. nil counts nothing.
	Requests *Requests
}

// Access is with whose ids a FUSE server reaches the source.
type Access = detect.Access

// The kinds of access. A native mount needs none of them: there the kernel acts
// as the caller.
const (
	AutoAccess   = detect.AutoAccess
	DaemonAccess = detect.DaemonAccess
	CallerAccess = detect.CallerAccess
)

// Cache says what the kernel may keep of the source; see there.
type Cache = fusefs.Cache

// The modes of a Cache.
const (
	CacheCoherent  = fusefs.CacheCoherent
	CacheTTL       = fusefs.CacheTTL
	CacheNone      = fusefs.CacheNone
	CacheExclusive = fusefs.CacheExclusive
)

// ParseCache reads coherent, ttl=DURATION, none or exclusive.
func ParseCache(s string) (Cache, error) { return fusefs.ParseCache(s) }

// Transport is how requests reach the server; see there.
type Transport = fusefs.Transport

// The transports.
const (
	TransportAuto   = fusefs.TransportAuto
	TransportDevice = fusefs.TransportDevice
	TransportRing   = fusefs.TransportRing
)

// ParseTransport reads auto, dev or uring.
func ParseTransport(s string) (Transport, error) { return fusefs.ParseTransport(s) }

// Requests counts FUSE requests by opcode; the zero value is ready.
type Requests = fusefs.Requests

// Mounted is what a mount has become.
type Mounted struct {
	Backend Backend `json:"backend"`
	Reason  string  `json:"reason"`           // why this backend
	Access  Access  `json:"access,omitempty"` // of the FUSE server
	Cache   string  `json:"cache,omitempty"`  // what a FUSE mount really has

	// CacheReason is why Cache is not as it was asked for; "" if it is.
	CacheReason string `json:"cache_reason,omitempty"`

	// Passthrough says that reads and writes go past the server of a FUSE mount, and
	// Stacking how many overlays can be stacked on it. StackingReason is why there is
	// no passthrough, if that is to be able to stack more.
	Passthrough    bool     `json:"passthrough,omitempty"`
	Stacking       Stacking `json:"stacking,omitempty"`
	StackingReason string   `json:"stacking_reason,omitempty"`

	Source   string   `json:"source"`
	Target   string   `json:"target"`
	PID      int      `json:"pid,omitempty"` // of the FUSE server; 0 for native
	Warnings []string `json:"warnings,omitempty"`

	// Submounts has the mounts below the source of a recursive mount, unless one FUSE
	// mount shows all of them.
	Submounts []Submount `json:"submounts,omitempty"`
}

// MarshalJSON adds source_bytes and target_bytes for paths that are no UTF-8, which a
// string of JSON can't have.
func (m Mounted) MarshalJSON() ([]byte, error) {
	type plain Mounted
	return json.Marshal(struct {
		plain
		SourceBytes []byte `json:"source_bytes,omitempty"`
		TargetBytes []byte `json:"target_bytes,omitempty"`
	}{plain(m), notUTF8(m.Source), notUTF8(m.Target)})
}

// UnmarshalJSON reads what MarshalJSON gives.
func (m *Mounted) UnmarshalJSON(data []byte) error {
	type plain Mounted
	var all struct {
		plain
		SourceBytes []byte `json:"source_bytes"`
		TargetBytes []byte `json:"target_bytes"`
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	*m = Mounted(all.plain)
	if all.SourceBytes != nil {
		m.Source = string(all.SourceBytes)
	}
	if all.TargetBytes != nil {
		m.Target = string(all.TargetBytes)
	}
	return nil
}

func notUTF8(path string) []byte {
	if utf8.ValidString(path) {
		return nil
	}
	return []byte(path)
}

// UsageError is a request that no machine could carry out: the caller has to
// change it.
type UsageError struct {
	Op, Path string
	Err      error
}

func (e *UsageError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err)
}

func (e *UsageError) Unwrap() error { return e.Err }
