package idmount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/mntopt"
	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/server"
	"github.com/idmount/idmount/internal/sys"
)

// request is what a FUSE server has to know: plain data, and two descriptors.
type request struct {
	Map     idmap.Map      `json:"map"`
	Relay   bool           `json:"relay"`
	Cache   fusefs.Cache   `json:"cache"`
	Mount   mntopt.Options `json:"mount"`
	Source  string         `json:"-"` // for messages and mount tables; see handover
	Target  string         `json:"-"`
	Cloned  bool           `json:"cloned"` // source is a mount of our own
	NoAttrs bool           `json:"no_attrs,omitempty"`
	NoPass  bool           `json:"no_passthrough,omitempty"`
	Callers bool           `json:"callers,omitempty"` // CallerAccess
	Narrow  uint64         `json:"narrow,omitempty"`  // MOUNT_ATTR_* of the submounts
	Split   bool           `json:"split,omitempty"`   // submounts, if any, become mounts of their own
	Native  bool           `json:"native,omitempty"`  // then: by the kernel where it can
	Access  Access         `json:"access,omitempty"`  // then: what was asked for, of submounts

	Stacking  int `json:"stacking"`
	PassDepth int `json:"passthrough_depth,omitempty"`

	Recursive bool `json:"recursive,omitempty"`

	Transport fusefs.Transport `json:"transport"`

	requests *Requests // where to count; not across processes

	source *os.File // the tree to show
	target *os.File // where to, O_PATH
	userns *os.File // with the map, for Relay and for Native

	// origin is the mount namespace of the target, if the server is in another one.
	// It is closed when the mount is in place: it keeps that namespace alive.
	origin   *os.File
	place    place
	warnings []string // what its user has to know, beside what Mount knows
}

