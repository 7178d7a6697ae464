package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
)

func detectCommand() *cli.Command {
	return &cli.Command{
		Name:      "detect",
		Usage:     "say what works on this kernel with the directory or file PATH, and why",
		ArgsUsage: "[PATH]",
		Description: "PATH is the source of a mount to be; without it, the current directory. Each line is a\n" +
			"probe that was made on PATH itself: yes, no or unknown, and the reason. Nothing is mounted.",
		OnUsageError: onUsageError,
		// Else a first argument "help" or "h" is no path but a command.
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "map", Aliases: []string{"m"}, Usage: "probe with this `MAP` entry; may be given again"},
			&cli.StringFlag{Name: "access", Value: "auto", Usage: "probe for this `ACCESS`: auto, caller or daemon"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: "the submounts of PATH too"},
			&cli.BoolFlag{Name: "json", Usage: "print the report as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "[PATH]")
			if err != nil {
				return err
			}
			path := "."
			if len(args) == 1 {
				path = args[0]
			}
			if _, err := os.Stat(path); err != nil {
				return &usageError{err}
			}
			access, err := detect.ParseAccess(c.String("access"))
			if err != nil {
				return &usageError{err}
			}
			o := detect.Options{Recursive: c.Bool("recursive"), Access: access}
			if maps := c.StringSlice("map"); len(maps) > 0 {
				m, err := idmap.Parse(maps, idmount.SystemResolver())
				if err != nil {
					return &usageError{err}
				}
				o.Map = &m
			}
			report, err := detect.Probe(c.Context, path, o)
			if err != nil {
				return err
			}
			for _, w := range fstabWarnings("/etc/fstab") {
				fmt.Fprintf(c.App.ErrWriter, "idmount: warning: %s\n", w)
			}
			if c.Bool("json") {
				e := json.NewEncoder(c.App.Writer)
				e.SetIndent("", "  ")
				return e.Encode(report)
			}
			return report.WriteText(c.App.Writer)
		},
	}
}
