package idmount

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/mounts"
	"github.com/idmount/idmount/internal/mounttree"
	"github.com/idmount/idmount/internal/sys"
)

// Submount is what a mount below the source has become.
type Submount struct {
	Path    string  `json:"path"` // below the source
	Backend Backend `json:"backend"`
	Reason  string  `json:"reason"`           // why this backend
	Access  Access  `json:"access,omitempty"` // of the FUSE server
	Cache   string  `json:"cache,omitempty"`  // of a FUSE mount: what the kernel keeps
}

// viewTree puts the view of a tree of mounts together: for each mount of the source
// one of its own. It is used on the thread of mounttree.Private.
type viewTree struct {
	r      *request
	log    *slog.Logger
	tree   *mounttree.Tree
	plans  map[*mounttree.Mount]*mountPlan
	groups []*fuseGroup
	spaces map[string]*os.File // user namespaces by map
}

// mountPlan is how a mount of the source is shown.
type mountPlan struct {
	Submount
	clone *os.File // native: a copy of the mount, with its map if it has one already
	attr  unix.MountAttr
	group *fuseGroup // else
	view  string     // the name of the mount's root in the FUSE root
}

// fuseGroup is a FUSE file system. It shows all mounts of one file system, so that a
// file which is seen through two of them is one inode, as natively.
type fuseGroup struct {
	major, minor int
	access       Access
	relay        bool
	members      []*mounttree.Mount
	sources      []*os.File
	fs           *fusefs.FS
	root         *os.File
	device       uint64
}

// errOneMount says that there is nothing below the source.
var errOneMount = errors.New("no submounts")

