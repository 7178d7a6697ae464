package fusefs

import (
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

const (
	// maxSteps bounds how far below the nearest directory with a descriptor a node
	// without a handle is found again. A path of a system call has half as many.
	maxSteps = 4096

	// keptSteps is how many of the last directories on the way keep a descriptor.
	keptSteps = 64

	// stepsAtOnce is for how many steps fdCache.mu is held.
	stepsAtOnce = 256
)

// step is a node without a handle, and its name in its parent.
type step struct {
	n    *node
	name string
}

// walk opens a node without a handle by its name, from the nearest of its parents that
// has a descriptor or a handle. The parents are those of the last look-ups. Renames at
// the source can have made a circle of them since: the node then is ESTALE, and so the
// kernel looks its path up again, unless it is an open file.
func (f *FS) walk(n *node) use {
	u := f.walkTo(n)
	if u.errno == unix.ESTALE {
		u.fd, u.errno = f.files.anyOf(n)
	}
	return u
}

func (f *FS) walkTo(n *node) use {
	steps, dir := f.stepsTo(n)
	for i := len(steps) - 1; i >= 0 && dir.errno == 0; i-- {
		next := f.enter(dir.fd, steps[i], i < keptSteps)
		dir.done()
		dir = next
	}
	return dir
}

// stepsTo returns the way to n, its last step first, and where it begins.
func (f *FS) stepsTo(n *node) ([]step, use) {
	stale := use{fd: -1, errno: unix.ESTALE}
	var steps []step
	c := &f.fds
	c.mu.Lock()
	for at := n; len(steps) < maxSteps; {
		h := at.held
		if h == nil || h.parent == nil {
			break
		}
		steps = append(steps, step{at, h.name})
		at = h.parent
		if at.mountIndex() != noMount {
			c.mu.Unlock()
			return steps, f.path(at)
		}
		if fd, ok := c.hold(at, pathOnly); ok {
			c.mu.Unlock()
			return steps, use{fd: fd, n: at, shared: c}
		}
		if len(steps)%stepsAtOnce == 0 {
			c.mu.Unlock()
			c.mu.Lock()
		}
	}
	c.mu.Unlock()
	return nil, stale
}

// enter opens the node of a step below dirfd. Its identity is checked if it keeps the
// descriptor, as the last node of a way does.
func (f *FS) enter(dirfd int, s step, keep bool) use {
	fd, errno := openPath(dirfd, s.name)
	switch errno {
	case 0:
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EINTR:
		return use{fd: -1, errno: errno}
	default:
		return use{fd: -1, errno: unix.ESTALE}
	}
	if !keep {
		return use{fd: fd}
	}
	var st unix.Stat_t
	var key keyBuf
	if errno := sys.Stat(fd, &st); errno != 0 || string(key.ofInode(&st)) != s.n.key {
		unix.Close(fd)
		return use{fd: -1, errno: unix.ESTALE}
	}
	return use{fd: f.fds.adopt(s.n, fd, pathOnly), n: s.n, shared: &f.fds}
}
