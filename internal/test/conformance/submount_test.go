package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// submountDifferences are those of mounts below the source.
var submountDifferences = []Known{
	{
		Reason:  "the kernel refuses to rename what something is mounted on before the server meets a caller that the map does not have",
		Backend: "translate", Scenario: "submount/recursive", Key: "op rename (sub|sub/deeper|ro|bound|covered)", Want: "EOVERFLOW", Got: "EBUSY",
	},
}

// submountScenarios are the two ways to make a mount. A mount shows those below the
// source as they were when it was made, so each caller has a directory before that.
var submountScenarios = special(
	&Scenario{Name: "submount/recursive", Setup: withSubmounts, Op: func(e *Env) { overSubmounts(e, true) }},
	&Scenario{Name: "submount/alone", Setup: withSubmounts, Op: func(e *Env) { overSubmounts(e, false) }},
	&Scenario{Name: "submount/flags", Setup: withFlags, Op: overFlags},
)

// mountFlags are those that a mount can have, each on a submount of its own.
var mountFlags = []struct {
	name string
	bits uintptr
}{
	{"none", 0},
	{"ro", unix.MS_RDONLY},
	{"nosuid", unix.MS_NOSUID},
	{"nodev", unix.MS_NODEV},
	{"noexec", unix.MS_NOEXEC},
	{"nosymfollow", unix.MS_NOSYMFOLLOW},
	{"noatime", unix.MS_NOATIME},
	{"nodiratime", unix.MS_NODIRATIME},
	{"strictatime", unix.MS_STRICTATIME},
	{"strictest", unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW},
}

