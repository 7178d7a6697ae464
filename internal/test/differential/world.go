package differential

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/internal/test/conformance"
	"github.com/idmount/idmount/internal/test/testenv"
)

func init() { testenv.Handle("differential", serveStep) }

// A World is one mount with callers on it.
type World struct {
	Backend string

	t      testing.TB
	m      *conformance.Map
	source string
	mount  string
	agents map[string]*testenv.Agent
	runs   int
	buf    []byte
	batch  int  // how many steps of one caller are made without a look in between
	late   bool // the kernel of a world writes to the disk when it likes
}

// NewWorld mounts source, or a directory of it, by a backend.
func NewWorld(t testing.TB, source string, m *conformance.Map, backend string, o idmount.Options) *World {
	t.Helper()
	w := &World{Backend: backend, t: t, m: m, source: source, agents: map[string]*testenv.Agent{}, buf: make([]byte, 1<<16), batch: usualBatch, late: o.Cache.Mode == fusefs.CacheExclusive}
	if backend == "native" {
		w.mount = conformance.MountOracle(t, source, m)
	} else {
		w.mount = conformance.MountWith(t, source, m, backend, o)
	}
	return w
}

// usualBatch is how many steps are made between two looks; most time goes into
// looks.
const usualBatch = 8

// A Note is what a world shows after a step.
type Note struct {
	Result string
	Seen   []string // the files concerned, through the mount and on disk
}

// Run makes the steps in a fresh tree.
func (w *World) Run(steps []Step) (notes []Note, err error) {
	w.runs++
	name := fmt.Sprintf("run%06d", w.runs)
	dir := filepath.Join(w.source, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	d := &conformance.Disk{Dir: dir, Map: w.m}
	prepare(d)
	if d.Err != nil {
		return nil, fmt.Errorf("prepare: %w", d.Err)
	}
	r := &run{World: w, seen: filepath.Join(w.mount, name), disk: newSession(dir+"/", w.m, nil), at: map[string]*[slots + 1]string{}}
	for _, o := range []struct {
		fd   *int
		path string
	}{{&r.diskFD, dir}, {&r.viewFD, r.seen}} {
		if *o.fd, err = unix.Open(o.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("open %s: %w", o.path, err)
		}
		defer unix.Close(*o.fd)
	}
	for len(steps) > 0 {
		n := 1
		for n < w.batch && n < len(steps) && steps[n].By == steps[0].By && !untidy(&steps[n-1]) {
			n++
		}
		got, err := r.batch(steps[:n])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", steps[0].String(), err)
		}
		notes = append(notes, got...)
		steps = steps[n:]
	}
	if len(notes) > 0 {
		last := &notes[len(notes)-1]
		last.Seen = append(last.Seen, r.tree()...)
	}
	return notes, nil
}

// run is one sequence in one world.
type run struct {
	*World
	seen           string // the tree through the mount
	diskFD, viewFD int
	disk           *session
	at             map[string]*[slots + 1]string // the names of open files, by caller
}

type stepRequest struct {
	Map, Caller, Dir string
	Steps            []Step
	Late             bool
}

// batch makes steps of one caller, without a look in between.
func (r *run) batch(steps []Step) ([]Note, error) {
	var results []string
	by := steps[0].By
	if by == disk {
		for i := range steps {
			results = append(results, r.disk.do(&steps[i]))
		}
	} else {
		a := r.agents[by]
		if a == nil {
			a = testenv.StartAgent(r.t, conformance.CallerByName(by).Make(r.m))
			r.agents[by] = a
		}
		if err := a.Call("differential", stepRequest{r.m.Name, by, r.seen, steps, r.late}, &results); err != nil {
			return nil, err
		}
	}
	// What the last step of a batch leaves untidy shows at the steps before it.
	paths := make([][]string, len(steps))
	for i := range steps {
		paths[i] = r.concerned(&steps[i], results[i])
		for _, p := range paths[i] {
			tidy(r.diskFD, &steps[i], results[i], p)
		}
	}
	notes := make([]Note, len(steps))
	for i := range steps {
		notes[i].Result = results[i]
		for _, p := range paths[i] {
			notes[i].Seen = append(notes[i].Seen, "view of "+p+": "+r.look(r.viewFD, p, false), "disk "+p+": "+r.look(r.diskFD, p, true))
		}
	}
	return notes, nil
}

