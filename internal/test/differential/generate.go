package differential

import (
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/idmount/idmount/internal/test/conformance"
)

// paths are what steps name: files and directories of the tree that every
// sequence begins with, new names, ways through links, and what can't be.
var paths = []string{
	"a", "b", "d/a", "d/b", "a", "b", "s", "g/a", "x", "D/a", "n", "d/n",
	"a", "b", "d/a", "d", "d/n", "n", "d/b", "g", "g/n", "g/a", "D/a", "D/b", "D/n", "D", "u", "v", "w", "r", "s", "c",
	"l", "m", "m/a", "d/e", "d/e/a", "d/e/n", "i", "i/n", "i/d", "U", "U/a", "p", "x", "n2", "d/n2", "a/b", "absent/a", "h",
}

// sequences generates whole sequences of steps by a few callers: in blocks by
// one caller each, so that shrinking finds a use for removing both blocks and
// steps.
//
// shared says that changes made on disk are seen at once: without it the disk
// makes no steps, and what would have to be tidied up there is avoided.
func sequences(m *conformance.Map, shared bool) *rapid.Generator[[]Step] {
	return rapid.Custom(func(t *rapid.T) []Step {
		callers := make([]string, 3)
		for i := range callers {
			callers[i] = conformance.Callers[index(t, len(conformance.Callers))].Name
		}
		g := &generation{m: m, shared: shared, open: map[string][]int{}}
		block := rapid.Custom(func(t *rapid.T) []Step {
			by := disk
			if !shared || index(t, 16) != 15 {
				by = oneOf(t, callers...)
			}
			return rapid.SliceOfN(g.steps(by), 1, 16).Draw(t, "steps")
		})
		return slices.Concat(rapid.SliceOfN(block, 1, 40).Draw(t, "blocks")...)
	})
}

// index is a number below n, each as likely as the others; rapid's own
// generators prefer small ones.
func index(t *rapid.T, n int) int {
	i := 0
	for range bits.Len(uint(n)) + 3 {
		i <<= 1
		if bit.Draw(t, "bit") {
			i |= 1
		}
	}
	return i % n
}

var bit = rapid.Bool()

func oneOf[T any](t *rapid.T, values ...T) T { return values[index(t, len(values))] }

// kind generates the steps of one call; weight is how often.
type kind struct {
	call     string
	weight   int
	generate func(*rapid.T, *Step)
	disk     bool // done behind the mount's back as well
}

// generation is what is known of a sequence while it is made: which slots
// callers have probably opened.
type generation struct {
	m      *conformance.Map
	shared bool
	open   map[string][]int
}

func (g *generation) steps(by string) *rapid.Generator[Step] {
	drawn := drawnByCaller
	if by == disk {
		drawn = drawnByDisk
	}
	return rapid.Custom(func(t *rapid.T) Step {
		s := Step{By: by}
		k := oneOf(t, drawn...)
		k.generate(t, &s)
		if s.Slot != 0 && k.call != "open" {
			open := g.open[by]
			if len(open) == 0 && by != disk && index(t, 8) != 7 {
				k, s = kinds[0], Step{By: by}
				k.generate(t, &s)
			} else if len(open) > 0 && index(t, 16) != 15 {
				s.Slot = oneOf(t, open...)
			}
		}
		s.Call = k.call
		if k.call == "open" && s.Flags&unix.O_EXCL == 0 {
			g.open[by] = append(g.open[by], s.Slot)
		}
		if by == disk {
			// No open files there, and ids that the disk has.
			s.Slot, s.Slot2, s.Umask = 0, 0, 0
			if s.Path == "" {
				s.Path = "a"
			}
			s.Owner = strings.NewReplacer("X", "U", "Y", "R").Replace(s.Owner)
			s.Value = strings.NewReplacer("X", "U", "Y", "R").Replace(s.Value)
		}
		avoid(g.m, &s)
		if !g.shared {
			avoidUntidy(&s)
		}
		return s
	})
}

// drawnByCaller and drawnByDisk have each kind as often as its weight.
var drawnByCaller, drawnByDisk = func() (all, some []kind) {
	for _, k := range kinds {
		for range k.weight {
			all = append(all, k)
			if k.disk {
				some = append(some, k)
			}
		}
	}
	return all, some
}()

func path(t *rapid.T, s *Step) { s.Path = oneOf(t, paths...) }
func to(t *rapid.T, s *Step)   { s.To = oneOf(t, paths...) }
func slot(t *rapid.T, s *Step) { s.Slot = 1 + index(t, slots) }

// file is a path, or an open file.
func file(t *rapid.T, s *Step) {
	if index(t, 4) == 3 {
		slot(t, s)
	} else {
		path(t, s)
	}
}

func mode(t *rapid.T, s *Step) {
	s.Mode = oneOf[uint32](t, 0o644, 0o666, 0o755, 0o777, 0o600, 0o6755, 0o4755, 0o2775, 0o1777, 0o2755, 0o640, 0o700, 0o444, 0, 0o7777, 0o2777)
}

