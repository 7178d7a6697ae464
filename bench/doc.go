// Package bench measures what an ID-mapped mount costs: the same work on a
// plain directory, on each backend's mount of it, and on mounts of the other
// programs that translate owners through FUSE, if the machine has them.
//
// # Model
//
// A System is a way to show a directory: the directory itself (source), the
// kernel's mount (native), ours (relay, translate, with a transport and a cache
// mode), a peer (bindfs, fuse-overlayfs). A Workload is a piece of work that
// yields one or more rows, each a time for an operation.
//
// Run makes a scratch directory below the directory that it is given, prepares
// there what the workloads need, and mounts it by every system. A round is one
// run of a workload on each system, one after the other; the next round begins
// with another one. What slows the machine down for a while then hits them all.
// A system is compared with the baseline (native, or the source where there is
// no native mount) of the same round, and a row says the median of these ratios
// and their spread.
//
//	report, err := bench.Run(ctx, bench.Options{Dir: "/srv", Program: "/usr/bin/idmount"})
//	...
//	err = report.WriteText(os.Stdout)
//
// Of our own mounts it also says which requests the kernel sent, by opcode: the
// reason for most differences.
//
// # Guarantees
//
//   - What it mounts is gone when Run returns, and so is the scratch directory,
//     also after an error or when the context ends.
//   - Each system has a directory of its own for what it changes, so that a mode
//     that expects to be alone with its source is.
//   - A system that can't be mounted is left out with the reason; one that fails
//     in a workload has the reason in place of the figures.
//
// # Limits
//
// It takes root. Cold rows empty the kernel's caches of names and inodes, of the
// whole machine. A row of a short run is an indication: the spread says how good
// a one.
package bench
