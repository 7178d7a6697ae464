package detect

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/fuseconn"
	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/sys"
)

// Options of a Probe.
type Options struct {
	Map       *idmap.Map // the map to be used; nil probes with a throwaway one
	Recursive bool       // the submounts too
	Access    Access     // "" is AutoAccess

	// SkipCache leaves CoherentCache unknown. To find it out can take a tenth of a
	// second, and a mount says itself what it caches.
	SkipCache bool
}

// Probe tries everything that the backends need on the source at path. The
// error is about the path or the context only; what does not work is in the
// report.
//
// It works in the mount namespace of the calling thread.
func Probe(ctx context.Context, path string, o Options) (*Report, error) {
	src, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return ProbeFile(ctx, src, o)
}

// ProbeFile is Probe for a source that is open; O_PATH will do. Its name is the
// report's path.
func ProbeFile(ctx context.Context, src *os.File, o Options) (*Report, error) {
	r := &Report{Path: src.Name(), Recursive: o.Recursive, Kernel: kernelRelease()}
	if m, err := mounts.Of(src); err == nil {
		r.FSType = m.FSType
	}
	ns := r.probeMap(o.Map)
	if ns != nil {
		defer ns.Close()
	}
	for _, probe := range []func(){
		func() { r.probeMountAPI(src) },
		func() { r.probeIdmap(src, ns, o.Map) },
		func() { r.probeFuseSource(src) },
		func() { r.probeFuse(ctx, src, ns) },
		func() { r.probeIOUring() },
		func() { r.probeFileHandles(src) },
		func() {
			if o.SkipCache {
				r.CoherentCache = unknown(nil, "not tried")
				return
			}
			r.probeCache(src)
		},
		func() { r.probeCapabilities() },
		func() { r.probeRootAccess(src, o.Access) },
		func() { r.SlowRequests = slowRequests(fuseconn.RequestTimeout()) },
	} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		probe()
	}
	return r, ctx.Err()
}

// openSource opens path as O_PATH, automounts included where the kernel has
// open_tree.
func openSource(path string) (*os.File, error) {
	if f, err := sys.OpenTree(path, 0); err == nil {
		return f, nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &sys.Error{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
