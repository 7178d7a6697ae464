package conformance

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// What a file system keeps for root, and what a user may have of it. A server
// that may have all must not give it to everybody.

// spaceScenarios fill a file system, so that each has it for itself.
var spaceScenarios = special(
	&Scenario{
		Name:  "space/reserve",
		Setup: func(d *Disk) { d.File("f", "AA", 0o666) },
		Op:    func(e *Env) { fill(e, "f", spaceLimit) },
	},
	&Scenario{
		// Not through passthrough.
		Name:  "space/reserve-setid",
		Setup: func(d *Disk) { d.File("f", "AA", 0o6666) },
		Op:    func(e *Env) { fill(e, "f", spaceLimit) },
	},
	&Scenario{
		Name:  "space/allocate",
		Setup: func(d *Disk) { d.File("f", "AA", 0o666) },
		Op: func(e *Env) {
			if fd := e.Open("open", "f", unix.O_WRONLY, 0); fd >= 0 {
				e.Did("half", unix.Fallocate(fd, 0, 0, spaceLimit/2))
				e.Did("all", unix.Fallocate(fd, 0, 0, spaceLimit))
				// It took what there was. A few blocks may belong to directories
				// that callers, or the server, still hold.
				var st unix.Stat_t
				e.Did("stat", unix.Fstat(fd, &st))
				e.Did("truncate", unix.Ftruncate(fd, st.Size>>20<<20))
			}
		},
	},
)

var quotaScenarios = special(
	&Scenario{
		Name:  "quota/write",
		Setup: func(d *Disk) { d.File("f", "AA", 0o666); d.quota('A', 1<<20, 0) },
		Op:    func(e *Env) { fill(e, "f", 2<<20) },
	},
	&Scenario{
		Name:  "quota/write-setid",
		Setup: func(d *Disk) { d.File("f", "AA", 0o6666); d.quota('A', 1<<20, 0) },
		Op:    func(e *Env) { fill(e, "f", 2<<20) },
	},
	&Scenario{
		Name:  "quota/files",
		Setup: func(d *Disk) { d.quota('A', 0, 10) },
		Op: func(e *Env) {
			for i := range 12 {
				e.Did("create", unix.Mknod(fmt.Sprint("f", i), unix.S_IFREG|0o644, 0))
			}
			e.Did("mkdir", unix.Mkdir("d", 0o755))
			e.Did("symlink", unix.Symlink("x", "l"))
			e.Open("open", "new", unix.O_CREAT|unix.O_RDWR, 0o644)
		},
	},
	&Scenario{
		Name: "quota/chown",
		Setup: func(d *Disk) {
			d.File("f", "BB", 0o644)
			d.quota('A', 0, 1) // the directory of the case
		},
		Op: func(e *Env) { e.Did("chown", unix.Chown("f", e.UID('A'), -1)) },
	},
)

// special has agents know scenarios that are not for every file system.
func special(list ...*Scenario) []*Scenario {
	for _, s := range list {
		scenarioByName[s.Name] = s
	}
	return list
}

// spaceLimit is more than there is.
const spaceLimit = 30 << 20

// fill writes to a file until there is no more space, and records how much of
// it was had.
func fill(e *Env, name string, limit int) {
	fd := e.Open("open", name, unix.O_WRONLY|unix.O_APPEND, 0)
	if fd < 0 {
		return
	}
	block := make([]byte, 1<<16)
	total := 0
	for total < limit {
		n, err := unix.Write(fd, block)
		if err != nil {
			e.Did("write", err)
			break
		}
		total += n
	}
	e.Did("fsync", unix.Fsync(fd))
	e.Saw("written", fmt.Sprintf("about %d MiB", (total+1<<19)>>20))
}

