package kernels

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/idmount/idmount/internal/test/conformance"
)

// limits are what mounts of sources do otherwise than a native mount of ext4 on
// the kernel that the tests run on, where neither is FUSE the reason
// (conformance.KnownDifferences) nor does the source the same without any mount
// of ours, which conformance.Direct knows. The Source of a rule is matched with
// KERNEL/SOURCE.
var limits = []conformance.Known{
	// File systems that do otherwise than ext4 in what a caller does only through
	// the map.
	{
		Reason: "btrfs counts no links of directories",
		Source: ".*/btrfs", Key: ".* nlink", Want: `\d+`, Got: "1", Because: isDirectory,
	},
	{
		Reason: "btrfs lists trusted.* to everybody",
		Source: ".*/btrfs", Scenario: "xattr/.*", Key: `op list.*|caller sees .* (xattrs|xattr trusted\.there)`,
		Want: `\(absent\)|26 ok|security\.there user\.there`, Got: `ENODATA|40 ok|security\.there trusted\.there user\.there`,
	},
	{
		Reason: "xfs shows ACLs as trusted.SGI_ACL_* too",
		Source: ".*/xfs", Scenario: "(acl|acl-set|create-default-acl)/.*", Key: `.* (xattrs|xattr trusted\.SGI_ACL.*)`,
		Want: `\(absent\)|(system\.posix_acl_\S+ ?)+`, Got: `[0-9a-f]+|(system\.posix_acl_\S+ )+(trusted\.SGI_ACL_\S+ ?)+`,
	},
	{
		Reason: "xfs shows by a flag of the file that it has extended attributes",
		Source: ".*/xfs", Scenario: "use-project/.*", Key: "op (nodump|project|immutable|mutable again) of [fd]", Equal: sameButAttributeFlag,
	},
	{
		Reason: "places in directories of ramfs are positions: what is removed moves the entries behind it",
		Source: ".*/ramfs", Scenario: "use/seekdir", Key: "op kept entries seen", Want: "100, twice 0", Got: `\d+, twice 0`,
	},
	{
		Reason: "ramfs has no extended attributes, and so no event of one",
		Source: ".*/ramfs", Scenario: "use/inotify", Key: "op events are", Equal: sameButAttribute,
	},
	{
		Reason: "bindfs makes files without suid, sgid and the sticky bit",
		Source: ".*/fuse", Scenario: "create(-default-acl)?/.*", Key: ".* mode|op mode of .*", Equal: sameButSpecial,
	},
	{
		Reason: "bindfs lets its caller keep S_ISGID with an ACL, and that is the server",
		Source: ".*/fuse", Scenario: "acl-set/.*", Caller: "R0-without-fsetid|user-A-gid-unmapped",
		Key: `op after access .*|.* "[df]\d+" mode`, Want: `0(100|40)674( .*)?`, Got: `0(102|42)674( .*)?`,
	},
	{
		Reason: "what fallocate(2) would have taken away, where there is none or none that makes holes",
		Source: ".*/(ext[23]|ramfs|fuse|nfs.*|9p.*)", Scenario: "(kill|rare/link-after-write)/.*",
		Key:     `op (capability )?after (fallocate|punch)|.* "(fallocate|punch)" (mode|size|data|xattrs|xattr security\.capability)`,
		Because: conformance.Gave("op fallocate|op punch", "ok", "ENOTSUP"),
	},
	// NFS.
	{
		Reason: "a server that squashes root shows it nothing",
		Source: ".*-root_squash", Key: "root sees .*", Got: `EACCES|\(absent\)`,
	},
	{
		Reason: "who may execute a file that its owner may not read can't have it opened before Linux 6.9 by a server that is let in as its callers",
		Source: "(5.10|6.1)/.*-root_squash", Scenario: "exec/.*mode=06?711", Key: "op (exec|ran)( as| by .*)?", Got: "EACCES|",
		Because: conformance.Gave("op exec", "ok", "EACCES"),
	},
	{
		Reason: "an NFS client lists no attributes to whom it knows may not read the file, and says EACCES where it has to ask its server",
		Source: ".*/nfs4.*", Key: ".* sees .* xattrs", Got: "EACCES",
	},
	{
		Reason: "an NFS client counts the attribute that holds the NFS ACL, which is not carried",
		Source: ".*/nfs4.*", Scenario: "rare/many-xattrs", Key: "op (size|list in .*)",
		Want: `832 ok|\(absent\)`, Got: `2496 ok|-1 ERANGE`,
	},
	{
		Reason: "NFS has no RENAME_EXCHANGE, so what is at the names is the other way round",
		Source: ".*/nfs.*", Scenario: "rare/inode-numbers", Key: `.* "d/h" nlink`, Want: `\(absent\)`, Got: "2",
	},
	{
		Reason: "the NFS client keeps a removed name of a file that is in use, and one with other names is in use by a mount that knows it",
		Source: ".*/nfs.*", Scenario: "(rare|use|file)/.*", Key: `.* "([^"]*/)?\.nfs[0-9a-f]+" .*`, Want: `\(absent\)`,
	},
	{
		Reason: "FUSE does not tell of path descriptors, and a file at a server that nobody has open is gone with its last name",
		Source: ".*/(nfs|9p).*", Scenario: "rare/execveat/.*", Key: "op exec what has no name", Want: `"cat\\n" ok`, Got: `"" ESTALE`,
	},
	{
		Reason: "that name counts as a link",
		Source: ".*/nfs.*", Scenario: "rare/(link-after-write/.*|names)", Key: ".* nlink", Want: "1", Got: "2",
	},
	{
		Reason: "with that name, the file is not gone; and NFSv3 has no extended attributes, and so no event of one",
		Source: ".*/nfs.*", Scenario: "use/inotify", Key: "op events are", Equal: sameOnNFS,
	},
	// Older kernels.
	{
		Reason: "FUSE has no O_TMPFILE before Linux 6.1",
		Source: "5.10/.*", Key: `op .*tmpfile.*|.* "[^"]*linked2?" .*`, Got: `ENOTSUP|\(absent\)`,
	},
	{
		Reason: "an unmapped caller may O_TMPFILE on Linux 6.1's native mounts",
		Source: "6.1/.*", Backend: "native", Key: "op .*tmpfile.*", Want: `EOVERFLOW|\(absent\)`,
	},
	{
		Reason: "fallocate(2) takes no S_ISUID and S_ISGID before Linux 5.19",
		Source: "5.10/.*", Scenario: "(kill|rare/link-after-write)/.*", Key: `op after (fallocate|punch)|.* "(fallocate|punch)" mode`,
		Want: `010[024]\d{3}( .*)?`, Got: `010[246]\d{3}( .*)?`,
	},
	{
		Reason: "nor file capabilities",
		Source: "5.10/.*", Scenario: "kill/.*", Key: `op capability after (fallocate|punch)|.* "(fallocate|punch)" xattr(s| security\.capability)`,
		Want: `ENODATA|\(absent\)|`, Got: `security\.capability|0100000[23][0-9a-f]+`,
	},
	{
		Reason: "Linux 5.10 keeps S_ISGID in chown on a file that its group may not execute",
		Source: "5.10/.*", Scenario: "chown/.*,mode=0264.*", Key: "op after chown .*|.* mode", Want: "0100644.*", Got: "0102644.*",
	},
	{
		Reason: "so it refuses nobody who may change the owner and not the mode",
		Source: "5.10/.*", Scenario: "chown/.*,mode=0264.*", Key: "op chown to .*", Want: "EPERM", Got: "ok",
	},
	{
		Reason: "the owners that these then give",
		Source: "5.10/.*", Scenario: "chown/.*,mode=0264.*", Key: `.* "f\d+" owner`, Because: conformance.ChownGave("EPERM", "ok"),
	},
	{
		Reason: "Linux 5.10 tells of a name that is removed before it tells of the file",
		Source: "5.10/.*", Scenario: "use/inotify", Key: "op events are", Equal: sameButOrder,
	},
	{
		Reason: "and so with what is not told of on NFS",
		Source: "5.10/nfs.*", Scenario: "use/inotify", Key: "op events are", Equal: sameOnNFSButOrder,
	},
	{
		Reason: "FS_IOC_FSSETXATTR, which FUSE passes on unchecked before Linux 5.13, is for root",
		Source: "5.10/.*", Scenario: "use-project/.*", Key: "op (same|nodump|project|immutable|mutable again) (set|of) [df]",
		Want: "ok|ENOTSUP|EINVAL|flags 0x8[08] project 0", Got: "EPERM|flags 0x(8000000)?0 project 0",
	},
	{
		Reason: "FUSE does not say before Linux 5.13 that an ACL takes S_ISGID from a file",
		Source: "5.10/.*", Scenario: "acl-set/.*", Caller: "R0-without-fsetid|user-A-gid-unmapped",
		Key: `op after access .*|.* "[df]\d+" mode`, Want: `0(100|40)674( .*)?`, Got: `0(102|42)674( .*)?`,
	},
	{
		Reason: "Linux 6.1 translates an ACL on a native mount only for a buffer of just the right size",
		Source: "6.1/.*", Backend: "native",
		Key: `.* xattr system\.posix_acl_(access|default)|.*(access|default) ACL.*`, Equal: sameButIDs,
	},
	{
		Reason: "and by such a mount this suite looks at what lies on disk",
		Source: "6.1/idmapped", Key: `disk .* xattr system\.posix_acl_(access|default)`, Equal: sameButIDs,
	},
	{
		Reason: "Linux before 6.2 looks at the owner of a file before the ids of an ACL",
		Source: "(5.10|6.1)/.*", Scenario: "acl-set/.*", Key: "op set .*", Want: "EINVAL|ENOTSUP", Got: "EPERM",
	},
	{
		Reason: "and a native mount of it at the ids before the owner, where the map lacks them",
		Source: "6.1/.*", Backend: "native", Scenario: "acl-set/.*", Key: "op set (access( of directory)?|default) .*", Want: "EPERM", Got: "EINVAL",
	},
	{
		Reason: "Linux before 6.10 links a descriptor only for CAP_DAC_READ_SEARCH outside of containers",
		Source: "(5.10|6.1)/.*", Scenario: "use/path-descriptor", Caller: "C0|container-user-with-caps|nested-root",
		Key: `op link|.* "d/.*" .*`, Because: conformance.Gave("op link", "ok", "ENOENT"),
	},
	{
		Reason: "FUSE asks for no time of birth before Linux 6.6",
		Source: "(5.10|6.1)/.*", Scenario: "use/statx", Key: "op birth", Want: "true .*", Got: "false .*",
	},
	{
		Reason:   "mmap stores strip file capabilities on FUSE without passthrough",
		Scenario: "kill/.*", Backend: "relay|translate", Key: `op capability after map|.* "map" xattr.*`,
		Want: `security\.capability|0[0-9a-f]+`, Got: `ENODATA|\(absent\)|`,
	},
}

