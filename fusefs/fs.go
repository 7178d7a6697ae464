package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/fuseconn"
	"github.com/idmount/idmount/internal/sys"
)

// Options say how a source is shown.
type Options struct {
	Map    idmap.Map    // disk ids to view ids
	Relay  bool         // the kernel idmaps the FUSE mount, by the same Map
	Cache  Cache        // the zero value is the default, CacheCoherent
	Logger *slog.Logger // nil logs nothing

	// Transport is how requests reach the server; the zero value is the default.
	Transport Transport

	// AsCallers does each operation with the ids of its caller instead of the
	// server's, for sources that judge by them and refuse root: NFS with
	// root_squash. It takes the translation of this server, so not Relay, and
	// goes without passthrough, which opens files as the server.
	AsCallers bool

	// OwnMount says that the mount that the source lies on, and those below it,
	// are the caller's own: nobody but this file system uses them.
	OwnMount bool

	// NoPassthrough makes every read and write a request, as on kernels before
	// 6.9. It exists to test and measure that.
	NoPassthrough bool

	// Shares is how many file systems the process serves, which share its
	// descriptors; 0 is 1.
	Shares int

	// Stacking is how many overlays, one on the other, can be stacked on the mount: 0 to
	// 2. The kernel counts a mount with passthrough as one file system more than its
	// source, and stacks two at most; so with 2, or 1 on an overlay, there is none.
	Stacking int

	// PassthroughDepth is the stack depth with which passthrough works on the source,
	// if that has been tried; 0 goes by the source's type.
	PassthroughDepth int

	// SELinux says that the kernel runs it: new files then get the labels that the kernel
	// has chosen for them, where the mount shows the source's labels.
	SELinux bool

	Requests *Requests // nil counts nothing
}

// FS is the file system. Its methods up to Wait are for its owner, the others
// are for the FUSE server.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS to what is not implemented here

	own       owners
	cache     Cache
	watch     *watch // nil unless CacheCoherent
	log       *slog.Logger
	source    *os.File
	root      *node
	served    bool // Start has returned without an error
	closing   sync.Once
	rerooting atomic.Bool // see Reroot
	nodes     *table
	fds       fdCache
	capLocks  capLocks
	mounts    *mounts
	devices   devices
	streams   streams
	backings  backings
	files     *openFiles
	readers   int    // descriptors of the connection: see budget
	notFull   func() // ends the calls of reclaim
	pruner    pruner
	lateFinds lateFinds
	locks     lockBooks

	views      []*os.File  // besides source; see AddView
	assembling atomic.Bool // see Assemble
	carriers   carriers

	requests *Requests // nil counts nothing
	labels   *labels   // nil without SELinux

	timeout         uint16 // seconds that a request may take, 0 for any number
	transport       Transport
	asCallers       bool // see callers
	ownMount        bool
	caps, permitted sys.CapSet
	base            sys.Creds
	groups          []uint32 // of the server's threads

	conn        *fuseconn.Conn
	kernel      fuseconn.Init
	keepDirs    bool // the kernel caches directories, without opening them
	depth       int  // stack depth for passthrough; see passthroughDepth
	stacked     bool // there is no passthrough because of Options.Stacking
	canBeNobody bool // see writer
	passOff     atomic.Bool
	passExec    bool // see openProgram
	remoteData  bool // close(2) can report errors of earlier writes
	renames     bool // see leaveVictim
	suspicion   suspicion

	movingPlaces bool // see goBack
	single       bool // the source is no directory
}

