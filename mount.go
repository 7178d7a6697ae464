package idmount

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/internal/mntopt"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/native"
)

// plan is a checked request.
type plan struct {
	source, target string
	src, dst       *os.File // O_PATH; nil once request has taken them
	opts           Options
	mount          mntopt.Options
	choice         detect.Choice
	access         Access // of a FUSE server
	warnings       []string
	report         *detect.Report
	want           Backend

	stacking  int // overlays that are to be stacked on a FUSE mount
	passDepth int // stack depth with which passthrough works; 0 is unknown
}

func (p *plan) mounted() *Mounted {
	m := &Mounted{
		Backend:  p.choice.Backend,
		Reason:   p.choice.Reason,
		Access:   p.access,
		Source:   p.source,
		Target:   p.target,
		Warnings: append(p.opts.Map.Warnings(), p.warnings...),
	}
	if p.choice.Backend != Native {
		m.Cache = p.opts.Cache.String()
	}
	return m
}

// newPlan checks a request and chooses its backend. Nothing is mounted yet.
func newPlan(ctx context.Context, source, target string, o Options) (p *plan, err error) {
	if o.Map.IsZero() {
		return nil, &UsageError{Op: "mount", Path: source, Err: errors.New("no map is given")}
	}
	if o.Backend == "" {
		o.Backend = Auto
	}
	want, err := detect.ParseBackend(string(o.Backend))
	if err != nil {
		return nil, &UsageError{Op: "mount", Path: source, Err: err}
	}
	access, err := detect.ParseAccess(string(o.Access))
	if err != nil {
		return nil, &UsageError{Op: "mount", Path: source, Err: err}
	}
	stacking, err := ParseStacking(string(o.Stacking))
	if err != nil {
		return nil, &UsageError{Op: "mount", Path: source, Err: err}
	}
	options, warnings, err := mountOptions(o.MountOptions)
	if err != nil {
		return nil, &UsageError{Op: "mount", Path: source, Err: err}
	}
	src, dst, err := openPaths(source, target)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			src.Close()
			dst.Close()
		}
	}()
	if caps, _, err := sys.ThreadCaps(); err != nil {
		return nil, err
	} else if !caps.Has(unix.CAP_SYS_ADMIN) {
		return nil, &sys.Error{Op: "mount", Path: source, Detail: "it takes CAP_SYS_ADMIN", Err: unix.EPERM}
	}
	p = &plan{
		source: src.Name(), target: dst.Name(), src: src, dst: dst,
		opts: o, mount: options, warnings: warnings,
	}
	if err := p.checkTarget(want); err != nil {
		return nil, err
	}
	report, err := detect.ProbeFile(ctx, src, detect.Options{Map: &o.Map, Recursive: o.Recursive, Access: access, SkipCache: true})
	if err != nil {
		return nil, err
	}
	choice, err := choose(report, want, options)
	if err != nil {
		return nil, err
	}
	p.report, p.want, p.opts.Access = report, want, access
	if w := swappedWarning(o.Map, src); w != "" {
		p.warnings = append(p.warnings, w)
	}
	p.stacking, p.passDepth = stacking.overlays(report), report.StackDepth
	if err := p.choose(choice); err != nil {
		return nil, err
	}
	return p, nil
}

// choose makes the plan one for a backend.
func (p *plan) choose(choice detect.Choice) error {
	o, source := p.opts, p.source
	if choice.Backend == Translate {
		if err := o.Map.CheckTranslate(); err != nil {
			return &UsageError{Op: "mount", Path: source, Err: err}
		}
	}
	p.choice, p.access = choice, ""
	if choice.Backend == Native {
		return nil
	}
	p.access = p.report.Access
	if p.access == CallerAccess && o.Cache.Mode == CacheExclusive {
		// The kernel writes back when it likes, for nobody.
		return &UsageError{Op: "mount", Path: source, Err: errors.New("cache exclusive does not go with access caller: data written back has no caller")}
	}
	if o.Transport == TransportRing && p.report.IOUring.Verdict == detect.No {
		return fmt.Errorf("mount %s: transport %v: %s", source, o.Transport, p.report.IOUring.Reason)
	}
	if p.access == CallerAccess && o.Access == AutoAccess {
		p.choice.Reason += "; operations run as their callers: " + p.report.RootAccess.Reason
	}
	return nil
}