// sameButOrder compares events of inotify.
func sameButOrder(want, got string) bool {
	w, g := strings.Fields(want), strings.Fields(got)
	slices.Sort(w)
	slices.Sort(g)
	return slices.Equal(w, g)
}

// sameButAttribute compares events of inotify, of which got has to lack that the file
// has got an attribute: IN_ATTRIB, just before somebody writes to it.
func sameButAttribute(want, got string) bool { return withoutAttribute(want) == " "+got }

func withoutAttribute(events string) string {
	return strings.Replace(" "+events, " 1:0x4:f 2:0x4: 1:0x2:f", " 1:0x2:f", 1)
}

// sameOnNFS is sameButAttribute, which got need not lack; it may lack as well that a
// file that was watched, the second, is gone: IN_DELETE_SELF, IN_IGNORED.
func sameOnNFS(want, got string) bool { return slices.Contains(onNFS(want), " "+got) }

func sameOnNFSButOrder(want, got string) bool {
	return slices.ContainsFunc(onNFS(want), func(events string) bool { return sameButOrder(events, got) })
}

func onNFS(events string) []string {
	gone := func(events string) string { return strings.Replace(events, " 2:0x400: 2:0x8000:", "", 1) }
	return []string{gone(" " + events), withoutAttribute(events), gone(withoutAttribute(events))}
}