// request opens what the server needs.
//
// The server works on a private copy of the source's mount: what is mounted on
// the source later, the target included, is not seen through it, and without
// Recursive neither is what is mounted there now, as on a native mount. Before
// Linux 5.2, which has no open_tree, it works on the source itself.
func (p *plan) request() (*request, error) {
	r := &request{
		Map:    p.opts.Map,
		Relay:  p.choice.Backend == Relay,
		Cache:  p.opts.Cache,
		Mount:  p.mount,
		Source: p.source,
		Target: p.target,
		NoPass: p.opts.NoPassthrough,

		Stacking:  p.stacking,
		PassDepth: p.passDepth,

		Callers: p.access == CallerAccess,
		Native:  p.opts.Backend == Auto && p.mount.Labels.IsZero(),
		Access:  p.opts.Access,

		Recursive: p.opts.Recursive,
		Transport: p.opts.Transport,
	}
	// Copies, since there may be another try with another backend.
	src, err := duplicate(p.src)
	if err == nil {
		err = r.openSource(src, p.opts.Recursive)
	}
	if err == nil {
		r.target, err = duplicate(p.dst)
	}
	if err == nil {
		err = r.openUserNamespace()
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &sys.Error{Op: "fcntl", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// openUserNamespace makes the user namespace that gives the kernel the map. The
// server can't do it: having changed ids, it may not look into a child of its own
// without CAP_SYS_PTRACE. Relay needs it; submounts without it are not mapped natively.
func (r *request) openUserNamespace() (err error) {
	if !r.Relay && !(r.Split && r.Native) {
		return nil
	}
	r.userns, err = sys.NewUserNamespace(r.Map.UIDMapText(), r.Map.GIDMapText())
	if !r.Relay {
		return nil
	}
	return err
}

// openSource takes source over.
func (r *request) openSource(source *os.File, recursive bool) (err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	r.source, err = sys.OpenTreeAt(source, "", flags)
	if errors.Is(err, unix.ENOSYS) {
		// Without a clone the mounts below the source are always seen.
		r.source = source
		return r.narrow(source)
	}
	defer source.Close()
	if err != nil {
		return err
	}
	r.Cloned, r.Split = true, recursive && isDir(source)
	if recursive {
		if err := r.narrow(source); err != nil {
			return err
		}
	}
	return r.prepareClone(recursive)
}

// enforced returns the attributes that any of the mounts below a source has and that
// the kernel, not the server, enforces on a FUSE mount. Where one FUSE mount shows all of
// them, all of it gets them: a set-user-ID program or a device node of a nosuid, nodev
// submount must not work.
func enforced(below []*mountinfo.Info) (attrs uint64) {
	for _, m := range below {
		attrs |= attrsOf(m)
	}
	return attrs & (unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW)
}

// narrow sets Narrow by what is mounted below the source now. The clone may have other
// mounts, which attachTree lists.
func (r *request) narrow(source *os.File) error {
	below, err := mounts.Below(source)
	if err != nil {
		return fmt.Errorf("mount %s: list the mounts below: %w", source.Name(), err)
	}
	r.Narrow = enforced(below)
	return nil
}

// prepareClone applies the mount options to the server's copy, so that they
// hold for what it does there (noatime, ro), and cuts it off from mounts that
// others make. Before Linux 5.12 there is no call for that: then ro and the like
// come from the FUSE mount alone.
func (r *request) prepareClone(recursive bool) error {
	attr := r.Mount.Attr()
	attr.Propagation = unix.MS_PRIVATE
	var flags uint
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	err := sys.MountSetattr(r.source, "", flags, &attr)
	if errors.Is(err, unix.ENOSYS) {
		r.NoAttrs = true
		return nil
	}
	return err
}

func (r *request) close() {
	for _, f := range []*os.File{r.source, r.target, r.userns, r.origin} {
		if f != nil {
			f.Close()
		}
	}
}

// attrs are the options of the FUSE mount: the source's own and those asked for.
func (r *request) attrs() (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(r.source.Fd()), &st); err != nil {
		return 0, &sys.Error{Op: "statfs", Path: r.Source, Err: err}
	}
	const stNoSymfollow = 0x2000 // ST_NOSYMFOLLOW, Linux 5.10
	attrs := r.Narrow
	for _, f := range []struct {
		statfs int64
		attr   uint64
	}{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{stNoSymfollow, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if int64(st.Flags)&f.statfs != 0 {
			attrs |= f.attr
		}
	}
	clear := r.Mount.Clear
	if r.NoAttrs || !r.Cloned {
		clear &^= unix.MOUNT_ATTR_RDONLY // the source stays read-only
	}
	return attrs&^clear | r.Mount.Set, nil
}

// served is what only the server of a mount knows of it.
type served struct {
	Passthrough bool     `json:"passthrough"`
	Stacking    Stacking `json:"stacking"`
	StackReason string   `json:"stacking_reason,omitempty"`
	Cache       string   `json:"cache"` // what the kernel really keeps
	CacheReason string   `json:"cache_reason,omitempty"`
	Warnings    []string `json:"warnings,omitempty"`

	Tree      bool       `json:"tree,omitempty"`     // submounts are mounts of their own: then what follows
	Unserved  bool       `json:"unserved,omitempty"` // all of them native
	Backend   Backend    `json:"backend,omitempty"`  // of the top
	Reason    string     `json:"reason,omitempty"`
	Access    Access     `json:"access,omitempty"`
	Submounts []Submount `json:"submounts,omitempty"`
}

func servedBy(fs *fusefs.FS) served {
	cache, cause := fs.Caching()
	s := served{Cache: cache.String(), Passthrough: fs.Passthrough(), Stacking: Stacking(strconv.Itoa(fs.Stacking()))}
	if fs.StackingCostsPassthrough() {
		s.StackReason = "without passthrough, so that overlays can be stacked on the mount"
	}
	if limit := fs.RequestLimit(); limit > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the kernel ends the mount when a request takes %v (fs.fuse.max_request_timeout): "+
			"an fsync(2) or fallocate(2) of a slow source, or a source that does not answer", limit))
	}
	if cause == nil {
		return s
	}
	s.CacheReason = cause.Error()
	var errno unix.Errno
	if errors.As(cause, &errno) { // not the source's or the kernel's nature, but a limit or a filter
		s.Warnings = append(s.Warnings, fmt.Sprintf("nothing is cached, as changes in the source can't be watched: %v", cause))
	}
	return s
}

// apply adds it to what the mounting process knows.
func (s served) apply(m *Mounted) {
	m.Cache, m.CacheReason = s.Cache, s.CacheReason
	m.Passthrough, m.Stacking, m.StackingReason = s.Passthrough, s.Stacking, s.StackReason
	m.Warnings = append(m.Warnings, s.Warnings...)
	if s.Tree {
		m.Backend, m.Reason, m.Access, m.Submounts = s.Backend, s.Reason, s.Access, s.Submounts
	}
	if s.Unserved {
		m.PID = 0
	}
}

// coveredPause is how long a server that is told to end waits before it tries again to
// unmount what another mount covers.
const coveredPause = time.Second