// next makes the plan one for the backend after the one that has failed, if nobody
// has asked for that one and another can do better.
func (p *plan) next(ctx context.Context, failed error) bool {
	var usage *UsageError
	if p.want != Auto || ctx.Err() != nil || errors.As(failed, &usage) {
		return false
	}
	choice, ok := detect.After(p.report, p.choice, failed)
	if !ok {
		return false
	}
	return p.choose(choice) == nil
}

// Mount shows source at target through the map, and returns when the mount is
// usable. A FUSE mount is served by a new process that outlives the caller. If
// Mount fails, nothing is mounted and no process is left.
//
// A target that is the root of an ID-mapped mount already is EBUSY; the cause is
// ErrMounted if that is the same mount.
//
// It takes CAP_SYS_ADMIN, and for the FUSE backends the capabilities that
// reach all of the source, as root of the initial user namespace has.
func Mount(ctx context.Context, source, target string, o Options) (*Mounted, error) {
	p, err := newPlan(ctx, source, target, o)
	if err != nil {
		return nil, err
	}
	defer p.close()
	var m *Mounted
	err = p.try(ctx, func() (err error) {
		m, err = p.do(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// try calls mount for one backend after the other until it succeeds.
func (p *plan) try(ctx context.Context, mount func() error) error {
	err := mount()
	if err == nil || !p.next(ctx, err) {
		return err
	}
	for {
		failed := p.choice.Backend
		next := mount()
		if next == nil {
			return nil
		}
		err = fmt.Errorf("%w; %s: %w", err, failed, next)
		if !p.next(ctx, next) {
			return err
		}
	}
}

// do mounts by the backend that is chosen.
func (p *plan) do(ctx context.Context) (*Mounted, error) {
	m := p.mounted()
	if p.choice.Backend == Native {
		return m, p.native()
	}
	pid, s, err := p.startDaemon(ctx)
	if err != nil {
		return nil, err
	}
	m.PID = pid
	s.apply(m)
	return m, nil
}

// Serve is Mount, but a FUSE mount is served by the calling process until it is
// unmounted or ctx ends, which unmounts it. ready is called once the mount is
// usable. A native mount needs no server: Serve then returns after ready.
//
// Serving changes the process for good: umask 0, and only the capabilities that
// the server needs. It is for programs that do nothing else.
func Serve(ctx context.Context, source, target string, o Options, ready func(*Mounted)) error {
	p, err := newPlan(ctx, source, target, o)
	if err != nil {
		return err
	}
	defer p.close()
	served := false
	var ended error
	err = p.try(ctx, func() error {
		err := p.serve(ctx, func(m *Mounted) { served = true; ready(m) })
		if served {
			ended, err = err, nil // no other backend would do better
		}
		return err
	})
	if served {
		return ended
	}
	return err
}

// serve is Serve by the backend that is chosen.
func (p *plan) serve(ctx context.Context, ready func(*Mounted)) error {
	m := p.mounted()
	if p.choice.Backend == Native {
		if err := p.native(); err != nil {
			return err
		}
		ready(m)
		return nil
	}
	r, err := p.request()
	if err != nil {
		return err
	}
	defer r.close()
	r.requests = p.opts.Requests
	m.PID = os.Getpid()
	return r.serve(ctx, p.opts.Logger, func(s served) error {
		s.apply(m)
		p.close() // for the mount's time they would keep the source's mount and the target busy
		ready(m)
		return nil
	})
}

// close closes what request has not taken.
func (p *plan) close() {
	p.src.Close()
	p.dst.Close()
}

func (p *plan) native() error {
	return native.MountFile(p.src, p.dst, native.Options{
		Map:       p.opts.Map,
		Recursive: p.opts.Recursive,
		Mount:     p.mount,
	})
}
