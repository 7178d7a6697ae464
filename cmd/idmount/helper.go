package main

import (
	"context"
	"io"
	"strings"
)

// mountHelper is mount.idmount, which mount(8) and fstab(5) run for type idmount:
//
//	mount.idmount SOURCE TARGET [-sfnv] [-o OPTIONS]
//
// map=, backend= and recursive are our options; map entries are separated by
// spaces or "+", because fstab and -o keep spaces and commas for themselves.
func mountHelper(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	r := mountRequest{backend: "auto", quiet: true}
	var paths, options []string
	fake := false
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-o":
			if i++; i == len(args) {
				return usagef("-o takes options")
			}
			options = append(options, strings.Split(args[i], ",")...)
		case a == "-t" || a == "-N":
			if i++; i == len(args) {
				return usagef("%s takes a value", a)
			}
			if a == "-N" {
				return usagef("-N (another mount namespace) is not supported")
			}
		case len(a) > 1 && a[0] == '-':
			for _, flag := range a[1:] {
				switch flag {
				case 'f':
					fake = true
				case 'v':
					r.quiet = false
				case 's', 'n':
				default:
					return usagef("unknown option -%c", flag)
				}
			}
		default:
			paths = append(paths, a)
		}
	}
	if len(paths) != 2 {
		return usagef("want SOURCE TARGET [-sfnv] [-o OPTIONS]")
	}
	r.source, r.target = paths[0], paths[1]
	var rest []string
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		switch {
		case name == "map":
			r.maps = append(r.maps, strings.ReplaceAll(value, "+", " "))
		case name == "backend":
			r.backend = value
		case o == "recursive", o == "rbind":
			r.recursive = true
		case forMountItself(name):
		default:
			rest = append(rest, o)
		}
	}
	r.options = strings.Join(rest, ",")
	if fake {
		return nil
	}
	return r.run(ctx, stdout, stderr)
}

// forMountItself reports whether an option is one that mount(8) or systemd
// reads and passes on all the same.
func forMountItself(name string) bool {
	switch name {
	case "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "bind":
		return true
	}
	return strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") || strings.HasPrefix(name, "comment")
}
