package kernels

import (
	"strings"

	"github.com/idmount/idmount/internal/conformance"
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
		Source: ".*/btrfs", Scenario: "names/.*", Key: ".* nlink", Want: `\d+`, Got: "1",
	},
	{
		Reason: "btrfs lists trusted.* to everybody",
		Source: ".*/btrfs", Scenario: "xattr/.*", Key: `op list.*|caller sees .* (xattrs|xattr trusted\.there)`,
	},
	{
		Reason: "xfs shows ACLs as trusted.SGI_ACL_* too",
		Source: ".*/xfs", Scenario: "(acl|acl-set|create-default-acl)/.*", Key: `.* (xattrs|xattr trusted\.SGI_ACL.*)`,
	},
	{
		Reason: "xfs shows by a flag of the file that it has extended attributes",
		Source: ".*/xfs", Scenario: "use-project/.*", Key: "op (nodump|project|immutable|mutable again) of [fd]", Got: "flags 0x80000000 project 0",
	},
	{
		Reason: "places in directories of ramfs are positions: what is removed moves the entries behind it",
		Source: ".*/ramfs", Scenario: "use/seekdir", Key: "op kept entries seen", Want: "100, twice 0", Got: `\d+, twice 0`,
	},
	{
		Reason: "bindfs makes files without suid, sgid and the sticky bit",
		Source: ".*/fuse", Scenario: "create(-default-acl)?/.*", Key: ".* mode|op mode of .*",
	},
	{
		Reason: "what fallocate(2) would have taken away, where there is none or none that makes holes",
		Source: ".*/(ext[23]|ramfs|fuse|nfs.*|9p.*)", Scenario: "kill/.*",
		Key:     `op (capability )?after (fallocate|punch)|.* "(fallocate|punch)" (mode|size|data|xattrs|xattr security\.capability)`,
		Because: conformance.Gave("op fallocate|op punch", "ok", "ENOTSUP"),
	},
	// NFS.
	{
		Reason: "a server that squashes root shows it nothing",
		Source: ".*-root_squash", Key: "root sees .*",
	},
	{
		Reason: "who may execute a file that its owner may not read can't have it opened before Linux 6.9 by a server that is let in as its callers",
		Source: "(5.10|6.1)/.*-root_squash", Scenario: "exec/.*mode=06?711", Key: "op (exec|ran)( as| by .*)?",
	},
	{
		Reason: "an NFS client lists no attributes to whom it knows may not read the file, and says EACCES where it has to ask its server",
		Source: ".*/nfs4.*", Key: ".* sees .* xattrs", Got: "EACCES",
	},
	{
		Reason: "an NFS client counts the attribute that holds the NFS ACL, which is not carried",
		Source: ".*/nfs4.*", Scenario: "rare/many-xattrs", Key: "op (size|list in .*)|caller sees .* xattrs",
	},
	{
		Reason: "NFS has no RENAME_EXCHANGE, so what is at the names is the other way round",
		Source: ".*/nfs.*", Scenario: "rare/inode-numbers", Key: `.* "d/h" nlink`, Want: `\(absent\)`, Got: "2",
	},
	{
		Reason: "the NFS client keeps a removed name of a file that is in use, and each that the mount knows is",
		Source: ".*/nfs.*", Key: `.* "([^"]*/)?\.nfs[0-9a-f]+" .*`,
	},
	{
		Reason: "that name counts as a link",
		Source: ".*/nfs.*", Scenario: "rare/(link-after-write/.*|names)", Key: ".* nlink", Want: "1", Got: "2",
	},
	{
		Reason: "with that name, the file is not gone",
		Source: ".*/nfs.*", Scenario: "use/inotify", Key: "op events are", Equal: sameButGone,
	},
	// Older kernels.
	{
		Reason: "FUSE has no O_TMPFILE before Linux 6.1",
		Source: "5.10/.*", Key: `op .*tmpfile.*|.* "[^"]*linked2?" .*`,
	},
	{
		Reason: "an unmapped caller may O_TMPFILE on Linux 6.1's native mounts",
		Source: "6.1/.*", Backend: "native", Key: `op .*tmpfile.*|.* "[^"]*linked2?" .*`,
	},
	{
		Reason: "Linux 5.10 keeps S_ISGID in chown on a file that its group may not execute",
		Source: "5.10/.*", Scenario: "chown/.*,mode=0264.*", Key: "op after chown .*|.* mode", Want: "0100644.*", Got: "0102644.*",
	},
	{
		Reason: "Linux 6.1 translates an ACL on a native mount only for a buffer of just the right size",
		Source: "6.1/.*", Backend: "native",
		Key: `.* xattr system\.posix_acl_(access|default)|.*(access|default) ACL.*`,
	},
	{
		Reason: "and by such a mount this suite looks at what lies on disk",
		Source: "6.1/idmapped", Key: `disk .* xattr system\.posix_acl_(access|default)`,
	},
	{
		Reason: "Linux before 6.2 looks at the owner of a file before the ids of an ACL",
		Source: "(5.10|6.1)/.*", Scenario: "acl-set/.*", Key: "op set .*", Want: "EINVAL|ENOTSUP", Got: "EPERM",
	},
	{
		Reason: "FUSE asks for no time of birth before Linux 6.6",
		Source: "(5.10|6.1)/.*", Scenario: "use/statx", Key: "op birth", Got: "false .*",
	},
	{
		Reason:   "mmap stores strip file capabilities on FUSE without passthrough",
		Scenario: "kill/.*", Backend: "relay|translate", Key: `op capability after map|.* "map" xattr.*`,
	},
}

// sameButGone compares events of inotify, of which got may lack those that a file
// that was watched, the second, is gone (IN_DELETE_SELF, IN_IGNORED).
func sameButGone(want, got string) bool {
	return strings.Replace(want, " 2:0x400: 2:0x8000:", "", 1) == got
}
