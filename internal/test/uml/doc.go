// Package uml boots Debian's user-mode-linux kernels, each of which is a real
// kernel that runs as an ordinary process, and runs a command inside.
//
// The model: the guest's root is the host's own root (hostfs), mounted
// read-only. So the guest has the host's programs, libraries and test binaries
// as they are, at the same paths, and needs no image. Over the places that
// programs write to (/tmp, /run, /mnt, /var/tmp, /dev/shm) the guest mounts
// tmpfs; the program that it runs, its working directory and whatever
// Options.Expose names stay visible there. The guest boots in one to three
// seconds.
//
//	k, err := uml.Fetch(ctx, "bullseye", "")
//	if errors.Is(err, uml.ErrUnavailable) { ... skip: no mirror, no package ... }
//	r, err := k.Run(ctx, uml.Options{
//		Command: []string{"/tmp/native.test", "-test.v"},
//		Modules: []string{"fuse", "overlay", "loop"},
//	})
//	// r.ExitCode is the command's, r.Output its standard output and error
//
// Guarantees:
//   - Packages come through apt with signatures verified, by a private
//     configuration: the host's lists, cache and packages are not touched, and
//     no service is started on the host.
//   - A kernel is kept in the cache; with it there, Fetch needs no network.
//   - Run leaves no process behind: at the timeout, or when its context ends,
//     the guest's process group is killed and the error is ErrHung.
//
// What it is not: a sandbox. The guest's kernel acts with the rights of the
// process that started it, root's in our tests. A guest that remounts its root
// writable, or mounts hostfs once more, writes to the host's files.
package uml
