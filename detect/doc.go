// Package detect finds out which backends work for a source directory, on
// this kernel, with the privileges of this process, and why.
//
// A probe does the thing itself, on the real source, with mounts that are
// attached nowhere, and undoes it. It never concludes from a version number:
// distributions backport and disable, and seccomp filters take calls away. The
// kernel's release is in the report as an annotation only.
//
// Each probe answers yes, no, or don't know:
//
//	Yes      it worked just now
//	No       the kernel gave an errno that means "this does not exist here"
//	Unknown  anything else, with its cause: EPERM may be a missing capability,
//	         a seccomp filter or a security module, and is never a No alone
//
// An example:
//
//	report, err := detect.Probe(ctx, "/srv/data", detect.Options{})
//	choice, err := detect.Choose(report, detect.Auto)
//	// relay: native: the kernel has no idmapped mounts for overlay
//	// (mount_setattr: invalid argument); relay: the kernel idmaps our FUSE mount
//
// Errnos that mean No, by probe:
//
//	mount API       ENOSYS from open_tree or mount_setattr
//	idmap           EINVAL from mount_setattr on a clone; ENOSYS from
//	                open_tree_attr where the source is idmapped already, or a map of
//	                its own that is not known or does not fit under the new one
//	user namespace  EINVAL, ENOSYS, ENOSPC from clone(CLONE_NEWUSER)
//	/dev/fuse       ENOENT, ENODEV, ENXIO from open
//	FUSE            ENODEV from fsopen or mount
//	relay           no ALLOW_IDMAP in the kernel's INIT, or EINVAL, ENOSYS from
//	                mount_setattr after it was granted
//	passthrough     no PASSTHROUGH in INIT; ELOOP, EOPNOTSUPP, EINVAL for a file
//	                of the source as backing file
//	file handles    EOPNOTSUPP from name_to_handle_at or open_by_handle_at,
//	                ESTALE from open_by_handle_at
//
// Guarantees: nothing is mounted where anyone could see it, nothing below the
// source is written, no program is run. Choose is a pure function of a Report.
//
// Non-goals: caching. A report holds for one source at one moment; a probe
// takes a few milliseconds.
package detect