// serve mounts and serves the request until the mount is gone. If ctx ends
// before, it unmounts. ready is called when the mount is in place.
func (r *request) serve(ctx context.Context, logger *slog.Logger, ready func(served) error) error {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := r.becomeServer(logger); err != nil {
		return err
	}
	heap := spareHeap()
	defer runtime.KeepAlive(heap)
	v, err := r.startInOrigin(logger)
	if err != nil {
		return err
	}
	v.Warnings = append(r.warnings, v.Warnings...)
	for _, p := range v.parts {
		defer writeState(p.device, p.record).remove()
	}
	if err := ready(v.served); err != nil {
		r.unmount(logger)
		v.wait()
		return err
	}
	// A descriptor of the directory below the mount would make it busy.
	r.target.Close()
	r.target = nil

	done := make(chan struct{})
	go func() {
		v.wait()
		close(done)
	}()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			for r.unmount(logger) {
				select {
				case <-done:
					return nil
				case <-time.After(coveredPause):
				}
			}
			// Open files keep it alive; they are served to the end.
			<-done
			return nil
		}
	}
}

// view is what a request has become.
type view struct {
	parts []*part
	served
}

// part is a FUSE file system.
type part struct {
	fs      *fusefs.FS
	device  uint64
	record  record
	sources []*os.File // that have to stay open
}

// wait returns when nothing is left to serve.
func (v *view) wait() {
	for _, p := range v.parts {
		p.fs.Wait()
		for _, f := range p.sources {
			f.Close()
		}
	}
}

// startInOrigin calls start in the target's namespace, and lets go of that.
func (r *request) startInOrigin(logger *slog.Logger) (v *view, err error) {
	if r.origin == nil {
		return r.start(logger)
	}
	if r.place.namespace, err = server.NamespaceOf(r.origin); err != nil {
		return nil, err
	}
	err = server.Within(r.origin, func() (err error) {
		v, err = r.start(logger)
		return err
	})
	r.origin.Close()
	r.origin = nil
	return v, err
}

// start mounts the request's view at the target.
func (r *request) start(logger *slog.Logger) (*view, error) {
	if !r.Split {
		return r.startOne(logger)
	}
	v, cause := r.attachTree(logger)
	switch {
	case cause == nil:
		return v, nil
	case errors.Is(cause, errOneMount):
		return r.startOne(logger)
	}
	logger.Warn("one FUSE mount shows all submounts", "source", r.Source, "cause", cause)
	v, err := r.startOne(logger)
	if err != nil {
		return nil, errors.Join(err, fmt.Errorf("each submount by itself: %w", cause))
	}
	v.Warnings = append(v.Warnings, fmt.Sprintf("the submounts are part of one FUSE mount, and nosuid, nodev, noexec and nosymfollow of any of them hold for all of it: %v", cause))
	return v, nil
}

// startOne mounts one FUSE mount at the target, which shows all of the source.
func (r *request) startOne(logger *slog.Logger) (*view, error) {
	fs, err := r.newFS(r.source, r.Relay, r.Callers, 1, r.PassDepth, logger)
	if err != nil {
		return nil, err
	}
	attrs, err := r.attrs()
	if err == nil {
		err = r.attach(fs, r.mountOptions(r.Source, attrs))
	}
	if err != nil {
		fs.Abandon()
		return nil, err
	}
	return &view{parts: []*part{{fs: fs, device: r.place.device, record: r.record(r.source, r.Source, r.Narrow)}}, served: servedBy(fs)}, nil
}

// manyRings is for how many file systems of a process io_uring takes too many threads:
// two for each processor and file system, which stay.
const manyRings = 4

// newFS makes a file system of a mount of the source, one of as many as shares.
func (r *request) newFS(source *os.File, relay, callers bool, shares, passDepth int, logger *slog.Logger) (*fusefs.FS, error) {
	transport := r.Transport
	if transport == TransportAuto && shares > manyRings {
		transport = TransportDevice
	}
	return fusefs.New(source, fusefs.Options{
		Map:           r.Map,
		Relay:         relay,
		Cache:         r.Cache,
		Logger:        logger,
		OwnMount:      r.Cloned,
		NoPassthrough: r.NoPass,
		AsCallers:     callers,
		Transport:     transport,
		Shares:        shares,
		SELinux:       selinuxActive(),
		Requests:      r.requests,
		Stacking:      r.Stacking,

		PassthroughDepth: passDepth,
	})
}

func (r *request) mountOptions(source string, attrs uint64) sys.FuseMountOptions {
	o := sys.FuseMountOptions{
		Source:             source,
		Subtype:            "idmount",
		AllowOther:         true,
		DefaultPermissions: true,
		MaxRead:            1 << 20,
		Attrs:              attrs,
		ServeEarly:         selinuxActive(),
	}
	for _, l := range r.Mount.Labels.All() {
		o.Labels = append(o.Labels, sys.FuseLabel(l))
	}
	return o
}

