package conformance

// Source file systems that the kernel can't idmap are held against another one,
// and these are their own properties: what they do without any mount of ours.
const (
	withoutFallocate = "ext2|ramfs"
	seen             = "(disk|root sees|caller sees) "
)

var sourceDifferences = []Known{
	{
		Reason: "ext2 and ramfs have no fallocate(2)",
		Source: withoutFallocate, Scenario: "(kill|open)/.*", Key: "op (fallocate|punch)", Want: "ok", Got: "ENOTSUP",
	},
	{
		Reason: "what fallocate(2) has not changed on ext2 and ramfs",
		Source: withoutFallocate, Scenario: "kill/.*",
		Key:     "op (capability )?after (fallocate|punch)|" + seen + `"(fallocate|punch)" (size|data|mode|xattrs?.*)`,
		Because: Gave("op fallocate|op punch", "ok", "ENOTSUP"),
	},
	{
		Reason: "set-id bits that fallocate(2) has not taken, and data that it has not punched out, on ext2 and ramfs",
		Source: withoutFallocate, Scenario: "rare/(link-after-write/.*|far)",
		Key:     "op (fallocate|after fallocate|link again after fallocate|punch|punched)|" + seen + `"fallocate" mode`,
		Because: Gave("op fallocate|op punch", "ok", "ENOTSUP"),
	},
	{
		Reason: "as above, mode by mode",
		Source: withoutFallocate, Scenario: "file/fallocate", Key: "op (fallocate|after|zeroed).*",
		Want: "ok|0100666 size 32768|0{32} ok", Got: `\(absent\)|30313233343536373839616263646566 ok`,
	},
	{
		Reason: "overlayfs keeps whiteouts for itself: the device 0:0 is EPERM, RENAME_WHITEOUT EINVAL; ramfs has no RENAME_WHITEOUT",
		Source: "overlay|ramfs", Key: "op (mknod whiteout|whiteout|whiteout over)", Want: "ok", Got: "EPERM|EINVAL",
	},
	{
		Reason: "the whiteouts that overlayfs has not made",
		Source: "overlay", Key: seen + `"d/whiteout" .*`, Because: Gave("op mknod whiteout", "ok", "EPERM"),
	},
	{
		Reason: "the files that RENAME_WHITEOUT has not moved on overlayfs and ramfs",
		Source: "overlay|ramfs", Key: seen + `"d/(white|whitened|other3|noreplace)" .*`,
		Because: Gave("op whiteout|op whiteout over", "ok", "EINVAL"),
	},
	{
		Reason: "overlayfs removes an ACL as its mounter, whose groups decide about S_ISGID",
		Source: "overlay", Scenario: "acl-set/.*", Key: seen + `"f8" mode`, Want: "010[02]674", Got: "010[02]674",
	},
	{
		Reason: "overlayfs and ramfs have no inode generation",
		Source: "overlay|ramfs", Key: "op version of .*", Want: "ok", Got: "ENOTTY",
	},
	{
		Reason: "ramfs has no extended attributes",
		Source: "ramfs", Scenario: "kill/.*", Key: "op capability after .*", Want: "ENODATA", Got: "ENOTSUP",
	},
	{
		Reason: "ramfs has no extended attributes, and so no event of one",
		Source: "ramfs", Scenario: "use/inotify", Key: "op (setxattr|events are)", Because: Gave("op setxattr", "ok", "ENOTSUP"),
	},
	{
		Reason: "truncate(2) on ramfs leaves the times of a file, whatever its size",
		Source: "ramfs", Scenario: "file/same-size", Key: "op truncate leaves the time", Want: "false", Got: "true",
	},
	{
		Reason: "ramfs has no O_DIRECT",
		Source: "ramfs", Scenario: "use/direct", Key: "op open", Want: "ok", Got: "EINVAL",
	},
	{
		Reason: "what ramfs has not done without O_DIRECT",
		Source: "ramfs", Scenario: "use/direct", Key: "op (open plain|flags|read|read directly|write|write cached)|" + seen + `"f" (size|data)`,
		Because: Gave("op open", "ok", "EINVAL"),
	},
	{
		Reason: "ramfs has no holes",
		Source: "ramfs", Scenario: "file/seek", Key: "op seek (hole|hole after data|data|data at the end)",
		Want: `(0|1048576|1114112) ok|-1 ENXIO`, Got: "(0|2097152|4194304) ok", // as of one piece
	},
	{
		Reason: "ramfs has no times of birth",
		Source: "ramfs", Scenario: "use/statx", Key: "op birth", Want: "true true true", Got: "false false true",
	},
	{
		Reason: "places in directories of ramfs are positions: who goes back to one finds others there when names have come and gone",
		Source: "ramfs", Scenario: "use/listing", Key: "op seen from a place on", Want: "200, twice 0", Got: `\d+, twice \d+`,
	},
	{
		Reason: "a file without a name is not found again by its handle on tmpfs, and passthrough of two FUSE file systems has to open it again",
		Source: "idmount", Scenario: "create.*", Key: "op tmpfile( excl)?", Want: "ok", Got: "EIO",
	},
	{
		Reason: "what the file without a name would have shown",
		Source: "idmount", Scenario: "create.*", Key: `op (fstat|write|link) tmpfile( excl)?|op tmpfile \(2\)|` + seen + `"d/linked" .*`,
		Got: `\(absent\)`, Because: Gave("op tmpfile|op tmpfile excl", "ok", "EIO"),
	},
	{
		Reason: "sizes of the file system itself",
		Source: "ext2|ramfs", Scenario: "(file/stat|use/statx)", Key: `op statfs.*`,
		Want: "name length 255.*|255 .*", Got: "name length 255.*|255 .*",
	},
}
