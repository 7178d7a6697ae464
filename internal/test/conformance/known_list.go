package conformance

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// exclusively is what the exclusive cache adds.
var exclusively = []Known{
	{
		Reason:  "the kernel has data that the server does not know of, and so no holes",
		Backend: "relay|translate", Scenario: "file/seek", Key: "op seek (hole|hole after data|data|data at the end)",
		Want: `(0|1048576|1114112) ok|-1 ENXIO`, Got: "(0|2097152|4194304) ok", // as of one piece
	},
	{
		Reason:  "the kernel keeps times of change itself, and sees none in truncate(2) to the same size",
		Backend: "relay|translate", Scenario: "file/same-size", Key: "op truncate leaves the time", Want: "false", Got: "true",
	},
	{
		Reason:  "the server reads by descriptors of its own, and no request says O_NOATIME",
		Backend: "relay|translate", Scenario: "rare/access-time", Key: "op after (reading without|open)", Want: `1000000000\..*`, Got: "recent .*",
	},
}

// byRequests is what reads that are requests add.
var byRequests = []Known{
	{
		Reason:  "the kernel answers reads from its cache, and keeps the time of access that it was told for as long as other attributes",
		Backend: "relay|translate", Scenario: "rare/access-time", Key: "op after reading", Want: "recent .*", Got: `1000000000\..*`,
	},
}

// KnownDifferences are all that the suite accepts.
var KnownDifferences = []Known{
	{
		Reason:  "the kernel checks permission before the server can refuse a caller who has no id on disk with EOVERFLOW",
		Backend: "translate", Scenario: "(create|create-default-acl|names|acl)/.*",
		Key: "op .*", Want: "EOVERFLOW", Got: "EACCES|EPERM", Of: unmappedCaller,
	},
	{
		Reason:  "the kernel checks who may change owners before the server can refuse an id that is outside the map with EOVERFLOW",
		Backend: "translate", Scenario: "(chown|chown-other-types)/.*",
		Key: "op chown .*", Want: "EOVERFLOW", Got: "EPERM", Of: unmappedTarget,
	},
	{
		Reason:  "an unmapped id in an ACL shows as 4294967294: the kernel takes no ACL with -1 from a server",
		Backend: "translate", Key: `.*(xattr system\.posix_acl_(access|default)|(access|default) ACL.*)`,
		Equal: sameButStandIn,
	},
	{
		Reason:  "an ACL with the stand-in, set back by who may not set it, meets the ownership check first",
		Backend: "translate", Scenario: "acl-set/.*", Key: "op set back", Want: "EINVAL", Got: "EPERM",
	},
	{
		Reason:  "the kernel removes file capabilities before the server refuses to chown to an unmapped id",
		Backend: "translate", Scenario: "chown/.*cap=true",
		Key: `.* xattrs|.* xattr security\.capability`, Want: `security\.capability|0[0-9a-f]+|EOVERFLOW`, Got: `|\(absent\)`, Because: ChownGave("EOVERFLOW", "EOVERFLOW"),
	},
	{
		Reason: "the kernel removes file capabilities before the server refuses a chown that would clear " +
			"set-id bits to who may not change the mode",
		Backend: "relay|translate", Scenario: "chown/.*mode=06755,cap=true",
		Key: `.* xattrs|.* xattr security\.capability`, Want: `security\.capability|0[0-9a-f]+|EOVERFLOW`, Got: `|\(absent\)`,
	},
	{
		Reason: "chown(-1, -1) reaches the server like a write that clears set-id bits, and those who may " +
			"not change the mode are let go without effect",
		Backend: "relay|translate", Scenario: "chown/.*", Key: "op chown to --", Want: "EPERM", Got: "ok",
	},
	{
		Reason: "a write to a file with set-id bits and file capabilities reaches the server like chown(-1, -1), " +
			"which clears the bits for those, too, who may keep them when they write",
		Backend: "relay|translate", Scenario: "kill/.*mode=0[246]7[67]7,cap=true", Caller: "R0|MR|MR-B",
		Key: ".* mode|op after .*", Equal: sameButSetIDs,
	},
	{
		Reason: "the kernel makes a whiteout with an invalid owner on disk for a caller that has no id there, " +
			"if it renames over a file; through FUSE it is refused, as without a file",
		Backend: "relay|translate", Scenario: "names/.*", Key: "op whiteout over", Want: "ok", Got: "EOVERFLOW",
	},
	{
		Reason:  "the files of the whiteout that was refused",
		Backend: "relay|translate", Scenario: "names/.*",
		Key: `(disk|root sees|caller sees) "d/(other3|noreplace)" .*`, Because: Gave("op whiteout over", "ok", "EOVERFLOW"),
	},
	{
		Reason:  "the kernel refuses to move parts of a file, and to share blocks, by itself: FUSE has no request for them",
		Backend: "relay|translate", Scenario: "use/(fallocate-moves|clone)", Key: "op (collapse|insert|ficlone|ficlonerange|fideduperange)",
		Want: "ok", Got: "ENOTSUP",
	},
	{
		Reason:  "what is not moved",
		Backend: "relay|translate", Source: "xfs|btrfs", Scenario: "use/(fallocate-moves|clone)", Key: `(disk|root sees|caller sees) "(f|to)" (size|data)`,
		Because: Gave("op collapse|op ficlone", "ok", "ENOTSUP"),
	},
	{
		Reason:  "no request tells that O_APPEND was taken away by F_SETFL, so writes still go to the end",
		Backend: "relay|translate", Scenario: "use/append", Key: `(disk|root sees|caller sees) "f" (size|data)`,
		Because: Gave("op clear append of append", "ok", "ok"),
	},
	{
		Reason: "a file has lost set-id bits with a write, and the answer to that carries no mode: until its " +
			"attributes are asked for, the kernel takes it for one that not everybody may link",
		Backend: "relay|translate", Scenario: "rare/link-after-write/.*", Key: "op link after (write|fallocate)",
		Want: "ok|EOVERFLOW", Got: "EPERM",
	},
	{
		Reason:  "the kernel lets no file system attribute and no alignment through from a FUSE server's statx",
		Backend: "relay|translate", Scenario: "rare/statx-attributes", Key: "op (nodump|known attributes|alignment)",
		Want: "true|0x7[04]", Got: "false|0x0",
	},
	{
		Reason:  "FUSE has no request that asks where blocks lie",
		Backend: "relay|translate", Scenario: "rare/extents", Key: "op fiemap", Want: "ok", Got: "ENOTSUP",
	},
	{
		Reason:  "FIBMAP, which only some file systems have, finds nothing but holes on FUSE",
		Backend: "relay|translate", Source: "btrfs|tmpfs|overlay|ramfs|idmount", Scenario: "rare/extents", Key: "op fibmap", Want: "EINVAL", Got: "ok",
	},
	{
		Reason:  "FUSE knows three modes of fallocate(2), and refuses the one that xfs has beyond them",
		Backend: "relay|translate", Source: "xfs", Scenario: "rare/unshare", Key: "op unshare", Want: "ok", Got: "ENOTSUP",
	},
	{
		Reason:  "every open file of FUSE can be polled, as that of a device might be",
		Backend: "relay|translate", Scenario: "rare/poll", Key: "op epoll a file", Want: "EPERM", Got: "ok",
	},
}

