package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/bench"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name:      "bench",
		Usage:     "measure what mounts of SOURCE would cost",
		ArgsUsage: "SOURCE",
		Description: "Works in a scratch directory that it makes below SOURCE, and removes it. The short run\n" +
			"takes two minutes of processor time or more, and several minutes where others work too. It\n" +
			"has 200000 empty files for a while, and empties the kernel's caches of names and inodes.\n" +
			"Times are compared with the native mount's of the same round.",
		OnUsageError: onUsageError,
		// Else a first argument "help" or "h" is no path but a command.
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "full", Usage: "all systems and workloads, larger and in more rounds; takes up to an hour"},
			&cli.StringFlag{Name: "systems", Usage: "only these `SYSTEMS`, such as source,native,translate+exclusive,bindfs"},
			&cli.StringFlag{Name: "workloads", Usage: "only these `WORKLOADS`: " + strings.Join(bench.Workloads(), ", ")},
			&cli.IntFlag{Name: "rounds", Usage: "measure each system `N` times in each workload"},
			&cli.StringFlag{Name: "json", Usage: "write the report as JSON to `FILE`, - is standard output"},
			&cli.StringFlag{Name: "html", Usage: "write the report as a web page to `FILE`, - is standard output"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "SOURCE")
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			o := bench.Options{
				Dir:     args[0],
				Program: program,
				Version: version,
				Full:    c.Bool("full"),
				Rounds:  c.Int("rounds"),
			}
			if c.IsSet("rounds") && o.Rounds < 1 {
				return usagef("--rounds %d: must be 1 or more", o.Rounds)
			}
			for _, list := range []struct {
				flag string
				into *[]string
			}{{"systems", &o.Systems}, {"workloads", &o.Workloads}} {
				if c.IsSet(list.flag) {
					*list.into = strings.Split(c.String(list.flag), ",")
				}
			}
			out := benchOutput{json: c.String("json"), html: c.String("html")}
			if out.json == "-" && out.html == "-" {
				return usagef("--json and --html can't both go to standard output")
			}
			return out.run(c, o)
		},
	}
}

// benchOutput is where a report goes.
type benchOutput struct{ json, html string }

func (out *benchOutput) run(c *cli.Context, o bench.Options) error {
	// It begins the program anew, so before anything else. Others than root get a
	// better answer from bench.Run.
	if os.Geteuid() == 0 {
		if err := bench.Private(); err != nil {
			return err
		}
	}
	// Before an hour's work: may the files be written at all?
	files, err := out.open()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if terminal(c.App.ErrWriter) {
		clear := "\r\x1b[K"
		o.Progress = func(p bench.Progress) {
			what := "prepare"
			if p.Round > 0 {
				what = fmt.Sprintf("round %d of %d on %s", p.Round, p.Rounds, p.System)
			}
			fmt.Fprintf(c.App.ErrWriter, "%s[%d/%d] %s: %s", clear, p.Step, p.Steps, p.Workload, what)
		}
		defer fmt.Fprint(c.App.ErrWriter, clear)
	}
	report, err := bench.Run(c.Context, o)
	var option *bench.OptionError
	switch {
	case errors.As(err, &option):
		return &usageError{err}
	case c.Context.Err() != nil:
		return errors.New("interrupted; nothing is left behind")
	case err != nil:
		return err
	}
	if err := out.write(c.App.Writer, report, files); err != nil {
		return err
	}
	if failures := report.Failures(); len(failures) > 0 {
		return fmt.Errorf("not everything could be measured: %s", strings.Join(failures, "; "))
	}
	return nil
}

func (out *benchOutput) open() (map[string]*os.File, error) {
	files := make(map[string]*os.File)
	for _, name := range []string{out.json, out.html} {
		if name == "" || name == "-" || files[name] != nil {
			continue
		}
		f, err := os.Create(name)
		if err != nil {
			return files, &usageError{err}
		}
		files[name] = f
	}
	return files, nil
}

// write writes the files, and the table unless standard output is a file's.
func (out *benchOutput) write(stdout io.Writer, report *bench.Report, files map[string]*os.File) error {
	for _, format := range []struct {
		name  string
		write func(io.Writer) error
	}{{out.json, report.WriteJSON}, {out.html, report.WriteHTML}} {
		if format.name == "" {
			continue
		}
		w := stdout
		if f := files[format.name]; f != nil {
			w = f
		}
		if err := format.write(w); err != nil {
			return err
		}
	}
	if slices.Contains([]string{out.json, out.html}, "-") {
		return nil
	}
	return report.WriteText(stdout)
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// benchServerCommand is what bench starts to serve a mount that it measures.
func benchServerCommand() *cli.Command {
	return &cli.Command{
		Name:            bench.ServerCommand,
		Hidden:          true,
		OnUsageError:    onUsageError,
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return bench.Serve(c.Context, os.Stdin, c.App.Writer)
		},
	}
}