// concerned are the names of files that a step is about. Open files go by the
// names that they were opened by.
func (r *run) concerned(s *Step, result string) []string {
	names := r.at[s.By]
	if names == nil {
		names = new([slots + 1]string)
		r.at[s.By] = names
	}
	if s.Call == "open" && result == "ok" {
		names[s.Slot] = s.Path
	}
	var out []string
	add := func(p string) {
		if p != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	add(s.Path)
	if s.Call != "symlink" {
		add(s.To)
	}
	if s.Path == "" || s.Slot2 != 0 {
		add(names[s.Slot])
		add(names[s.Slot2])
	}
	for _, p := range out {
		var st unix.Stat_t
		if unix.Fstatat(r.diskFD, p, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			buf := make([]byte, 64)
			if n, err := unix.Readlinkat(r.diskFD, p, buf); err == nil {
				add(filepath.Join(filepath.Dir(p), string(buf[:n])))
			}
		}
	}
	return out
}

// look describes one file; whole says that attributes and content matter too.
func (r *run) look(dirfd int, path string, whole bool) string {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return did(err)
	}
	text := statText(&st)
	if !whole {
		return text
	}
	file := procPath(dirfd, path)
	n, err := unix.Llistxattr(file, r.buf)
	if err != nil {
		text += ", attributes " + did(err)
	} else if n > 0 {
		for _, name := range attrNames(r.buf[:n]) {
			value := make([]byte, 256)
			n, err := unix.Lgetxattr(file, name, value)
			if err == unix.ERANGE {
				value = make([]byte, 1<<16)
				n, err = unix.Lgetxattr(file, name, value)
			}
			if err != nil {
				text += fmt.Sprintf(", %s: %s", name, did(err))
			} else {
				text += fmt.Sprintf(", %s: %s", name, attrText(name, value[:n]))
			}
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		text += ", content " + r.contentOf(dirfd, path)
	case unix.S_IFLNK:
		n, err := unix.Readlinkat(dirfd, path, r.buf)
		text += ", target " + string(r.buf[:max(n, 0)]) + " " + did(err)
	}
	return text
}

func (r *run) contentOf(dirfd int, path string) string {
	fd, err := unix.Openat(dirfd, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err == unix.EPERM { // not the owner's, through the mount
		fd, err = unix.Openat(dirfd, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return did(err)
	}
	defer unix.Close(fd)
	total, sum := 0, uint32(0)
	for {
		n, err := unix.Read(fd, r.buf)
		if err != nil {
			return did(err)
		}
		if n == 0 {
			return fmt.Sprintf("%d bytes %08x", total, sum)
		}
		total += n
		sum = sum*31 + hash(r.buf[:n])
	}
}

// tree describes all files, as they are on disk and through the mount.
func (r *run) tree() (out []string) {
	var walk func(dir string)
	walk = func(dir string) {
		list := func(fd int) []string {
			d, err := unix.Openat(fd, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return []string{did(err)}
			}
			f := os.NewFile(uintptr(d), dir)
			defer f.Close()
			names, err := f.Readdirnames(-1)
			if err != nil {
				return []string{did(err)}
			}
			slices.Sort(names)
			return names
		}
		names := list(r.diskFD)
		out = append(out, "tree: view of "+dir+": entries "+strings.Join(list(r.viewFD), " "), "tree: disk "+dir+": entries "+strings.Join(names, " "))
		for _, name := range names {
			p := filepath.Join(dir, name)
			out = append(out, "tree: view of "+p+": "+r.look(r.viewFD, p, true), "tree: disk "+p+": "+r.look(r.diskFD, p, true))
			var st unix.Stat_t
			if unix.Fstatat(r.diskFD, p, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				walk(p)
			}
		}
	}
	walk(".")
	return out
}

// procPath names a file for calls that take no directory descriptor.
func procPath(dirfd int, path string) string {
	return "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + path
}

// served is the session of an agent, and what for.
var served struct {
	dir string
	*session
}

// serveStep is what agents run, by the name "differential".
func serveStep(arg json.RawMessage) (any, error) {
	var q stepRequest
	if err := json.Unmarshal(arg, &q); err != nil {
		return nil, err
	}
	if served.dir != q.Dir {
		if served.session != nil {
			served.close()
		}
		m := conformance.MapByName(q.Map)
		c := conformance.CallerByName(q.Caller).Make(m)
		served.dir, served.session = q.Dir, newSession("", m, &c)
		served.late = q.Late
		if err := unix.Chdir(q.Dir); err != nil {
			return nil, fmt.Errorf("chdir %s: %w", q.Dir, err)
		}
	}
	results := make([]string, len(q.Steps))
	for i := range q.Steps {
		results[i] = served.do(&q.Steps[i])
		if changesData(q.Steps[i].Call) && keepsSetIDs[q.Caller] {
			served.tidy(&q.Steps[i])
		}
	}
	if q.Late {
		served.sync()
	}
	return results, nil
}
