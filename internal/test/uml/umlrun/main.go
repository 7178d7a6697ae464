// Command umlrun runs a command in a user-mode-linux kernel, from the host's
// own root, read-only:
//
//	umlrun --suite bullseye --module fuse -- uname -r
//
// The command's output goes to standard output, all else to standard error.
// It exits with the command's code; 77 if the kernel can't be had here, 124 if
// the guest was killed at the timeout, 125 on any other trouble.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/idmount/idmount/internal/test/uml"
)

const (
	exitUnavailable = 77
	exitHung        = 124
	exitTrouble     = 125
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("umlrun", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o uml.Options
	suite := flags.String("suite", "bullseye", "Debian `release` whose kernel to boot: bullseye, bookworm, trixie, sid")
	cache := flags.String("cache", "", "`directory` that keeps the kernels, $IDMOUNT_CACHE or ~/.cache/idmount if empty")
	console := flags.Bool("console", false, "print the console's text as well, to standard error")
	flags.Var((*list)(&o.Modules), "module", "load this kernel `module`; may be repeated")
	flags.Var((*list)(&o.Env), "env", "`NAME=value` for the command; may be repeated")
	flags.Var((*list)(&o.Disks), "disk", "image `file` for /dev/ubda, /dev/ubdb...; may be repeated")
	flags.Var((*list)(&o.Expose), "expose", "`path` below /tmp, /run, /var/tmp or /mnt that the guest shall see; may be repeated")
	flags.Var((*list)(&o.Cover), "cover", "`directory` to hide under an empty tmpfs; may be repeated")
	flags.StringVar(&o.Share, "share", "", "`directory` of the host that is writable at "+uml.GuestShare)
	flags.StringVar(&o.Dir, "dir", "", "working `directory` in the guest")
	flags.IntVar(&o.MemMB, "mem", 1024, "memory in `MiB`")
	flags.DurationVar(&o.Timeout, "timeout", uml.DefaultTimeout, "kill the guest after this `time`")
	nfs := flags.String("nfs", "", "serve NFS in the guest, mounted below /mnt/nfs; `squash` is no_root_squash or root_squash")
	nfsFS := flags.String("nfs-fs", "", "the NFS server's file system `type`: ext4, xfs, tmpfs")
	if err := flags.Parse(args); err != nil {
		return exitTrouble
	}
	if *nfs != "" && *nfs != "no_root_squash" && *nfs != "root_squash" {
		fmt.Fprintf(stderr, "umlrun: --nfs=%s: want no_root_squash or root_squash\n", *nfs)
		return exitTrouble
	}
	o.Command, o.Stdout = flags.Args(), stdout

	k, err := uml.Fetch(ctx, *suite, *cache)
	if err != nil {
		fmt.Fprintln(stderr, "umlrun:", err)
		return exitUnavailable
	}
	if *nfs != "" {
		n, err := uml.FetchNFS(ctx, *cache)
		if err != nil {
			fmt.Fprintln(stderr, "umlrun:", err)
			return exitUnavailable
		}
		o = n.With(o, uml.NFSOptions{FS: *nfsFS, RootSquash: *nfs == "root_squash"})
	}
	r, err := k.Run(ctx, o)
	if *console {
		fmt.Fprint(stderr, r.Console)
	}
	switch {
	case errors.Is(err, uml.ErrHung):
		fmt.Fprintln(stderr, "umlrun:", err)
		return exitHung
	case err != nil:
		fmt.Fprintln(stderr, "umlrun:", err)
		return exitTrouble
	}
	return r.ExitCode
}