// withFlags binds a part of the file system at a place for each flag.
func withFlags(d *Disk) {
	for _, f := range mountFlags {
		d.Mkdir(f.name, "AA", 0o777)
		d.Mkdir("of-"+f.name, "AA", 0o777)
		d.File("of-"+f.name+"/f", "AA", 0o666)
		d.Program("of-"+f.name+"/cat", "BB", 0o6755)
		d.do("device", func() error {
			if err := unix.Mknod(d.path("of-"+f.name+"/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
				return err
			}
			return d.own("of-"+f.name+"/null", "AA", 0o666)
		})
		d.do("link", func() error { return unix.Symlink("f", d.path("of-"+f.name+"/link")) })
		d.do("mount", func() error {
			if err := unix.Mount(d.path("of-"+f.name), d.path(f.name), "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Mount("", d.path(f.name), "", unix.MS_REMOUNT|unix.MS_BIND|f.bits, "")
		})
	}
}

func overFlags(e *Env) {
	for _, f := range mountFlags {
		dir := f.name
		var fs unix.Statfs_t
		e.Did("statfs "+dir, unix.Statfs(dir, &fs))
		const all = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME | unix.ST_RELATIME | 0x2000
		e.Saw("flags of "+dir, fmt.Sprintf("%#x", int64(fs.Flags)&all))
		out, err := outputAt(unix.AT_FDCWD, dir+"/cat", 0, false, "/proc/self/status")
		e.Saw("ran "+dir+"/cat as", identity(out)+" "+ErrText(err))
		for _, name := range []string{"null", "link"} {
			e.Open("open "+dir+"/"+name, dir+"/"+name, unix.O_RDONLY, 0)
		}
		if fd := e.Open("write "+dir, dir+"/f", unix.O_RDWR, 0); fd >= 0 {
			_, err := unix.Write(fd, []byte("new"))
			e.Did("write to "+dir+"/f", err)
		}
		e.Did("chmod "+dir, unix.Chmod(dir+"/f", 0o640))
		e.Did("chown "+dir, unix.Chown(dir+"/f", e.UID('A'), e.GID('A')))
		e.Did("setxattr "+dir, unix.Setxattr(dir+"/f", "user.a", []byte("b"), 0))
		e.Did("utimes "+dir, unix.Utimes(dir+"/f", []unix.Timeval{{Sec: 1}, {Sec: 2}}))
		e.Did("mkdir in "+dir, unix.Mkdir(dir+"/made", 0o755))
		e.Did("unlink in "+dir, unix.Unlink(dir+"/link"))
		e.Did("rename in "+dir, unix.Rename(dir+"/cat", dir+"/dog"))
		e.Did("access "+dir, unix.Access(dir+"/f", unix.W_OK))
	}
}

// withSubmounts mounts a tmpfs, which has another one below it, a read-only one,
// and a part of the file system itself, on a directory and on a file.
func withSubmounts(d *Disk) {
	d.File("f", "AA", 0o666)
	d.File("other", "BB", 0o666)
	d.Mkdir("same", "AA", 0o777)
	d.File("same/f", "AU", 0o666)
	for _, name := range []string{"sub", "ro", "bound"} {
		d.Mkdir(name, "AA", 0o777)
		d.File(name+"/hidden", "AA", 0o666)
	}
	d.File("covered", "AA", 0o666)
	mount := func(source, target, fstype string, flags uintptr) {
		d.do("mount "+target, func() error {
			if fstype == "" {
				source = d.path(source)
			}
			return unix.Mount(source, d.path(target), fstype, flags, "")
		})
	}
	for _, name := range []string{"sub", "sub/deeper", "ro"} {
		if name == "sub/deeper" {
			d.Mkdir(name, "AA", 0o777)
		}
		mount("test", name, "tmpfs", 0)
		d.do("owner of "+name, func() error { return d.own(name, "AA", 0o777) })
		d.File(name+"/f", "AA", 0o666)
		d.File(name+"/theirs", "BB", 0o600)
		d.File(name+"/unmapped", "UU", 0o666)
		d.Program(name+"/cat", "AA", 0o6755)
	}
	mount("", "ro", "none", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY)
	mount("same", "bound", "", unix.MS_BIND)
	mount("other", "covered", "", unix.MS_BIND)
}

// overSubmounts uses what is mounted below the source, and renames and removes the
// mount points if they are that in the view. If they are not, the server answers as
// the kernel does in its own mount namespace: TestMountPointsOfTheSource.
func overSubmounts(e *Env, mountPoints bool) {
	device := func(name string) (dev uint64) {
		var st unix.Stat_t
		e.Did("stat "+name, unix.Lstat(name, &st))
		return st.Dev
	}
	here := device(".")
	for _, name := range []string{"sub", "sub/deeper", "ro", "bound", "covered"} {
		e.Saw("device of "+name+" is the directory's", fmt.Sprint(device(name) == here))
	}
	for _, dir := range []string{"sub", "sub/deeper", "ro", "bound"} {
		if fd := e.Open("open "+dir, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0); fd >= 0 {
			names := only(e.getdents(fd, 4096), "")
			e.Saw("entries of "+dir, fmt.Sprint(len(names)))
			var up, by unix.Stat_t
			e.Did("stat above "+dir, unix.Fstatat(fd, "..", &up, 0))
			e.Did("stat what has "+dir, unix.Lstat(filepath.Dir(dir), &by))
			e.Saw("above "+dir+" is what has it", fmt.Sprint(up.Ino == by.Ino && up.Dev == by.Dev))
		}
		e.Open("open hidden "+dir, dir+"/hidden", unix.O_RDWR, 0)
		for _, name := range []string{"f", "theirs", "unmapped"} {
			if fd := e.Open("open "+dir+"/"+name, dir+"/"+name, unix.O_RDWR, 0); fd >= 0 {
				_, err := unix.Write(fd, []byte("new"))
				e.Did("write "+dir+"/"+name, err)
			}
			e.Did("chmod "+dir+"/"+name, unix.Chmod(dir+"/"+name, 0o640))
			e.Did("chown "+dir+"/"+name, unix.Chown(dir+"/"+name, e.UID('B'), e.GID('B')))
		}
		e.Open("create in "+dir, dir+"/new", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.Did("mkdir in "+dir, unix.Mkdir(dir+"/made", 0o755))
		e.Did("link in "+dir, unix.Link(dir+"/f", dir+"/f2"))
		e.Did("rename in "+dir, unix.Rename(dir+"/new", dir+"/newer"))
		e.Did("link into "+dir, unix.Link("f", dir+"/linked"))
		e.Did("rename into "+dir, unix.Rename("f", dir+"/moved"))
		e.Did("rename out of "+dir, unix.Rename(dir+"/newer", "out"))
		e.Did("exchange with "+dir, unix.Renameat2(unix.AT_FDCWD, "f", unix.AT_FDCWD, dir+"/f", unix.RENAME_EXCHANGE))
		out, err := outputAt(unix.AT_FDCWD, dir+"/cat", 0, false, "/proc/self/status")
		e.Saw("ran "+dir+"/cat as", identity(out)+" "+ErrText(err))
		if !mountPoints {
			continue
		}
		e.Did("rename "+dir, unix.Rename(dir, dir+"-moved"))
		e.Did("rename over "+dir, unix.Rename("same", dir))
		e.Did("exchange "+dir, unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, "same", unix.RENAME_EXCHANGE))
		e.Did("rmdir "+dir, unix.Rmdir(dir))
	}
	if fd := e.Open("open covered", "covered", unix.O_RDWR, 0); fd >= 0 {
		_, err := unix.Write(fd, []byte("new"))
		e.Did("write covered", err)
	}
	e.Did("link covered", unix.Link("covered", "linked"))
	e.Did("chmod covered", unix.Chmod("covered", 0o644))
	if mountPoints {
		e.Did("rename covered", unix.Rename("covered", "moved"))
		e.Did("rename over covered", unix.Rename("f", "covered"))
		e.Did("unlink covered", unix.Unlink("covered"))
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, "sub/f", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH})
	e.Did("resolve beneath", err)
	if err == nil {
		unix.Close(fd)
	}
}

// TestSubmounts: what is mounted below the source is there, by all callers, with a
// recursive mount, and not with another, as natively.
func TestSubmounts(t *testing.T) {
	testenv.RequireRoot(t)
	p := planFromEnv(t)
	m := Maps[0]
	report := NewReport(submountDifferences)
	agents := map[string]*testenv.Agent{}
	for _, c := range Callers {
		agents[c.Name] = testenv.StartAgent(t, c.Make(m))
	}
	for _, s := range submountScenarios {
		t.Run(s.Name, func(t *testing.T) {
			recursive := s.Name != "submount/alone"
			want := underSubmounts(t, agents, m, s, func(source string) string {
				return mountTree(t, source, m, recursive)
			})
			for _, backend := range p.backends {
				t.Run(backend, func(t *testing.T) {
					got := underSubmounts(t, agents, m, s, func(source string) string {
						o := optionsFromEnv(t)
						o.Recursive = recursive
						return MountWith(t, source, m, backend, o)
					})
					for _, c := range Callers {
						for _, d := range report.Differences(Case{s.Name, c.Name, backend, "ext4", m.Name}, want[c.Name], got[c.Name], nil) {
							t.Errorf("caller %s: %s: native %s, %s %s", c.Name, d.Key, d.Want, backend, d.Got)
						}
					}
				})
			}
		})
	}
	if !t.Failed() && slices.Equal(p.backends, defaultBackends) {
		for _, reason := range report.unused(p.backends, []string{"ext4"}) {
			t.Errorf("known difference not seen any more: %s", reason)
		}
	}
}

// underSubmounts runs a scenario by all callers on a fresh source.
func underSubmounts(t *testing.T, agents map[string]*testenv.Agent, m *Map, s *Scenario, mount func(source string) string) map[string]Result {
	t.Helper()
	source := testenv.Source(t, "ext4")
	for _, c := range Callers {
		d := &Disk{Dir: filepath.Join(source, c.Name), Map: m}
		if err := os.Mkdir(d.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		d.Mkdir("", "AA", 0o777)
		t.Cleanup(func() {
			names := []string{"covered", "bound", "ro", "sub/deeper", "sub"}
			if s.Name == "submount/flags" {
				names = nil
				for _, f := range mountFlags {
					names = append(names, f.name)
				}
			}
			for _, name := range names {
				testenv.Unmount(t, d.path(name))
			}
		})
		s.Setup(d)
		if d.Err != nil {
			t.Fatalf("caller %s: %v", c.Name, d.Err)
		}
	}
	mnt := mount(source)
	results := map[string]Result{}
	for _, c := range Callers {
		dir := filepath.Join(mnt, c.Name)
		var r Result
		if err := agents[c.Name].Call("conformance", caseRequest{Scenario: s.Name, Map: m.Name, Caller: c.Name, Dir: dir}, &r); err != nil {
			t.Fatalf("caller %s: %v", c.Name, err)
		}
		r.snapshot("root sees", dir)
		r.snapshot("disk", filepath.Join(source, c.Name))
		results[c.Name] = r
	}
	return results
}

// mountTree is MountOracle for a tree of mounts.
func mountTree(t *testing.T, source string, m *Map, recursive bool) string {
	t.Helper()
	if !recursive {
		return MountOracle(t, source, m)
	}
	ns, err := sys.NewUserNamespace(text(m.UIDs), text(m.GIDs))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	tree, err := sys.OpenTree(source, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := sys.MountSetattr(tree, "", unix.AT_RECURSIVE, attr); err != nil {
		t.Fatal(err)
	}
	target := testenv.Dir(t)
	if err := sys.MoveMount(tree, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Error(err)
		}
	})
	return target
}
