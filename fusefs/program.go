package fusefs

import (
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// forExec is __FMODE_EXEC, which an OPEN has if it is the kernel that opens a
// file, to execute it. A program can't set it: open(2) drops the bit, and
// openat2(2) refuses it.
const forExec = 0x20

// openProgram opens a file that its caller may execute and not read. An NFS server
// lets the caller read it all the same, and the client trusts its own kernel to
// ask only in order to execute. It refuses a process that asks to read, as this
// server has to. No other source has such an agreement.
//
// The kernel keeps the memory of a program from whoever may not read the file. Here
// it goes by the mode for that, so the mode has to refuse them too, and not the
// NFS server alone.
//
// What is left is to read it as its owner, which nobody but the kernel gets to
// see. The owner may be refused as well: root, whom the server takes for nobody,
// or one who may not read either. Then the kernel opens the file at the source by
// itself, as the caller and with its flag, as it does with every passthrough file.
// Until the program has ended, all who open it get that passthrough file.
func (c *callers) openProgram(x cancel, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := c.f.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	var st unix.Stat_t
	who := c.onDisk(&in.Caller)
	status := c.as(&in.InHeader, func() fuse.Status {
		u := c.f.path(n)
		if u.errno != 0 {
			return fuse.Status(u.errno)
		}
		defer u.done()
		var fs unix.Statfs_t
		if err := unix.Fstatfs(u.fd, &fs); err != nil || uint32(fs.Type) != unix.NFS_SUPER_MAGIC {
			return fuse.EACCES
		}
		if errno := sys.Stat(u.fd, &st); errno != 0 {
			return fuse.Status(errno)
		}
		if modeReads(&who, &st) || sys.MayExecute(u.fd) != 0 {
			return fuse.EACCES // never ENOSYS, by which the kernel would ask for no file any more
		}
		return fuse.OK
	})
	if status != fuse.OK {
		return status
	}
	err := c.f.asOwner(&st, func() error {
		status = c.RawFileSystem.Open(x, in, out)
		return nil
	})
	if err != nil {
		return fuse.EIO
	}
	if status != fuse.EACCES || !c.f.passExec {
		return status
	}
	return c.as(&in.InHeader, func() fuse.Status { return fuse.Status(c.f.passProgram(n, &in.InHeader, out)) })
}

// modeReads tells whether the permission bits of a file let somebody read it.
func modeReads(who *sys.Creds, st *unix.Stat_t) bool {
	switch {
	case who.FsUID == st.Uid:
		return st.Mode&unix.S_IRUSR != 0
	case who.FsGID == st.Gid || slices.Contains(who.Groups, st.Gid):
		return st.Mode&unix.S_IRGRP != 0
	}
	return st.Mode&unix.S_IROTH != 0
}

// passProgram answers with a passthrough file that is opened as who the thread is.
// That is not possible while the file is open by requests.
func (f *FS) passProgram(n *node, h *fuse.InHeader, out *fuse.OpenOut) unix.Errno {
	p := f.path(n)
	if p.errno != 0 {
		return p.errno
	}
	defer p.done()
	fd, errno := sys.Duplicate(p.fd)
	if errno != 0 {
		return errno
	}
	u := n.uses()
	o := &u.open
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == 0 {
		o.backing, _ = f.conn.RegisterBacking(fd)
		o.kept = false
	}
	if o.backing == 0 {
		unix.Close(fd)
		return unix.EACCES
	}
	uid := f.payer(h, f.files.crowded)
	if !f.files.charge(uid) {
		if o.count == 0 {
			f.idle(n, o)
		}
		unix.Close(fd)
		return unix.ENFILE
	}
	out.Fh = f.files.add(n, fd, unix.O_PATH, uid, true, true, true).handle // the kernel asks for no data
	f.attach(n, u, unix.O_RDONLY, out)
	return 0
}
