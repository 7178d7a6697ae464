// Command idmount makes ID-mapped mounts on any Linux: natively where kernel
// and file system can, through FUSE where they can't.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// version is set by the linker.
var version = "unknown"

func main() {
	// The daemon handles its signals itself: they unmount.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program: the result goes to stdout, all else to stderr.
func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	var err error
	code := exitCode
	if isUmountHelper(args) {
		err, code = umountHelper(args[1:]), helperExitCode
	} else if h, rest, ok := helperOf(args); ok {
		err, code = h.run(ctx, rest, stdout, stderr), helperExitCode
	} else {
		err = app(stdout, stderr).RunContext(ctx, markDashes(args))
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "idmount: %v\n", err)
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return code(err)
}

func app(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:      "idmount",
		Usage:     "ID-mapped mounts that work everywhere",
		UsageText: "idmount COMMAND [OPTIONS] [ARGUMENTS]",
		Version:   version,
		Description: "Shows a directory tree at another place with its owners translated by a map,\n" +
			"and changes nothing on disk. See idmount(8).",
		Writer:                    stdout,
		ErrWriter:                 stderr,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		// Without this the library ends the process itself.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Commands:       []*cli.Command{mountCommand(), umountCommand(), detectCommand(), daemonCommand(), benchCommand(), benchServerCommand(), versionCommand()},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("unknown command %q; the commands are mount, umount, detect, bench and version", c.Args().First())
			}
			cli.ShowAppHelp(c)
			return nil
		},
	}
}

func onUsageError(_ *cli.Context, err error, _ bool) error { return &usageError{err} }

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// markDashes writes the first "--" of a command twice. The library drops one, and
// arguments sees by the other that what follows are no options.
func markDashes(args []string) []string {
	for i := 2; i < len(args); i++ {
		if args[i] == "--" {
			return slices.Insert(slices.Clone(args), i, "--")
		}
	}
	return args
}

// arguments returns the positional arguments that names ask for, the last of
// which may be optional ("[PATH]"). The library takes every flag after the
// first argument for an argument.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	var args []string
	all := c.Args().Slice()
	for i, a := range all {
		if a == "--" {
			// See markDashes. Behind an argument the library drops none.
			if i++; i > 1 {
				i++
			}
			args = append(args, all[i:]...)
			break
		}
		if len(a) > 1 && a[0] == '-' {
			return nil, usagef("option %q comes after an argument; options go first", a)
		}
		args = append(args, a)
	}
	required := len(names)
	if required > 0 && strings.HasPrefix(names[required-1], "[") {
		required--
	}
	if len(args) > len(names) {
		return nil, usagef("stray argument %q", args[len(names)])
	}
	if len(args) < required {
		return nil, usagef("%s is missing", names[len(args)])
	}
	return args, nil
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:         "version",
		Usage:        "print the version",
		OnUsageError: onUsageError,
		// Else a first argument "help" or "h" is no path but a command.
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.App.Writer, "idmount %s\n", version)
			return err
		},
	}
}

func isErrno(err error, errnos ...unix.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
