package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
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
			&cli.StringFlag{Name: "options", Aliases: []string{"o"}, Usage: "mount `OPTIONS`, such as ro,nosuid,nodev,noexec,noatime,private"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: "the submounts of SOURCE too"},
			&cli.BoolFlag{Name: "foreground", Aliases: []string{"f"}, Usage: "serve a FUSE mount in this process until it is unmounted"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "SOURCE", "TARGET")
			if err != nil {
				return err
			}
			r := mountRequest{
				maps:       c.StringSlice("map"),
				backend:    c.String("backend"),
				access:     c.String("access"),
				cache:      c.String("cache"),
				transport:  c.String("transport"),
				options:    c.String("options"),
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

// mountRequest is a command line of mount, or of mount.idmount.
type mountRequest struct {
	maps                        []string
	backend, access             string
	cache, transport            string
	options                     string
	recursive, foreground, json bool
	quiet                       bool
	source, target              string
}

func (r *mountRequest) run(ctx context.Context, stdout, stderr io.Writer) error {
	if len(r.maps) == 0 {
		return usagef("--map is missing, for example --map b:0:100000:65536")
	}
	m, err := idmap.Parse(r.maps, idmount.SystemResolver())
	if err != nil {
		return &usageError{err}
	}
	backend, err := detect.ParseBackend(r.backend)
	if err != nil {
		return &usageError{err}
	}
	options, value := takeOption(r.options, "access", r.access)
	access, err := detect.ParseAccess(value)
	if err != nil {
		return &usageError{err}
	}
	options, value = takeOption(options, "cache", r.cache)
	cache, err := idmount.ParseCache(value)
	if err != nil {
		return &usageError{err}
	}
	options, value = takeOption(options, "transport", r.transport)
	transport, err := idmount.ParseTransport(value)
	if err != nil {
		return &usageError{err}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	o := idmount.Options{
		Map:          m,
		Backend:      backend,
		Recursive:    r.recursive,
		Access:       access,
		Cache:        cache,
		Transport:    transport,
		MountOptions: options,
		Daemon:       program,
		Logger:       slog.New(slog.NewTextHandler(stderr, nil)),
	}
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

// takeOption takes the last name=value out of a list of mount options. Without
// one, or with an empty value, it is that of the flag.
func takeOption(list, name, flag string) (rest, value string) {
	var others []string
	for _, o := range strings.Split(list, ",") {
		if n, v, ok := strings.Cut(strings.TrimSpace(o), "="); ok && n == name {
			value = v
			continue
		}
		others = append(others, o)
	}
	if value == "" {
		value = flag
	}
	return strings.Join(others, ","), value
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
	_, err := fmt.Fprintf(stdout, "%s: mounted by %s (%s)%s\n", m.Target, m.Backend, m.Reason, cache)
	return err
}