func umask(t *rapid.T, s *Step) { s.Umask = oneOf(t, 0, 0o022, 0o077, 0o007) }

func owner(t *rapid.T, s *Step) {
	const roles = "ABAB--XYR"
	s.Owner = string([]byte{roles[index(t, len(roles))], roles[index(t, len(roles))]})
}

func where(t *rapid.T, s *Step) {
	s.Off = oneOf[int64](t, 0, 1, 10, 4095, 4096, 5000, 8192, 65536, 100000, 1<<20)
}

func howMuch(t *rapid.T, s *Step) {
	s.Len = oneOf[int64](t, 1, 10, 0, 100, 4096, 4097, 10000, 70000, 131072)
}

func data(t *rapid.T, s *Step) { slot(t, s); where(t, s); howMuch(t, s) }

func two(t *rapid.T, s *Step) { data(t, s); s.Slot2 = 1 + index(t, slots) }

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
	capability = "security.capability"
)

func attribute(t *rapid.T, s *Step) {
	file(t, s)
	s.Name = oneOf(t, "user.a", "user.b", accessACL, capability, defaultACL, "trusted.t", "security.other", "user.", "system.other", "other")
}

// values are by attribute; others have text.
var values = map[string][]string{
	accessACL: {
		"acl 7577", "acl 7570 uA7", "acl 6640 uB6 gA4", "acl 7755 uA0 uB7 gB7", "acl 7000 uX7", "acl 7777 gY7", "acl 4444 uR7 gR7",
		"acl 7075 gA7", "nonsense", "",
	},
	capability: {"cap 2", "cap 3 A", "cap 3 R", "cap 3 X", "nonsense", ""},
}

var plainValues = []string{"value", "", "other value", "big 300", "big 5000", "big 70000"}