// isDirectory is for Known.Because.
func isDirectory(want, _ conformance.Result, d conformance.Difference) bool {
	mode := strings.TrimSuffix(d.Key, "nlink") + "mode"
	return slices.ContainsFunc(want, func(f conformance.Fact) bool { return f.Key == mode && strings.HasPrefix(f.Value, "04") })
}

// sameButAttributeFlag compares what FS_IOC_FSGETXATTR says; got has to have
// FS_XFLAG_HASATTR.
func sameButAttributeFlag(want, got string) bool {
	const hasAttr = 0x80000000
	var wantFlags, gotFlags uint32
	var wantProject, gotProject int
	const format = "flags %v project %d"
	if n, _ := fmt.Sscanf(want, format, &wantFlags, &wantProject); n != 2 {
		return false
	}
	if n, _ := fmt.Sscanf(got, format, &gotFlags, &gotProject); n != 2 {
		return false
	}
	return wantFlags|hasAttr == gotFlags && wantProject == gotProject
}

// sameButSpecial compares what begins with a mode: got may lack S_ISUID, S_ISGID and
// S_ISVTX.
func sameButSpecial(want, got string) bool {
	var w, g uint32
	if _, err := fmt.Sscanf(want, "0%o", &w); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(got, "0%o", &g); err != nil {
		return false
	}
	_, restW, _ := strings.Cut(want, " ")
	_, restG, _ := strings.Cut(got, " ")
	return g|0o7000 == w|0o7000 && g&^w == 0 && restW == restG
}

