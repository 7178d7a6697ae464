package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openLate answers an OPEN without opening the file, if that may be: to open and close
// it here costs as much as all else that happens to such a request. A file that
// is not open is looked at for set-id bits (see begin), again only where it is known
// that somebody has changed it since; so this is for sources that report that.
func (f *FS) openLate(n *node, in *fuse.OpenIn, out *fuse.OpenOut) (bool, unix.Errno) {
	const not = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_SYNC | unix.O_DIRECT | unix.O_NOATIME
	if in.Flags&not != 0 || f.needsDescriptor(n) {
		return false, 0
	}
	if m := f.mountOf(n); !m.watched {
		return false, 0
	}
	u := n.uses()
	o := &u.open
	o.mu.Lock()
	defer o.mu.Unlock()
	p := f.path(n)
	if p.errno != 0 {
		return false, 0
	}
	defer func() { p.done() }()
	if errno := f.mayOpen(n, p.fd, in); errno != 0 {
		return false, errno
	}
	if o.count == 0 && (o.backing == 0 || !f.watch.undisturbed(o.looked)) {
		f.begin(n, o, p.fd, true)
		if o.backing != 0 {
			p = f.fds.lend(n, p) // more is asked of a file that is open
		}
	}
	if o.backing == 0 {
		return false, 0
	}
	out.Fh = f.files.add(n, -1, f.reopenFlags(n, in.Flags), in.Uid, false, false, false).handle
	f.attach(n, u, in.Flags, out)
	return true, 0
}