// New prepares a file system that shows source. The descriptor may be O_PATH, stays
// the caller's, and has to stay open until Wait returns. A source that is no directory
// is not the FUSE root, but can be reached as a view: see Reroot and AddView.
//
// The calling process needs umask 0, and uid 0 or equivalent capabilities
// towards the source; those that the calling thread has are used.
func New(source *os.File, o Options) (*FS, error) {
	if o.Relay && o.AsCallers {
		return nil, errors.New("fuse: with relay the kernel does not say who the callers are")
	}
	if o.AsCallers && o.Cache.Mode == CacheExclusive {
		return nil, errors.New("fuse: the exclusive cache shares open files, so they can't be opened as their callers")
	}
	if !o.Relay {
		if err := o.Map.CheckTranslate(); err != nil {
			return nil, err
		}
	}
	effective, permitted, err := sys.ThreadCaps()
	if err != nil {
		return nil, err
	}
	f := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		own:           owners{m: o.Map, relay: o.Relay},
		log:           o.Logger,
		requests:      o.Requests,
		transport:     o.Transport,
		asCallers:     o.AsCallers,
		ownMount:      o.OwnMount,
		source:        source,
		devices:       devices{tags: make(map[uint64]uint16)},
		cache:         o.Cache,
		caps:          effective.Without(unix.CAP_SYS_RESOURCE) | permitted&(1<<unix.CAP_FSETID),
		permitted:     permitted,
		base:          sys.Creds{FsUID: uint32(os.Geteuid()), FsGID: uint32(os.Getegid()), Caps: effective},
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if o.SELinux {
		var errno unix.Errno
		if f.labels, errno = newLabels(sys.CreationLabel); errno != 0 {
			f.log.Warn("new files get the SELinux labels of the source's own rules", "source", source.Name(), "path", sys.CreationLabel, "cause", errno)
		}
	}
	b := processBudget(max(o.Shares, 1))
	f.fds.setBudget(b.nodes)
	f.files = newOpenFiles(b.files, backingAnchors{f})
	f.streams = streams{open: make(map[uint64]*stream), budget: b.dirs}
	f.readers = b.readers
	f.passOff.Store(o.NoPassthrough || o.AsCallers || o.Cache.Mode == CacheExclusive)

	var st unix.Stat_t
	if errno := sys.Stat(int(source.Fd()), &st); errno != 0 {
		return nil, &sys.Error{Op: "stat", Path: source.Name(), Err: errno}
	}
	f.single = st.Mode&unix.S_IFMT != unix.S_IFDIR
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(source.Fd()), &fs); err != nil {
		return nil, &sys.Error{Op: "statfs", Path: source.Name(), Err: err}
	}
	f.depth, f.remoteData = passthroughDepth(uint32(fs.Type))
	if f.depth != 0 && o.PassthroughDepth != 0 {
		f.depth = o.PassthroughDepth
	}
	f.movingPlaces = uint32(fs.Type) == unix.RAMFS_MAGIC
	f.renames = f.remoteData && uint32(fs.Type) != unix.FUSE_SUPER_MAGIC
	if f.depth == 0 {
		f.passOff.Store(true)
	}
	f.passExec = o.AsCallers && !o.NoPassthrough && f.depth == 1 && f.remoteData
	if f.depth+o.Stacking > maxStackDepth {
		f.stacked = !f.passOff.Swap(true) || f.passExec
		f.passExec = false
	}
	f.canBeNobody = f.canBecome(nobody)
	groups, err := os.Getgroups()
	if err != nil {
		return nil, err
	}
	f.groups = make([]uint32, 0, len(groups))
	for _, g := range groups {
		f.groups = append(f.groups, uint32(g))
	}
	if o.AsCallers || f.remoteData {
		f.base.Groups = f.groups
	}
	if f.cache.Mode == CacheCoherent {
		f.watch = newWatch(f)
	}
	err = f.asOwner(&st, func() (err error) {
		f.mounts, err = newMounts(source, f.watch, f.log)
		return err
	})
	if err != nil {
		f.watch.close()
		return nil, err
	}
	if f.mounts.root == nil && f.mounts.blind == nil {
		f.fds.setBudget(b.marked)
	}
	fd, err := unix.FcntlInt(source.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		f.watch.close()
		f.mounts.close()
		return nil, &sys.Error{Op: "fcntl", Path: source.Name(), Err: err}
	}
	// The FUSE root is a directory, also where the source is none and is seen as a view.
	f.root = &node{typ: unix.S_IFDIR, tag: f.devices.tag(st.Dev)}
	var key keyBuf
	f.root.key = string(key.ofInode(&st))
	if f.mounts.root != nil {
		var buf [sys.MaxHandle]byte
		n, _, errno := sys.HandleAt(fd, "", &buf)
		if errno != 0 {
			unix.Close(fd)
			f.watch.close()
			f.mounts.close()
			return nil, &sys.Error{Op: "name_to_handle_at", Path: source.Name(), Err: errno}
		}
		f.root.key = string(key.ofHandle(f.mounts.root, buf[:n]))
	}
	f.nodes = newTable(f.root)
	f.fds.adopt(f.root, fd, pathOnly) // and never released
	f.notFull = sys.OnFull(f.reclaim)
	return f, nil
}