var (
	aclText  = regexp.MustCompile(`^02000000([0-9a-f]{16})+$`)
	aclEntry = regexp.MustCompile(`[0-9a-f]{16}`)
)

// sameButIDs compares ACLs, in hexadecimal, of which only the ids may differ.
func sameButIDs(want, got string) bool {
	const header = 8
	without := func(acl string) string {
		return aclEntry.ReplaceAllStringFunc(acl[header:], func(e string) string { return e[:8] })
	}
	return aclText.MatchString(want) && aclText.MatchString(got) && without(want) == without(got)
}

// unusedRules are those of the list that hid nothing in any cell.
func unusedRules(list []conformance.Known, cells []Cell) []string {
	var reasons []string
	for _, k := range list {
		if !slices.ContainsFunc(cells, func(c Cell) bool { return slices.Contains(c.Rules, k.Reason) }) {
			reasons = append(reasons, k.Reason)
		}
	}
	return reasons
}

func TestUnusedRules(t *testing.T) {
	list := []conformance.Known{{Reason: "first"}, {Reason: "second"}, {Reason: "third"}}
	cells := []Cell{{Rules: []string{"third", "other"}}, {}, {Rules: []string{"first"}}}
	if diff := cmp.Diff([]string{"second"}, unusedRules(list, cells)); diff != "" {
		t.Errorf("unused (-want +got):\n%s", diff)
	}
}

// TestRules looks at the reasons, for cells know rules by them alone, and for rules
// that would accept anything.
func TestRules(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range slices.Concat(conformance.KnownDifferences, limits) {
		if !k.Narrow() {
			t.Errorf("it says neither what differs nor why: %s", k.Reason)
		}
		if k.Reason == "" || seen[k.Reason] {
			t.Errorf("two rules, or one without a reason: %q", k.Reason)
		}
		seen[k.Reason] = true
	}
}

