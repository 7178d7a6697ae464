package fusefs

import (
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// watchGroup is the fanotify group of this process. All file systems that it serves
// share one, since a user may have only fs.fanotify.max_user_groups of them (128).
// Events are dispatched by the file system that they are about.
type watchGroup struct {
	changes *sys.Changes
	self    int32 // our process id
	users   int   // guarded by watchGroups
	stop    chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex                          // serializes add and remove
	mounts atomic.Pointer[map[uint64][]*mount] // by file system; never changed, but replaced

	// dispatching is held while events are dispatched, so that a watch that has been
	// removed gets none. Nothing that a request may hold is needed meanwhile.
	dispatching sync.Mutex
}

var watchGroups struct {
	mu     sync.Mutex
	shared *watchGroup // nil without users
}

// acquireWatchGroup returns the group of the process, and makes it for the first user.
func acquireWatchGroup() (*watchGroup, error) {
	watchGroups.mu.Lock()
	defer watchGroups.mu.Unlock()
	if g := watchGroups.shared; g != nil {
		g.users++
		return g, nil
	}
	changes, err := sys.NewChanges()
	if err != nil {
		return nil, err
	}
	g := &watchGroup{changes: changes, self: int32(os.Getpid()), users: 1, stop: make(chan struct{})}
	g.mounts.Store(&map[uint64][]*mount{})
	watchGroups.shared = g
	g.running.Add(1)
	go g.read()
	return g, nil
}

// release gives the group up. The last user closes it.
func (g *watchGroup) release() {
	watchGroups.mu.Lock()
	g.users--
	last := g.users == 0
	if last {
		watchGroups.shared = nil
	}
	watchGroups.mu.Unlock()
	if last {
		close(g.stop)
		g.changes.Close()
		g.running.Wait()
	}
}

// mountsOf returns the mounts of a file system. If there is more than one, the kernel
// knows some files as two, and what it asks to be done to one is news for the other.
func (g *watchGroup) mountsOf(fsid uint64) []*mount { return (*g.mounts.Load())[fsid] }

// add begins to report changes of m's file system to m.watch.
func (g *watchGroup) add(m *mount) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.changes.Add(m.dir); err != nil {
		return err
	}
	g.replace(m.fsid, append(slices.Clone(g.mountsOf(m.fsid)), m))
	return nil
}

// remove ends the reports to a watch. None comes after it has returned.
func (g *watchGroup) remove(w *watch) {
	g.mu.Lock()
	for fsid, all := range *g.mounts.Load() {
		rest := slices.DeleteFunc(slices.Clone(all), func(m *mount) bool { return m.watch == w })
		if len(rest) == len(all) {
			continue
		}
		if len(rest) == 0 {
			if err := g.changes.Remove(all[0].dir); err != nil {
				w.fs.log.Debug("the file system stays watched", "mount", all[0].dir.Name(), "cause", err)
			}
		}
		g.replace(fsid, rest)
	}
	g.mu.Unlock()
	g.dispatching.Lock() // the events under way are through then
	g.dispatching.Unlock()
}

// replace makes mounts those of a file system.
func (g *watchGroup) replace(fsid uint64, mounts []*mount) {
	next := maps.Clone(*g.mounts.Load())
	if len(mounts) == 0 {
		delete(next, fsid)
	} else {
		next[fsid] = mounts
	}
	g.mounts.Store(&next)
	g.setIgnoredWrites(mounts)
}

// setIgnoredWrites ignores writes by way of a mount that belongs to one file system of
// ours alone. They go by passthrough, of which the kernel knows, and each would cost an
// event. Where a file system is watched for two mounts, the other has to hear of them.
func (g *watchGroup) setIgnoredWrites(mounts []*mount) {
	for _, m := range mounts {
		ignore := len(mounts) == 1 && m.watch.fs.ownMount
		if ignore == m.ignoresWrites {
			continue
		}
		set := g.changes.HeedWrites
		if ignore {
			set = g.changes.IgnoreWrites
		}
		if err := set(m.dir); err != nil {
			m.watch.fs.log.Debug("which writes are reported stays as it was", "mount", m.dir.Name(), "cause", err)
			continue
		}
		m.ignoresWrites = ignore
	}
}

func (g *watchGroup) read() {
	defer g.running.Done()
	for {
		pause := ownPause
		err := g.changes.Read(func(c *sys.Change) {
			if c.Pid != g.self {
				pause = watchPause
			}
			g.dispatch(c)
		})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			// Whatever it was, it has hidden changes.
			g.lost(err)
		}
		select {
		case <-time.After(pause):
		case <-g.stop:
			return
		}
	}
}

// dispatch passes an event on. Of what the server has done itself, the kernel knows.
func (g *watchGroup) dispatch(c *sys.Change) {
	if c.Mask&unix.FAN_Q_OVERFLOW != 0 {
		g.lost(errOverflow)
		return
	}
	g.dispatching.Lock()
	defer g.dispatching.Unlock()
	mounts := g.mountsOf(c.FSID)
	if c.Pid == g.self && len(mounts) < 2 {
		return
	}
	for _, m := range mounts {
		m.watch.changed(m, c)
	}
}

var errOverflow = errors.New("more changes at a time than fs.fanotify.max_queued_events")

// lost is for changes that nobody knows of, of any file system.
func (g *watchGroup) lost(cause error) {
	g.dispatching.Lock()
	defer g.dispatching.Unlock()
	told := make(map[*watch]bool)
	for _, mounts := range *g.mounts.Load() {
		for _, m := range mounts {
			if !told[m.watch] {
				told[m.watch] = true
				m.watch.lost(cause)
			}
		}
	}
}