// attach mounts fs at the target: nobody sees the target before it is ready.
// After an error nothing is mounted.
func (r *request) attach(fs *fusefs.FS, o sys.FuseMountOptions) (err error) {
	started := false
	tree, err := sys.FuseMountServed(o, func(dev *os.File) error {
		started = true
		return fs.Start(dev)
	})
	if errors.Is(err, unix.ENOSYS) && !started {
		return r.attachInPlace(fs, o)
	}
	if err != nil {
		return err
	}
	defer func() { tree.Close() }() // dissolves the mount unless it has been moved
	if inner, err := fs.Reroot(tree); err == nil {
		tree.Close()
		tree = inner
	} else if !isDir(r.source) {
		return err
	}
	if r.Relay {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(r.userns.Fd())}
		if err := sys.MountSetattr(tree, "", 0, &attr); err != nil {
			return err
		}
	}
	if err := sys.MoveMountTo(tree, r.target); err != nil {
		return err
	}
	return r.finish(tree)
}

// finish completes what is mounted at the target, and takes it away again if it can't.
func (r *request) finish(root *os.File) error {
	err := r.place.note(root)
	if err == nil {
		err = r.propagate(root)
	}
	if err != nil {
		mounts.Detach(root)
	}
	return err
}

// propagate sets the propagation that was asked for, once the mount is in its
// place: before, it has none to keep.
func (r *request) propagate(root *os.File) error {
	if r.Mount.Propagation == 0 {
		return nil
	}
	return sys.SetPropagation(root, r.Mount.Propagation, r.Mount.PropagationRecursive)
}

// attachInPlace is attach for kernels before 5.2: mount(2) at the target, whose
// users wait from then on until the server answers.
func (r *request) attachInPlace(fs *fusefs.FS, o sys.FuseMountOptions) error {
	dev, err := sys.FuseMountAt(o, procFD(r.target))
	if err != nil {
		return err
	}
	defer dev.Close()
	m, err := mountOn(r.target)
	if err != nil {
		return err
	}
	root, err := mounts.OpenRoot(m)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := fs.Start(dev); err != nil {
		mounts.Detach(root)
		return err
	}
	return r.finish(root)
}

// spareProcs is how many threads of a server usually wait at a time.
const spareProcs = 4

// serverCaps are the capabilities that a server needs, and raisedCaps those of them
// that it raises for what needs them. CAP_FSETID would keep S_ISUID on a file whose
// data somebody changes, and CAP_SYS_RESOURCE write past quotas and into reserved
// blocks. CAP_SYS_CHROOT is to enter the mount's namespace.
const (
	serverCaps = sys.CapSet(1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER |
		1<<unix.CAP_FSETID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_MKNOD |
		1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_LEASE | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_MAC_ADMIN |
		1<<unix.CAP_MAC_OVERRIDE | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_SYS_CHROOT)
	raisedCaps = sys.CapSet(1<<unix.CAP_FSETID | 1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_SYS_CHROOT)
)

// becomeServer turns the process into one that serves and nothing else: the
// callers' umasks are applied by request, its limits are as high as they can be, and
// what a server never needs it can't do.
func (r *request) becomeServer(logger *slog.Logger) error {
	unix.Umask(0)
	warnings, err := server.RaiseLimits(r.Mount.Set&unix.MOUNT_ATTR_RDONLY != 0)
	if err != nil {
		return fmt.Errorf("mount %s: %w", r.Source, err)
	}
	for _, w := range warnings {
		r.warn(logger, w)
	}
	// A thread that waits for a request keeps its place among GOMAXPROCS while
	// there are others; to take it away, the runtime looks every 20 µs.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
	err = sys.KeepProcessCaps(serverCaps, raisedCaps)
	if errors.Is(err, unix.ENOTSUP) {
		// Threads of C's making are out of Go's reach.
		logger.Warn("a program with cgo keeps the capabilities that the server does not need")
		return nil
	}
	if err != nil {
		return fmt.Errorf("become a server: %w", err)
	}
	return nil
}

// warn is for what the user of the mount and its administrator have to know.
func (r *request) warn(logger *slog.Logger, text string) {
	r.warnings = append(r.warnings, text)
	logger.Warn(text)
}

// spareHeap returns memory that nobody uses, nor ever touches, so that it takes
// none of the machine's. The garbage collector comes when the heap has doubled: a
// small server's, which is below 2 MB and gets a kilobyte of garbage with each
// request, would double every 2,500 requests, which costs a tenth of its time.
func spareHeap() []byte { return make([]byte, 4<<20) }
