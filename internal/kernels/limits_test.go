package kernels

import "github.com/idmount/idmount/internal/conformance"

// limits are what sources and kernels do otherwise than ext4, by themselves and
// whatever is mounted on them. The Source of a rule is matched with
// KERNEL/SOURCE.
var limits = []conformance.Known{
	{
		Reason: "btrfs counts no links of directories",
		Source: ".*/btrfs", Key: ".* nlink", Got: "1",
	},
	{
		Reason: "xfs shows ACLs as trusted.SGI_ACL_* too",
		Source: ".*/xfs", Key: ".* (xattrs|xattr trusted.SGI_ACL.*)",
	},
	{
		Reason: "FUSE has no O_TMPFILE before Linux 6.1, and some sources have none",
		Source: "5.10/.*|.*/(fuse|overlay.*|nfs.*)", Key: `op .*tmpfile.*|.* "[^"]*linked2?" .*`,
	},
	{
		Reason: "an unmapped caller may O_TMPFILE on Linux 6.1's native mounts",
		Source: "6.1/.*", Key: `op .*tmpfile.*|.* "[^"]*linked2?" .*`,
	},
	{
		Reason: "overlay and NFS keep character devices 0:0 for themselves",
		Source: ".*/(overlay.*|nfs.*|fuse)", Key: `op .*whiteout.*|.* "[^"]*whiteout" .*`,
	},
	{
		Reason:   "no fallocate, or none with holes",
		Scenario: "(kill|open)/.*",
		Source:   ".*/(ext2|ext3|ramfs|fuse|nfs.*|9p.*)", Key: `op .*(fallocate|punch).*|.* "(fallocate|punch)" .*`,
	},
	{
		Reason: "the source has no file flags",
		Source: ".*/(tmpfs|overlay.*|ramfs|fuse|nfs.*|submounts|btrfs|xfs)", Scenario: "flags/.*",
	},
	{
		Reason: "Linux 5.10 keeps suid, sgid and file capabilities in fallocate",
		Source: "5.10/.*", Scenario: "(kill|open)/.*", Key: `op (after|capability after) (fallocate|punch).*|.* "(fallocate|punch)" (mode|xattr.*)`,
	},
	{
		Reason: "Linux 5.10 keeps S_ISGID in chown on a file that its group may not execute",
		Source: "5.10/.*", Scenario: "chown/.*,mode=0264.*", Key: "op after chown .*|.* mode", Want: "0100644.*", Got: "0102644.*",
	},
	{
		Reason: "the source has no file capabilities",
		Key:    "op capability after .*", Want: "ENODATA", Got: "ENOTSUP",
	},
	{
		Reason: "a server that squashes root shows it nothing",
		Source: ".*-root_squash", Key: "root sees .*",
	},
	{
		Reason: "who may execute a file and not read it can't have it opened by a server that is let in as its callers",
		Source: ".*-root_squash", Scenario: "exec/.*mode=0?711", Key: "op (exec|ran as)",
	},
	{
		Reason: "NFS asks for the right to read before it lists attributes",
		Source: ".*/nfs4.*", Key: ".* sees .* xattrs", Got: "EACCES",
	},
	{
		Reason:   "NFS, 9p and bindfs have no flags of renameat2(2)",
		Source:   ".*/(fuse|nfs.*|9p.*)",
		Scenario: "names/.*",
		Key:      `op (rename noreplace|exchange|whiteout).*|.* "d/(new1|other[123]|exchange|noreplace|white|whitened|absent)" .*`,
	},
	{
		Reason:   "NFS clears suid and sgid for what is stored by mmap, and not for truncate",
		Source:   ".*/nfs.*",
		Scenario: "kill/.*", Key: `op after (map|f?truncate.*|open-truncating)|.* "(map|f?truncate[^"]*|open-truncating)" mode`,
	},
	{
		Reason:   "bindfs makes files without suid, sgid and the sticky bit",
		Source:   ".*/fuse",
		Scenario: "create.*/.*", Key: ".* mode|op mode of .*",
	},
	{
		Reason:   "bindfs sets both times where one is to be set",
		Source:   ".*/fuse",
		Scenario: "utimes/.*", Key: "op times after .*",
	},
	{
		Reason: "Linux 6.1 translates an ACL on a native mount only for a buffer of just the right size",
		Source: "6.1/.*", Backend: "translate",
		Key: `.* xattr system\.posix_acl_(access|default)|.*(access|default) ACL.*`,
	},
	{
		Reason:   "Linux before 6.2 looks at the owner of a file before the ids of an ACL",
		Source:   "(5.10|6.1)/.*",
		Scenario: "acl-set/.*", Key: "op set .*", Want: "EINVAL|ENOTSUP", Got: "EPERM",
	},
	{
		Reason:   "how long a link's target may be differs",
		Scenario: "use/path-max", Key: `op link target .*|.*/link" .*`,
	},
	{
		Reason:   "bindfs puts its own path before",
		Source:   ".*/fuse",
		Scenario: "use/path-max",
	},
	{
		Reason: "statfs(2) tells file systems apart",
		Key:    "op statfs.*",
	},
	{
		Reason:   "NFS answers O_CREAT with O_DIRECTORY in its own way",
		Source:   ".*/nfs.*",
		Scenario: "use/append", Key: `op create directory|.* "x" .*`,
	},
	{
		Reason:   "mmap stores strip file capabilities on FUSE without passthrough",
		Scenario: "kill/.*", Backend: "relay|translate", Key: `op capability after map|.* "map" xattr.*`,
	},
	{
		Reason:   "the source has no RENAME_WHITEOUT, or no RENAME_EXCHANGE either",
		Source:   ".*/(ext2|overlay.*|ramfs|btrfs)",
		Scenario: "names/.*", Key: `op (whiteout|exchange).*|.* "d/(white|whitened|noreplace|other[23]|exchange)" .*`,
	},
	{
		Reason:   "btrfs lists trusted.* to everybody",
		Source:   ".*/btrfs",
		Scenario: "xattr.*", Key: `op list.*|caller sees .* xattr.*`,
	},
	{
		Reason:   "ext2 keeps whole seconds in the small inodes that it makes",
		Source:   ".*/ext[23]",
		Scenario: "utimes/.*", Key: "op times after .*",
	},
}