// unmappedCaller is Unmapped of who makes the calls of a case.
func unmappedCaller(c Case, _ Difference) bool { return Unmapped(MapByName(c.Map), c.Caller) }

// unmappedTarget reports whether a call of the chown scenarios gives a file to a user
// or a group outside the map.
func unmappedTarget(c Case, d Difference) bool {
	m := MapByName(c.Map)
	to := "BB"
	if target, ok := strings.CutPrefix(d.Key, "op chown to "); ok {
		to = target
	}
	outside := func(role byte, ids []Extent, view func(*Map, byte) uint32) bool {
		switch role {
		case '-':
			return false
		case 'X':
			return !shows(ids, Foreign)
		case 'Y':
			return !shows(ids, outerID(CallerByName(c.Caller).Make(m), inEveryNamespace))
		}
		return view(m, role) == Foreign
	}
	return outside(to[0], m.UIDs, (*Map).ViewUID) || outside(to[1], m.GIDs, (*Map).ViewGID)
}

// ChownGave is for Known.Because: the cause of what differs at a file of the chown
// scenarios is what the chown of that file gave natively, and by the backend.
func ChownGave(native, backend string) func(want, got Result, d Difference) bool {
	return func(want, got Result, d Difference) bool {
		m := chownFile.FindStringSubmatch(d.Key)
		if m == nil {
			return false
		}
		i, err := strconv.Atoi(m[1])
		if err != nil || i >= len(chownTargets) {
			return false
		}
		op := "op chown to " + chownTargets[i]
		return want.value(op) == native && got.value(op) == backend
	}
}

var chownFile = regexp.MustCompile(`"f(\d+)"`)

// Gave is for Known.Because: the cause of what differs after calls, alternatives
// being separated by |, is what one of them gave natively, and by the backend.
func Gave(ops, native, backend string) func(want, got Result, d Difference) bool {
	return func(want, got Result, _ Difference) bool {
		for _, op := range strings.Split(ops, "|") {
			if want.value(op) == native && got.value(op) == backend {
				return true
			}
		}
		return false
	}
}

// sameButStandIn compares ACLs, in hexadecimal, in which the stand-in is as
// good as -1.
func sameButStandIn(want, got string) bool {
	return want == strings.ReplaceAll(got, "feffffff", "ffffffff")
}

// sameButSetIDs compares modes: got may lack S_ISUID and S_ISGID.
func sameButSetIDs(want, got string) bool {
	var w, g uint32
	if _, err := fmt.Sscanf(want, "%o", &w); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(got, "%o", &g); err != nil {
		return false
	}
	_, restW, _ := strings.Cut(want, " ")
	_, restG, _ := strings.Cut(got, " ")
	return g|0o6000 == w|0o6000 && g&^w == 0 && restW == restG
}