// Start serves the FUSE connection of dev, an open /dev/fuse of a mount with
// default_permissions and allow_other. It returns when the kernel's INIT has
// been answered; the mount then is usable. dev stays the caller's and may be
// closed.
//
// With Relay, a kernel without ALLOW_IDMAP is an error. After an error the file
// system is closed.
func (f *FS) Start(dev *os.File) error {
	err := f.start(dev)
	if err != nil {
		f.close()
	}
	return err
}

func (f *FS) start(dev *os.File) error {
	conn, err := fuseconn.Open(dev, f.log)
	if err != nil {
		return fmt.Errorf("fuse: serve %s: %w", f.source.Name(), err)
	}
	f.conn, f.kernel = conn, conn.Init
	conn.Channels = f.readers
	conn.Remote = f.remoteData || f.asCallers
	conn.Dropped = f.locks.interrupted
	f.locks.resume = conn.Resume
	if f.timeout == 0 {
		f.timeout = fuseconn.RequestTimeout()
	}
	conn.Timeout = f.timeout
	if f.kernel.Flags&fuse.CAP_PASSTHROUGH == 0 {
		f.stacked = false
		f.passOff.Store(true)
		f.passExec = false
	}
	if f.own.relay && f.kernel.Flags&fuse.CAP_ALLOW_IDMAP == 0 {
		conn.Close()
		return fmt.Errorf("fuse: idmap the mount for %s: the kernel's FUSE has no ALLOW_IDMAP (Linux 6.12)", f.source.Name())
	}
	// Not where files are marked: places in a merged directory of an overlay, and in one of
	// ramfs, are numbers of entries, and good as long as that is open; see keepsListing.
	f.keepDirs = f.kernel.Flags&capNoOpendirSupport != 0 && f.lifetime(f.mountOf(f.root)) > 0 && f.cache.Mode != CacheTTL
	opts := f.mountOptions()
	rings, err := f.prepareRings(conn, opts.MaxWrite)
	if err != nil {
		conn.Close()
		return fmt.Errorf("fuse: serve %s: %w", f.source.Name(), err)
	}
	if rings {
		opts.ExtraCapabilities |= fuse.CAP_OVER_IO_URING
	}
	f.pruner.start(f)
	f.watch.enable()
	front := f.front()
	protocol := fuse.NewProtocolServer(front, opts)
	handle := func(in, out [][]byte) (int, bool) {
		if n, ok := hot(front, in, out); ok {
			return n, true
		}
		n, status := protocol.HandleRequest(in, out)
		return n, status.Ok()
	}
	err = conn.Serve(func(in, out [][]byte) (int, bool) { return f.labels.handle(in, out, handle) })
	if err != nil {
		return fmt.Errorf("fuse: serve %s: %w", f.source.Name(), err)
	}
	f.watch.start()
	if kept, cause := f.Caching(); cause != nil {
		f.log.Warn("the cache is not as asked for", "source", f.source.Name(), "asked", f.cache, "cache", kept, "cause", cause)
	}
	f.served = true
	return nil
}

