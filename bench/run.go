package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a run.
type Options struct {
	Dir       string   // where to make the scratch directory
	Program   string   // idmount itself, which serves our mounts
	Version   string   // of it, for the report
	Full      bool     // all systems and workloads, larger, in more rounds
	Rounds    int      // 0 takes 3, with Full 5
	Systems   []string // nil takes those of a short or full run
	Workloads []string // names of workloads or of their rows; nil takes all
	Progress  func(Progress)
}

// Progress says what is being measured.
type Progress struct {
	Workload    string
	Step, Steps int // of the workloads
	Round       int // from 1; 0 while it is prepared
	Rounds      int
	System      string
}

// OptionError is a run that nobody could make.
type OptionError struct{ Err error }

func (e *OptionError) Error() string { return e.Err.Error() }
func (e *OptionError) Unwrap() error { return e.Err }

// Workloads returns the names that Options.Workloads takes, and Systems those
// of a full run.
func Workloads() []string {
	var names []string
	for _, w := range workloads() {
		names = append(names, w.name)
	}
	return names
}

// Systems returns the systems of a full run.
func Systems() []string { return slices.Clone(fullSystems) }

// Run measures. If the context ends it returns its error, with everything
// removed. A failure of one system in one workload is part of the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	r, err := newRun(o)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("measure mounts: %w", unix.EPERM)
	}
	if err := r.makeScratch(); err != nil {
		return nil, err
	}
	err = r.all(ctx)
	if removeErr := r.removeScratch(); err == nil {
		err = removeErr
	}
	if err != nil {
		return nil, err
	}
	return r.report, nil
}

// run is a run under way.
type run struct {
	opts      Options
	env       *env
	workloads []*workload
	report    *Report
	scratch   string
}

func newRun(o Options) (*run, error) {
	fail := func(err error) (*run, error) { return nil, &OptionError{err} }
	switch {
	case o.Rounds < 0:
		return fail(fmt.Errorf("%d rounds: must be 1 or more", o.Rounds))
	case o.Rounds == 0 && o.Full:
		o.Rounds = 5
	case o.Rounds == 0:
		o.Rounds = 3
	}
	names := o.Systems
	if names == nil && o.Full {
		names = fullSystems
	} else if names == nil {
		names = shortSystems
	}
	systems, err := parseSystems(names)
	if err != nil {
		return fail(err)
	}
	chosen, err := chooseWorkloads(workloads(), o.Workloads, o.Full)
	if err != nil {
		return fail(err)
	}
	info, err := os.Stat(o.Dir)
	if err != nil {
		return fail(err)
	}
	if !info.IsDir() {
		return fail(&os.PathError{Op: "measure", Path: o.Dir, Err: unix.ENOTDIR})
	}
	return &run{
		opts:      o,
		workloads: chosen,
		env:       &env{full: o.Full, program: o.Program, systems: systems, prepared: make(map[string]bool)},
		report:    &Report{Version: o.Version, Full: o.Full},
	}, nil
}

// chooseWorkloads by the names of workloads or of their rows.
func chooseWorkloads(all []*workload, names []string, full bool) ([]*workload, error) {
	var chosen []*workload
	wanted := make(map[string]bool)
	for _, w := range all {
		take := names == nil && (full || !w.fullOnly)
		for _, name := range names {
			if name == w.name || slices.ContainsFunc(w.rows, func(r Row) bool { return r.Name == name }) {
				take, wanted[name] = true, true
			}
		}
		if take {
			chosen = append(chosen, w)
		}
	}
	for _, name := range names {
		if !wanted[name] {
			return nil, fmt.Errorf("workload %q: must be one of %s", name, strings.Join(Workloads(), ", "))
		}
	}
	return chosen, nil
}

// makeScratch makes the scratch directory:
//
//	data/        what the systems show
//	  shared/    prepared for all of them
//	  own/NAME/  each system's own
//	mnt/         the mount points
//	empty/
func (r *run) makeScratch() (err error) {
	if r.scratch, err = os.MkdirTemp(r.opts.Dir, ".idmount-bench-"); err != nil {
		return err
	}
	if r.scratch, err = filepath.EvalSymlinks(r.scratch); err != nil {
		return err
	}
	if r.scratch, err = filepath.Abs(r.scratch); err != nil {
		return err
	}
	e := r.env
	e.data = filepath.Join(r.scratch, "data")
	e.mounts = filepath.Join(r.scratch, "mnt")
	e.empty = filepath.Join(r.scratch, "empty")
	for _, dir := range []string{e.data, e.mounts, e.empty, filepath.Join(e.data, "shared"), filepath.Join(e.data, "own")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			r.removeScratch()
			return err
		}
	}
	for _, s := range e.systems {
		if err := os.Mkdir(e.own(s), 0o755); err != nil {
			r.removeScratch()
			return err
		}
	}
	return nil
}

func (r *run) removeScratch() error { return os.RemoveAll(r.scratch) }