func TestSame(t *testing.T) {
	const events = "1:0x40:f2 1:0x4:f 2:0x4: 1:0x2:f 2:0x2: 2:0x4: 2:0x400: 2:0x8000: 1:0x200:f"
	acl := func(user uint32, perm uint16) string {
		return hex.EncodeToString(conformance.ACLXattr(6, 4, 7, 4, conformance.ACLEntry{Tag: conformance.ACLUser, Perm: perm, ID: user}))
	}
	for _, c := range []struct {
		what      string
		same      func(want, got string) bool
		want, got string
		ok        bool
	}{
		{"not gone", sameOnNFS, events, "1:0x40:f2 1:0x4:f 2:0x4: 1:0x2:f 2:0x2: 2:0x4: 1:0x200:f", true},
		{"no attribute", sameOnNFS, events, "1:0x40:f2 1:0x2:f 2:0x2: 2:0x4: 2:0x400: 2:0x8000: 1:0x200:f", true},
		{"neither", sameOnNFS, events, "1:0x40:f2 1:0x2:f 2:0x2: 2:0x4: 1:0x200:f", true},
		{"no attribute, as the first event", sameOnNFS, "1:0x4:f 2:0x4: 1:0x2:f", "1:0x2:f", true},
		{"another event missing", sameOnNFS, events, "1:0x4:f 2:0x4: 1:0x2:f 2:0x2: 2:0x4: 1:0x200:f", false},
		{"one too many", sameOnNFS, events, events + " 1:0x200:f", false},
		{"another order", sameButOrder, events, "2:0x4: 1:0x200:f 1:0x40:f2 1:0x4:f 2:0x4: 1:0x2:f 2:0x2: 2:0x400: 2:0x8000:", true},
		{"another order on NFS", sameOnNFSButOrder, events, "1:0x40:f2 1:0x2:f 1:0x200:f 2:0x2: 2:0x4:", true},
		{"and one missing", sameOnNFSButOrder, events, "1:0x40:f2 1:0x2:f 1:0x200:f 2:0x2:", false},
		{"one missing", sameButOrder, events, "2:0x4: 1:0x200:f 1:0x40:f2 1:0x4:f 2:0x4: 1:0x2:f 2:0x2: 2:0x400:", false},
		{"an attribute's event alone", sameButAttribute, events, "1:0x40:f2 1:0x2:f 2:0x2: 2:0x4: 2:0x400: 2:0x8000: 1:0x200:f", true},
		{"and that of the end", sameButAttribute, events, "1:0x40:f2 1:0x2:f 2:0x2: 2:0x4: 1:0x200:f", false},
		{"no special bits", sameButSpecial, "0106771 size 3", "0100771 size 3", true},
		{"fewer", sameButSpecial, "043771", "042771", true},
		{"more", sameButSpecial, "0102771", "0106771", false},
		{"another type", sameButSpecial, "0100771", "040771", false},
		{"another size", sameButSpecial, "0106771 size 3", "0100771 size 4", false},
		{"has attributes", sameButAttributeFlag, "flags 0x80 project 0", "flags 0x80000080 project 0", true},
		{"and is immutable", sameButAttributeFlag, "flags 0x80 project 0", "flags 0x80000088 project 0", false},
		{"of a project", sameButAttributeFlag, "flags 0x80 project 0", "flags 0x80000080 project 1", false},
		{"cannot be asked", sameButAttributeFlag, "ENOTTY", "flags 0x80000080 project 0", false},
		{"other permissions", sameButSpecial, "0106771", "0100770", false},
		{"no mode", sameButSpecial, "EPERM", "ok", false},
		{"other ids", sameButIDs, acl(1, 6), acl(2, 6), true},
		{"other permissions", sameButIDs, acl(1, 6), acl(1, 7), false},
		{"no ACL", sameButIDs, acl(1, 6), "ENODATA", false},
		{"shorter", sameButIDs, acl(1, 6), acl(1, 6)[:24], false},
	} {
		if got := c.same(c.want, c.got); got != c.ok {
			t.Errorf("%s: %v, want %v", c.what, got, c.ok)
		}
	}
}
