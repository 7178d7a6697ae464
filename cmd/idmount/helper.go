package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/mntopt"
)

// A helper is one of the ways in which mount(8) runs this program:
//
//	mount.idmount SOURCE TARGET [-sfnv] [-o OPTIONS]       for type idmount
//	mount.fuse.idmount SOURCE TARGET [-sfnv] [-o OPTIONS]  for type fuse.idmount
//	idmount SOURCE TARGET [-o OPTIONS]                     for type fuse.idmount, by mount.fuse(8)
//
// Its exit codes are those of mount(8).
type helper struct{ caller mntopt.Caller }

// helperOf returns the helper that a command line asks for, and its arguments.
func helperOf(args []string) (h helper, rest []string, ok bool) {
	switch filepath.Base(args[0]) {
	case "mount.idmount", "mount.fuse.idmount":
		return helper{mntopt.Mount8}, args[1:], true
	}
	// No command begins with a slash, and mount(8) makes every source absolute.
	if len(args) > 1 && strings.HasPrefix(args[1], "/") {
		return helper{mntopt.Fuse8}, args[1:], true
	}
	return helper{}, nil, false
}

func (h helper) run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	for _, w := range fstabWarnings("/etc/fstab") {
		fmt.Fprintf(stderr, "idmount: warning: %s\n", w)
	}
	r, fake, err := h.parse(args)
	if err != nil {
		return err
	}
	if fake {
		return nil
	}
	err = r.run(ctx, stdout, stderr)
	if errors.Is(err, idmount.ErrMounted) {
		// mount -a comes again and again.
		if !r.quiet {
			fmt.Fprintf(stdout, "%s: mounted already\n", r.target)
		}
		return nil
	}
	return err
}

// parse reads the arguments. With fake (mount -f) nothing is to be mounted.
func (h helper) parse(args []string) (r *mountRequest, fake bool, err error) {
	r = &mountRequest{quiet: true}
	var paths, options []string
	sloppy := false
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--":
			paths = append(paths, args[i+1:]...)
			i = len(args)
		case a == "-o" || a == "-t" || a == "-N":
			if i++; i == len(args) {
				return nil, false, usagef("%s takes a value", a)
			}
			switch a {
			case "-o":
				options = append(options, args[i])
			case "-N":
				return nil, false, usagef("-N (another mount namespace) is not supported: nsenter(1) gets there")
			}
		case len(a) > 1 && a[0] == '-':
			for _, flag := range a[1:] {
				switch flag {
				case 'f':
					fake = true
				case 'v':
					r.quiet = false
				case 's':
					sloppy = true
				case 'n':
				default:
					return nil, false, usagef("unknown option -%c", flag)
				}
			}
		default:
			paths = append(paths, a)
		}
	}
	if len(paths) != 2 {
		return nil, false, usagef("want SOURCE TARGET [-sfnv] [-o OPTIONS]")
	}
	r.source, r.target = paths[0], paths[1]
	if r.list, err = mntopt.ParseHelper(strings.Join(options, ","), h.caller, sloppy); err != nil {
		return nil, false, &usageError{err}
	}
	return r, fake, nil
}