func (e *env) own(s System) string { return filepath.Join(e.data, "own", s.Name) }

// all runs everything.
func (r *run) all(ctx context.Context) error {
	r.report.Date = time.Now().UTC().Truncate(time.Second)
	r.report.Machine = describeMachine(r.scratch)
	r.report.Rounds = r.opts.Rounds
	if err := r.trySystems(ctx); err != nil {
		return err
	}
	for step, w := range r.workloads {
		progress := Progress{Workload: w.name, Step: step + 1, Steps: len(r.workloads), Rounds: r.opts.Rounds}
		if err := r.workload(ctx, w, progress); err != nil {
			return err
		}
	}
	return nil
}

// trySystems leaves out what can't be mounted here.
func (r *run) trySystems(ctx context.Context) error {
	var usable []System
	for _, s := range r.env.systems {
		entry := SystemReport{Name: s.Name, Version: peerVersion(s)}
		m, err := r.env.mount(ctx, s, mountOptions{})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			err = m.end()
		}
		if err != nil {
			entry.Skipped = err.Error()
		} else {
			usable = append(usable, s)
		}
		r.report.Systems = append(r.report.Systems, entry)
	}
	r.env.systems = usable
	return nil
}

// workload prepares one and runs all its rounds.
func (r *run) workload(ctx context.Context, w *workload, progress Progress) error {
	r.show(progress)
	results := make(map[string]*rowReport)
	var order []*rowReport
	for _, row := range w.rows {
		rr := &rowReport{row: row, samples: make(map[string][]sample), failed: make(map[string]string)}
		results[row.Name] = rr
		order = append(order, rr)
	}
	finish := func() {
		for _, rr := range order {
			r.report.Rows = append(r.report.Rows, rr.report(r.env.systems))
		}
	}
	for _, program := range w.programs {
		if _, err := exec.LookPath(program); err != nil {
			for _, rr := range order {
				rr.skipped = program + " is not installed"
			}
			finish()
			return nil
		}
	}
	var systems []System
	for _, s := range r.env.systems {
		if w.takes(s) {
			systems = append(systems, s)
		}
	}
	if err := r.prepare(ctx, w, systems); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("prepare %s: %w", w.name, err)
	}

	fail := func(s System, err error) {
		for _, rr := range order {
			rr.failed[s.Name] = err.Error()
		}
	}
	rounds := r.opts.Rounds
	if w.once {
		rounds = 1
	}
	progress.Rounds = rounds
	for round := range rounds {
		for i := range systems {
			s := systems[(i+round)%len(systems)]
			if order[0].failed[s.Name] != "" {
				continue
			}
			progress.Round, progress.System = round+1, s.Name
			r.show(progress)
			samples, err := r.once(ctx, w, s)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				fail(s, err)
				continue
			}
			for name, one := range samples {
				rr := results[name]
				// Rounds stay aligned, whatever was left out.
				for len(rr.samples[s.Name]) < round {
					rr.samples[s.Name] = append(rr.samples[s.Name], sample{})
				}
				rr.samples[s.Name] = append(rr.samples[s.Name], one)
			}
		}
	}
	finish()
	return nil
}

// once runs a workload on a system, on a mount of its own. No other system is
// mounted meanwhile: its server might hear of what happens in the source, and
// work on it.
func (r *run) once(ctx context.Context, w *workload, s System) (_ map[string]sample, err error) {
	m := &meter{rows: w.rows, now: time.Now, samples: make(map[string]sample)}
	if w.alone != nil {
		err := w.alone(ctx, r.env, s, m)
		return m.samples, errors.Join(err, m.err)
	}
	mount, err := r.env.mount(ctx, s, mountOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mount.end()) }()
	m.counts = mount.counts
	p := &place{
		env:    r.env,
		system: s,
		shared: filepath.Join(mount.root, "shared"),
		own:    filepath.Join(mount.root, "own", s.Name),
	}
	err = w.run(ctx, p, m)
	return m.samples, errors.Join(err, m.err)
}

// prepare prepares what has not been prepared yet. Workloads that use the same
// preparation do it once.
func (r *run) prepare(ctx context.Context, w *workload, systems []System) error {
	if w.shared != nil {
		if err := w.shared(ctx, r.env); err != nil {
			return err
		}
	}
	if w.own != nil {
		for _, s := range systems {
			if err := w.own(ctx, r.env, r.env.own(s)); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// What has been written now is not to be written back during a measurement.
	return syncTree(r.env.data)
}

func syncTree(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}

// make prepares path once: later calls for the same path do nothing.
func (e *env) make(path string, prepare func(path string) error) error {
	if e.prepared[path] {
		return nil
	}
	if err := prepare(path); err != nil {
		return err
	}
	e.prepared[path] = true
	return nil
}

func (r *run) show(p Progress) {
	if r.opts.Progress != nil {
		r.opts.Progress(p)
	}
}