func setValue(t *rapid.T, s *Step) {
	attribute(t, s)
	s.Flags = oneOf(t, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
	from := values[strings.Replace(s.Name, defaultACL, accessACL, 1)]
	if from == nil {
		from = plainValues
	}
	s.Value = oneOf(t, from...)
}

var moments = []string{"now", "omit", "1000000000.123456789", "981173106.5", "1.0", "now"}

// kinds are all calls. Changes by path are those that the disk makes too.
var kinds = []kind{
	{"open", 24, func(t *rapid.T, s *Step) {
		path(t, s)
		slot(t, s)
		s.Flags = oneOf(t, unix.O_RDWR, unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR)
		for _, extra := range []int{
			oneOf(t, 0, 0, unix.O_CREAT, unix.O_CREAT, unix.O_CREAT, unix.O_CREAT, unix.O_CREAT|unix.O_EXCL, unix.O_TMPFILE),
			oneOf(t, 0, 0, 0, unix.O_TRUNC),
			oneOf(t, 0, 0, 0, unix.O_APPEND),
			oneOf(t, 0, 0, 0, 0, 0, 0, unix.O_NOATIME, unix.O_NOFOLLOW, unix.O_DIRECTORY, unix.O_PATH, unix.O_SYNC, unix.O_DSYNC),
		} {
			s.Flags |= extra
		}
		if s.Flags&unix.O_TMPFILE == unix.O_TMPFILE {
			s.Flags &^= unix.O_CREAT | unix.O_TRUNC
			s.Path = oneOf(t, "d", ".", "g", "i", "U", "D", "a")
		}
		mode(t, s)
		umask(t, s)
	}, false},
	{"close", 5, slot, false},
	{"mkdir", 4, func(t *rapid.T, s *Step) { path(t, s); mode(t, s); umask(t, s) }, true},
	{"mknod", 4, func(t *rapid.T, s *Step) {
		path(t, s)
		mode(t, s)
		umask(t, s)
		s.Mode |= oneOf[uint32](t, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, 0, unix.S_IFBLK)
	}, false},
	{"symlink", 3, func(t *rapid.T, s *Step) { path(t, s); s.To = oneOf(t, "a", "d", "nowhere", "../a", "n") }, true},
	{"link", 6, func(t *rapid.T, s *Step) {
		file(t, s)
		to(t, s)
		s.Flags = oneOf(t, 0, 0, unix.AT_SYMLINK_FOLLOW)
	}, true},
	{"rename", 12, func(t *rapid.T, s *Step) {
		path(t, s)
		to(t, s)
		s.Flags = oneOf(t, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT, 3)
	}, true},
	{"unlink", 7, path, true},
	{"rmdir", 3, path, true},

	{"stat", 6, func(t *rapid.T, s *Step) { file(t, s); s.Flags = oneOf(t, 0, 1) }, false},
	{"statx", 2, path, false},
	{"access", 4, func(t *rapid.T, s *Step) { path(t, s); s.Flags = index(t, 8) }, false},
	{"readlink", 1, path, false},
	{"list", 4, file, false},
	{"statfs", 1, path, false},
	{"chmod", 8, func(t *rapid.T, s *Step) { file(t, s); mode(t, s) }, true},
	{"chown", 8, func(t *rapid.T, s *Step) { file(t, s); owner(t, s); s.Flags = oneOf(t, 0, 1) }, true},
	{"utimes", 5, func(t *rapid.T, s *Step) {
		file(t, s)
		s.Value = oneOf(t, moments...) + "," + oneOf(t, moments...)
	}, true},
	{"truncate", 5, func(t *rapid.T, s *Step) { file(t, s); howMuch(t, s) }, true},
	{"getxattr", 5, func(t *rapid.T, s *Step) { attribute(t, s); s.Len = oneOf[int64](t, 0, 0, 0, 4, 20, 24) }, false},
	{"setxattr", 12, setValue, true},
	{"removexattr", 4, attribute, true},
	{"listxattr", 3, file, false},

	{"read", 4, data, false},
	{"pread", 5, data, false},
	{"write", 9, data, false},
	{"pwrite", 6, data, false},
	{"writev", 2, data, false},
	{"fallocate", 4, func(t *rapid.T, s *Step) {
		data(t, s)
		s.Flags = oneOf(t, 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE)
	}, false},
	{"seek", 4, func(t *rapid.T, s *Step) { data(t, s); s.Len = 0; s.Flags = index(t, 6) }, false},
	{"copy", 3, two, false},
	{"sendfile", 2, two, false},
	{"splice", 2, two, false},
	{"fsync", 1, slot, false},
	{"fdatasync", 1, slot, false},
	{"mapread", 3, data, false},
	{"mapwrite", 3, data, false},
	{"lock", 2, func(t *rapid.T, s *Step) { data(t, s); s.Flags = index(t, 3) }, false},
	{"ofdlock", 2, func(t *rapid.T, s *Step) { data(t, s); s.Flags = index(t, 3) }, false},
	{"flock", 2, func(t *rapid.T, s *Step) { slot(t, s); s.Flags = oneOf(t, unix.LOCK_SH, unix.LOCK_EX, unix.LOCK_UN) }, false},
}

// prepare makes the tree that every sequence begins with.
func prepare(d *conformance.Disk) {
	d.Mkdir("", "AA", 0o777)
	d.Mkdir("d", "AA", 0o777)
	d.Mkdir("d/e", "BB", 0o755)
	d.Mkdir("D", "BB", 0o1777)
	d.Mkdir("g", "BA", 0o2777)
	d.Mkdir("i", "AA", 0o777)
	d.Xattr("i", defaultACL, conformance.ACLXattr(7, 5, 7, 0,
		conformance.ACLEntry{Tag: conformance.ACLUser, Perm: 7, ID: d.Map.B},
		conformance.ACLEntry{Tag: conformance.ACLGroup, Perm: 6, ID: d.Map.U}))
	d.Mkdir("U", "UU", 0o777)
	for _, f := range []struct {
		name, owner string
		mode        uint32
	}{
		{"a", "AA", 0o644}, {"b", "BB", 0o666}, {"d/a", "AA", 0o666}, {"d/b", "BA", 0o664}, {"D/a", "AA", 0o644}, {"D/b", "BB", 0o666},
		{"u", "UU", 0o666}, {"v", "AU", 0o664}, {"w", "UA", 0o666}, {"r", "RR", 0o644}, {"s", "AA", 0o6777}, {"c", "BB", 0o777},
		{"U/a", "AA", 0o666}, {"g/a", "BA", 0o666}, {"x", "AA", 0o660},
	} {
		d.File(f.name, f.owner, f.mode)
	}
	d.Xattr("c", capability, conformance.CapNetRaw(2, 0))
	d.Xattr("b", "user.a", []byte("value"))
	d.Xattr("b", "trusted.t", []byte("value"))
	d.Xattr("x", accessACL, conformance.ACLXattr(6, 4, 6, 0,
		conformance.ACLEntry{Tag: conformance.ACLUser, Perm: 6, ID: d.Map.B},
		conformance.ACLEntry{Tag: conformance.ACLUser, Perm: 4, ID: d.Map.U}))
	d.Symlink("a", "l", "AA")
	d.Symlink("d", "m", "BB")
	d.Node("p", "AA", unix.S_IFIFO|0o666, 0)
	d.Link("a", "h")
	// Times that no sequence can have made.
	old := []unix.Timespec{{Sec: 900000000}, {Sec: 900000001, Nsec: 5}}
	for _, name := range []string{"a", "b", "d/a", "d/b", "d/e", "D/a", "D/b", "u", "v", "w", "r", "s", "c", "U/a", "g/a", "x", "d", "D", "g", "i", "U"} {
		d.Times(name, old)
	}
}