// attachTree attaches a view of the source whose mounts are separate ones.
//
// If that can't be done, the cause is returned as why, nothing is attached, and the
// request's source is as good as it was.
func (r *request) attachTree(logger *slog.Logger) (v *view, why error) {
	b := &viewTree{r: r, log: logger, plans: map[*mounttree.Mount]*mountPlan{}, spaces: map[string]*os.File{}}
	var tree *os.File
	why = mounttree.Private(func() (err error) {
		defer b.close()
		if b.tree, err = mounttree.Open(r.source); err != nil {
			return err
		}
		r.Narrow = enforced(b.tree.Below)
		// Attached, the source's mounts come apart when this namespace ends.
		whole, err := sys.OpenTreeAt(r.source, "", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
		if err != nil {
			return err
		}
		r.source.Close()
		r.source = whole
		if len(b.tree.Below) == 0 {
			return errOneMount
		}
		tree, err = b.build()
		return err
	})
	if b.tree == nil {
		// The clone may have mounts that nobody has listed. fusermount(1) and fstab(5) let
		// users mount with these flags alone.
		r.Narrow |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	}
	if tree != nil {
		defer tree.Close()
	}
	v = new(view)
	if why == nil {
		v.served = b.result()
		why = sys.MoveMountTo(tree, r.target)
	}
	if why == nil {
		why = r.finish(tree)
	}
	if why != nil {
		if tree != nil {
			tree.Close()
		}
		for _, g := range b.groups {
			g.end()
		}
		return nil, why
	}
	for _, g := range b.groups {
		v.parts = append(v.parts, &part{
			fs:      g.fs,
			device:  g.device,
			record:  r.record(g.sources[0], r.Source+g.members[0].Path, 0),
			sources: g.sources,
		})
	}
	return v, nil
}

func (b *viewTree) build() (*os.File, error) {
	for _, m := range b.tree.Mounts {
		if err := b.plan(m); err != nil {
			return nil, err
		}
	}
	// Each file system may have fuseconn's 1000 threads; Go ends a process with 10000.
	debug.SetMaxThreads(max(10000, 2000*len(b.groups)))
	for _, g := range b.groups {
		if err := b.start(g); err != nil {
			return nil, err
		}
	}
	for _, g := range b.groups {
		g.fs.Assemble(true)
	}
	view, err := b.tree.Assemble(b.piece, b.finish)
	for _, g := range b.groups {
		g.fs.Assemble(false)
	}
	b.tree.Settle()
	return view, err
}

// plan chooses the backend of a mount.
func (b *viewTree) plan(m *mounttree.Mount) error {
	p := &mountPlan{Submount: Submount{Path: m.Path}}
	b.plans[m] = p
	finding := detect.Finding{Verdict: detect.No}
	if b.r.Native {
		var err error
		if finding, err = b.planNative(m, p); err != nil {
			return err
		}
		if finding.Verdict == detect.Yes {
			p.Backend, p.Reason = Native, "native: "+finding.Reason
			return nil
		}
	}
	p.Access = DaemonAccess
	if m.Path == "" && b.r.Callers {
		p.Access = CallerAccess
	} else if m.Path != "" {
		p.Access, _ = detect.AccessTo(m.File, m.Info.FSType, b.r.Access)
	}
	relay := b.r.Relay
	if p.Access == CallerAccess && b.r.Map.CheckTranslate() == nil {
		relay = false
	} else if relay {
		p.Access = DaemonAccess
	}
	p.Backend = Translate
	if relay {
		p.Backend = Relay
	}
	if b.r.Native {
		p.Reason = fmt.Sprintf("native: %s; %s: as the FUSE backend that works", finding.Reason, p.Backend)
	} else {
		p.Reason = fmt.Sprintf("%s: asked for", p.Backend)
	}
	attrs := attrsOf(m.Info)
	if b.r.NoAttrs {
		attrs = attrs&^(b.r.Mount.Clear&^unix.MOUNT_ATTR_RDONLY) | b.r.Mount.Set
	}
	p.attr = unix.MountAttr{Attr_set: attrs}
	if attrs&unix.MOUNT_ATTR__ATIME != 0 {
		p.attr.Attr_clr = unix.MOUNT_ATTR__ATIME
	}
	p.group = b.groupOf(m, p.Access, relay)
	return nil
}

// planNative has the kernel map a copy of the mount, to see whether it does.
func (b *viewTree) planNative(m *mounttree.Mount, p *mountPlan) (detect.Finding, error) {
	ns, err := b.namespace(b.r.Map)
	if err != nil {
		return detect.Finding{}, err
	}
	finding := detect.IdmapMount(m.File, m.Info, ns)
	if finding.Verdict != detect.Yes {
		return finding, nil
	}
	if !mounts.Idmapped(m.Info) {
		p.attr = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
		p.clone, err = mounttree.Clone(m.File)
		return finding, err
	}
	no := func(err error) (detect.Finding, error) {
		return detect.Finding{Verdict: detect.No, Reason: err.Error(), Err: err}, nil
	}
	own, _, err := mounts.MapOf(m.File)
	if err != nil {
		return no(err)
	}
	both, err := own.Compose(b.r.Map)
	if err != nil {
		return no(err)
	}
	if ns, err = b.namespace(both); err != nil {
		return no(err)
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if p.clone, err = sys.OpenTreeAttr(m.File, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH, attr); err != nil {
		return no(err)
	}
	return finding, nil
}

func (b *viewTree) namespace(m idmap.Map) (*os.File, error) {
	if b.r.userns != nil && m.Equal(b.r.Map) {
		return b.r.userns, nil
	}
	uids, gids := m.UIDMapText(), m.GIDMapText()
	key := uids + "\x00" + gids
	if ns := b.spaces[key]; ns != nil {
		return ns, nil
	}
	var ns *os.File
	var err error
	done := make(chan struct{})
	go func() {
		// On another thread: what is mounted on the root makes this one look as if it
		// were chrooted, and then it can't have a user namespace (current_chrooted).
		defer close(done)
		ns, err = sys.NewUserNamespace(uids, gids)
	}()
	if <-done; err == nil {
		b.spaces[key] = ns
	}
	return ns, err
}

// groupOf returns the FUSE file system that shows a mount.
func (b *viewTree) groupOf(m *mounttree.Mount, access Access, relay bool) *fuseGroup {
	for _, g := range b.groups {
		if g.major == m.Info.Major && g.minor == m.Info.Minor && g.access == access && g.relay == relay {
			g.members = append(g.members, m)
			return g
		}
	}
	g := &fuseGroup{major: m.Info.Major, minor: m.Info.Minor, access: access, relay: relay, members: []*mounttree.Mount{m}}
	b.groups = append(b.groups, g)
	return g
}

// start serves a file system. Its mounts are attached in this namespace, to be cloned.
func (b *viewTree) start(g *fuseGroup) error {
	// A directory first, from which the server learns what the file system can do.
	for i, m := range g.members {
		if isDir(m.File) {
			g.members[0], g.members[i] = m, g.members[0]
			break
		}
	}
	for _, m := range g.members {
		// A copy that is attached nowhere, and of the one mount: what is mounted below
		// is another's business.
		source, err := mounttree.Clone(m.File)
		if err != nil {
			return err
		}
		g.sources = append(g.sources, source)
	}
	depth := 0 // what goes with the type of the file system
	if slices.ContainsFunc(g.members, func(m *mounttree.Mount) bool { return m.Path == "" }) {
		depth = b.r.PassDepth
	}
	fs, err := b.r.newFS(g.sources[0], g.relay, g.access == CallerAccess, len(b.groups), depth, b.log)
	if err != nil {
		return err
	}
	g.fs = fs
	for i, m := range g.members {
		name := fusefs.FirstView
		if i > 0 {
			name = g.fs.AddView(g.sources[i])
		}
		b.plans[m].view = name
	}
	g.root, err = sys.FuseMountServed(b.r.mountOptions(b.r.Source+g.members[0].Path, 0), fs.Start)
	if err != nil {
		return err
	}
	if g.relay {
		ns, err := b.namespace(b.r.Map)
		if err != nil {
			return err
		}
		for _, m := range g.members {
			attr := &b.plans[m].attr
			attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
			attr.Userns_fd = uint64(ns.Fd())
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(g.root.Fd()), &st); err != nil {
		return &sys.Error{Op: "stat", Path: b.r.Target, Err: err}
	}
	g.device = st.Dev
	return b.tree.Attach(g.root)
}

// piece returns a mount of the new tree, yet without what belongs on it.
func (b *viewTree) piece(m *mounttree.Mount) (*os.File, error) {
	p := b.plans[m]
	if p.group == nil {
		clone := p.clone
		p.clone = nil
		return clone, nil
	}
	piece, err := sys.OpenTreeAt(p.group.root, p.view, unix.OPEN_TREE_CLONE|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || !b.r.NoAttrs {
		return piece, err
	}
	defer piece.Close()
	return b.tree.SetAttrs(piece, p.attr.Attr_set)
}

// finish gives a mount of the new tree its attributes and its map.
func (b *viewTree) finish(m *mounttree.Mount, mnt *os.File) error {
	attr := b.plans[m].attr
	if b.r.NoAttrs || attr.Attr_set == 0 {
		return nil
	}
	return sys.MountSetattr(mnt, "", 0, &attr)
}

func (b *viewTree) close() {
	for _, p := range b.plans {
		if p.clone != nil {
			p.clone.Close()
		}
	}
	for _, g := range b.groups {
		if g.root != nil {
			g.root.Close()
		}
	}
	for _, ns := range b.spaces {
		ns.Close()
	}
	if b.tree != nil {
		b.tree.Close()
	}
}

// end waits for the end of a file system that has no mount any more.
func (g *fuseGroup) end() {
	if g.fs != nil {
		g.fs.Abandon()
	}
	for _, f := range g.sources {
		f.Close()
	}
}

// result is what is told of the view.
func (b *viewTree) result() served {
	s := served{Tree: true, Unserved: len(b.groups) == 0}
	byFUSE := 0
	for i, m := range b.tree.Mounts {
		p := b.plans[m]
		if p.group != nil {
			of := servedBy(p.group.fs)
			p.Cache = of.Cache
			if s.Cache == "" {
				s.Cache, s.CacheReason = of.Cache, of.CacheReason
				s.Passthrough, s.Stacking, s.StackReason = of.Passthrough, of.Stacking, of.StackReason
			}
			for _, w := range of.Warnings {
				if !slices.Contains(s.Warnings, w) {
					s.Warnings = append(s.Warnings, w)
				}
			}
		}
		if i == 0 {
			s.Backend, s.Reason, s.Access = p.Backend, p.Reason, p.Access
			continue
		}
		s.Submounts = append(s.Submounts, p.Submount)
		if p.Backend != Native {
			byFUSE++
		}
	}
	if s.Backend == Native && byFUSE > 0 {
		s.Reason += fmt.Sprintf("; through FUSE %d of %d submounts", byFUSE, len(s.Submounts))
	}
	return s
}

func isDir(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// attrsOf returns the MOUNT_ATTR_* of a mount, read-only also where the file system is.
func attrsOf(m *mountinfo.Info) uint64 {
	attrs := flagsOf(m)
	if strings.HasPrefix(m.VFSOptions+",", "ro,") {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	return attrs
}
