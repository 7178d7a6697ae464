package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/mntopt"
)

func mountCommand() *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "show SOURCE at TARGET with its owners translated",
		ArgsUsage: "SOURCE TARGET",
		Description: "A map entry is TYPE:DISK:VIEW:COUNT. TYPE is b (users and groups), u or g; DISK is the\n" +
			"first id as stored in SOURCE, VIEW the first id as seen at TARGET. u:alice:bob maps one\n" +
			"user by name, and /proc/PID/ns/user takes the map of a user namespace.",
		OnUsageError: onUsageError,
		// Else a first argument "help" or "h" is no path but a command.
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "map", Aliases: []string{"m"}, Usage: "`MAP` entry, such as b:0:100000:65536; may be given again"},
			&cli.StringFlag{Name: "backend", Value: "auto", Usage: "`BACKEND` auto, native, relay or translate"},
			&cli.StringFlag{Name: "access", Value: "auto", Usage: "`WHO` a FUSE server is for the source: caller, daemon, or auto for caller where root is refused"},
			&cli.StringFlag{Name: "cache", Value: "coherent", Usage: "what a FUSE mount keeps of SOURCE: `MODE` coherent, ttl=DURATION, none or exclusive"},
			&cli.StringFlag{Name: "transport", Value: "auto", Usage: "how requests reach a FUSE server: `WAY` dev, uring, or auto for uring where the kernel has it switched on"},
			&cli.StringFlag{Name: "stacking", Value: "auto", Usage: "how many overlays can be stacked on a FUSE mount: `N` 0, 1, 2 or auto; fewer can make reads and writes faster"},
			&cli.StringSliceFlag{Name: "options", Aliases: []string{"o"}, Usage: "mount `OPTIONS`, such as ro,nosuid,nodev,noexec,noatime,private; may be given again"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: "the submounts of SOURCE too"},
			&cli.BoolFlag{Name: "foreground", Aliases: []string{"f"}, Usage: "serve a FUSE mount in this process until it is unmounted"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "SOURCE", "TARGET")
			if err != nil {
				return err
			}
			list, err := mntopt.ParseList(strings.Join(c.StringSlice("options"), ","))
			if err != nil {
				return &usageError{err}
			}
			r := mountRequest{
				list:       list,
				maps:       c.StringSlice("map"),
				backend:    c.String("backend"),
				access:     c.String("access"),
				cache:      c.String("cache"),
				transport:  c.String("transport"),
				stacking:   c.String("stacking"),
				recursive:  c.Bool("recursive"),
				foreground: c.Bool("foreground"),
				json:       c.Bool("json"),
				source:     args[0],
				target:     args[1],
			}
			return r.run(c.Context, c.App.Writer, c.App.ErrWriter)
		},
	}
}

// mountRequest is a command line of mount, or of a mount helper.
type mountRequest struct {
	maps                        []string
	backend, access             string
	cache, transport, stacking  string
	list                        mntopt.List // the options; they win over the flags
	recursive, foreground, json bool
	quiet                       bool
	source, target              string
}

func (r *mountRequest) run(ctx context.Context, stdout, stderr io.Writer) error {
	o, err := r.options()
	if err != nil {
		return err
	}
	for _, name := range r.list.NoEffect {
		fmt.Fprintf(stderr, "idmount: warning: mount option %q has no effect on an ID-mapped mount\n", name)
	}
	if r.list.Remount {
		return idmount.Remount(r.source, r.target, o)
	}
	if o.Map.IsZero() {
		return usagef("--map is missing, for example --map b:0:100000:65536 (-o map= for mount(8), which keeps X-mount.idmap for itself)")
	}
	if o.Daemon, err = os.Executable(); err != nil {
		return err
	}
	o.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	if r.foreground {
		var printErr error
		err := idmount.Serve(ctx, r.source, r.target, o, func(m *idmount.Mounted) { printErr = r.print(m, stdout, stderr) })
		if err == nil {
			err = printErr
		}
		return err
	}
	mounted, err := idmount.Mount(ctx, r.source, r.target, o)
	if err != nil {
		return err
	}
	return r.print(mounted, stdout, stderr)
}

// options are those of the mount. Without a map, that is the zero one.
func (r *mountRequest) options() (idmount.Options, error) {
	fail := func(err error) (idmount.Options, error) { return idmount.Options{}, &usageError{err} }
	o := idmount.Options{
		Recursive:    r.recursive || len(r.list.Own["recursive"]) > 0,
		MountOptions: r.list.Mount.String(),
	}
	entries := r.maps
	for _, value := range r.list.Own["map"] {
		entries = append(entries, strings.ReplaceAll(value, "+", " "))
	}
	// util-linux writes each entry to uid_map as it stands, and there the id in the
	// namespace comes first, which is the disk's: the same order as ours.
	if idmaps := r.list.Own["X-mount.idmap"]; len(idmaps) > 0 {
		if len(entries) > 0 {
			return fail(errors.New("X-mount.idmap= and map= are both given: leave one of them out"))
		}
		entries = idmaps
	}
	var err error
	if len(entries) > 0 {
		if o.Map, err = idmap.Parse(entries, idmount.SystemResolver()); err != nil {
			return fail(err)
		}
	}
	if o.Backend, err = detect.ParseBackend(r.value("backend", r.backend, "auto")); err != nil {
		return fail(err)
	}
	if o.Access, err = detect.ParseAccess(r.value("access", r.access, "auto")); err != nil {
		return fail(err)
	}
	if o.Cache, err = idmount.ParseCache(r.value("cache", r.cache, "coherent")); err != nil {
		return fail(err)
	}
	if o.Transport, err = idmount.ParseTransport(r.value("transport", r.transport, "auto")); err != nil {
		return fail(err)
	}
	if o.Stacking, err = idmount.ParseStacking(r.value("stacking", r.stacking, "auto")); err != nil {
		return fail(err)
	}
	return o, nil
}

// value is the last one of an own option, else the flag's, else the usual one.
func (r *mountRequest) value(name, flag, usual string) string {
	if values := r.list.Own[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	if flag != "" {
		return flag
	}
	return usual
}

func (r *mountRequest) print(m *idmount.Mounted, stdout, stderr io.Writer) error {
	for _, w := range m.Warnings {
		fmt.Fprintf(stderr, "idmount: warning: %s\n", w)
	}
	if r.quiet {
		return nil
	}
	if r.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(m)
	}
	cache := ""
	if m.Cache != "" {
		cache = "; cache " + m.Cache
	}
	if m.CacheReason != "" {
		cache += " (" + m.CacheReason + ")"
	}
	stacking := ""
	if m.StackingReason != "" {
		stacking = fmt.Sprintf("; stacking %s (%s)", m.Stacking, m.StackingReason)
	}
	if _, err := fmt.Fprintf(stdout, "%s: mounted by %s (%s)%s%s\n", m.Target, m.Backend, m.Reason, cache, stacking); err != nil {
		return err
	}
	return printSubmounts(m, stdout)
}

// printSubmounts lists the submounts that are not mounted in the way of the top.
func printSubmounts(m *idmount.Mounted, stdout io.Writer) error {
	const most = 20
	n := 0
	for _, s := range m.Submounts {
		if s.Backend == m.Backend {
			continue
		}
		if n++; n > most {
			continue
		}
		if _, err := fmt.Fprintf(stdout, "  %s: by %s (%s)\n", s.Path, s.Backend, s.Reason); err != nil {
			return err
		}
	}
	if n > most {
		_, err := fmt.Fprintf(stdout, "  and %d more, which --json lists\n", n-most)
		return err
	}
	return nil
}