// RequestLimit is the time after which the kernel ends the mount for the sake of a request
// that has no answer yet; 0 if there is no limit, or none that a request could reach.
func (f *FS) RequestLimit() time.Duration {
	if f.timeout == math.MaxUint16 { // 18 h: where no maximum is set
		return 0
	}
	return time.Duration(f.timeout) * time.Second
}

func (f *FS) mountOptions() *fuse.MountOptions {
	caches := f.cache.Mode != CacheNone
	opts := &fuse.MountOptions{
		AllowOther:           true,
		EnableAcl:            true,
		EnableLocks:          f.cache.Mode != CacheExclusive, // else nobody else locks
		EnableSymlinkCaching: !f.remoteData,                  // what a link says can't change
		MaxWrite:             1 << 20,
		MaxBackground:        64,
		MaxStackDepth:        f.depth,
		DisableReadDirPlus:   !caches, // answers that may not be kept would be asked for again
		IDMappedMount:        f.own.relay,
		ExtraCapabilities: fuse.CAP_DONT_MASK | capSetxattrExt | capKillprivV2 | fuse.CAP_IOCTL_DIR | fuse.CAP_ASYNC_DIO |
			fuse.CAP_READDIRPLUS_AUTO,
		Logger: log.New(logWriter{f.log}, "", 0),
		PanicHandler: func(v any) fuse.Status {
			f.log.Error("panic in the file system", "cause", fmt.Sprint(v), "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
	if f.labels != nil {
		opts.ExtraCapabilities |= fuse.CAP_SECURITY_CTX
	}
	if !f.own.relay {
		opts.DisabledCapabilities |= fuse.CAP_ALLOW_IDMAP
	}
	if f.passOff.Load() && !f.passExec {
		opts.DisabledCapabilities |= fuse.CAP_PASSTHROUGH
	}
	if f.cache.Mode == CacheExclusive {
		opts.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
	} else {
		// Opens have to reach the server: that is where it learns of O_APPEND
		// and where passthrough begins.
		opts.DisabledCapabilities |= fuse.CAP_NO_OPEN_SUPPORT
	}
	return opts
}

// capSetxattrExt asks for SETXATTR requests with flags (FUSE_SETXATTR_EXT, Linux 5.14).
const capSetxattrExt = 1 << 29

// capKillprivV2 leaves it to this server to clear S_ISUID, S_ISGID and file
// capabilities (FUSE_HANDLE_KILLPRIV_V2, Linux 5.11). Without it each write(2)
// begins with a GETXATTR. See setid.go and register.
const capKillprivV2 = 1 << 28

// capNoOpendirSupport: a kernel that can do without OPENDIR (FUSE_NO_OPENDIR_SUPPORT, Linux 5.1).
const capNoOpendirSupport = 1 << 24

// Wait returns when the file system has been unmounted, and gives its
// descriptors back.
func (f *FS) Wait() {
	f.conn.Wait()
	f.close()
}

// Abandon is Wait for a file system whose mount has not come about: one that was
// never started, failed to start, or was started for a mount that is gone.
func (f *FS) Abandon() {
	if f.served {
		f.conn.Wait()
	}
	f.close()
}

// close may be called again.
func (f *FS) close() { f.closing.Do(f.closeAll) }

func (f *FS) closeAll() {
	f.watch.close()
	f.pruner.close()
	f.streams.drop(nil)
	f.locks.close()
	f.backings.close()
	f.files.shut()
	f.lateFinds.close()
	f.mounts.close()
	f.notFull()
	f.fds.mu.Lock()
	defer f.fds.mu.Unlock()
	for _, n := range f.fds.ring {
		unix.Close(n.held.fd)
		n.held.fd = -1
	}
	f.fds.ring = nil
}

// String implements fuse.RawFileSystem.
func (f *FS) String() string { return "idmount" }

// logWriter passes the server's own messages on.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Log(context.Background(), slog.LevelDebug, string(p))
	return len(p), nil
}