// quota limits the bytes and the files of a role.
func (d *Disk) quota(role byte, bytes, files uint64) {
	const (
		setQuota = 0x800008 << 8 // Q_SETQUOTA of users
		blocks   = 1             // QIF_BLIMITS
		inodes   = 4             // QIF_ILIMITS
	)
	limits := struct {
		hardBlocks, softBlocks, space, hardFiles, softFiles, files, blockTime, fileTime uint64
		valid                                                                           uint32
	}{hardBlocks: bytes >> 10, hardFiles: files, valid: blocks | inodes}
	d.do("quota", func() error {
		fd, err := unix.Open(d.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), setQuota, uintptr(d.Map.DiskID(role)), uintptr(unsafe.Pointer(&limits)), 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
}

var spaceCallers = []string{"R0", "user-A", "user-B", "MR", "C0", "container-user", "container-user-with-caps"}

func TestReservedSpace(t *testing.T) { limitedSpace(t, false, spaceScenarios) }

func TestQuota(t *testing.T) { limitedSpace(t, true, quotaScenarios) }

func limitedSpace(t *testing.T, quota bool, scenarios []*Scenario) {
	testenv.RequireRoot(t)
	source := testenv.Limited(t, quota)
	m := Maps[0]
	b := &bench{source: source, fstype: "ext4", m: m, oracle: source, results: map[string]Result{}, byRoot: map[string]Result{}}
	b.native = MountOracle(t, source, m)
	scenarios = slices.Clone(scenarios)
	for i, s := range scenarios {
		scenarios[i] = afterwards(t, source, s)
	}
	w := &worker{agents: map[string]*testenv.Agent{}}
	var callers []CallerClass
	for _, name := range spaceCallers {
		callers = append(callers, CallerByName(name))
		w.agents[name] = testenv.StartAgent(t, CallerByName(name).Make(m))
	}
	for name, o := range map[string]idmount.Options{"passthrough": {}, "requests": {NoPassthrough: true}} {
		var known []Known
		if name == "passthrough" {
			known = spacePassedThrough
		}
		report := NewReport(known)
		for _, backend := range planFromEnv(t).backends {
			t.Run(name+"/"+backend, func(t *testing.T) {
				w.mount = MountWith(t, source, m, backend, o)
				for _, s := range scenarios {
					t.Run(s.Name, func(t *testing.T) { b.check(t, w, s, callers, backend, report) })
				}
			})
		}
		for _, reason := range report.unused(planFromEnv(t).backends, []string{"ext4"}) {
			t.Errorf("%s: known difference not seen: %s", name, reason)
		}
	}
}

// afterwards returns a scenario that begins when what the one before had of the file
// system is free again: a server may keep the file open that it left for a while.
func afterwards(t *testing.T, source string, s *Scenario) *Scenario {
	const (
		rest = 64 // blocks that the file system keeps for itself
		own  = 1  // the directory of the case
	)
	var empty, now unix.Statfs_t
	if err := unix.Statfs(source, &empty); err != nil {
		t.Fatal(err)
	}
	later := *s
	later.Setup = func(d *Disk) {
		d.do("wait for space", func() error {
			var err error
			if !testenv.Becomes(func() bool {
				err = unix.Statfs(source, &now)
				if err != nil || now.Bfree+rest >= empty.Bfree && now.Ffree+own >= empty.Ffree {
					return true
				}
				// A server keeps deleted directories until the kernel forgets them.
				err = os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
				return err != nil
			}) {
				return fmt.Errorf("%d blocks and %d files are free, of %d and %d", now.Bfree, now.Ffree, empty.Bfree, empty.Ffree)
			}
			return err
		})
		s.Setup(d)
	}
	return &later
}

// spacePassedThrough is what passthrough adds.
var spacePassedThrough = []Known{
	{
		Reason:   "all who have a file open write through one passthrough file, with the same rights, so nobody has root's",
		Scenario: "space/reserve|quota/write", Caller: "R0|MR",
		Key: `op (write|written|fsync)|(disk|root sees|caller sees) "f" size`,
	},
}
