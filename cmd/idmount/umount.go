package main

import (
	"github.com/urfave/cli/v2"

	"github.com/idmount/idmount"
)

func umountCommand() *cli.Command {
	return &cli.Command{
		Name:         "umount",
		Usage:        "remove the ID-mapped mount at TARGET",
		ArgsUsage:    "TARGET",
		Description:  "Other mounts than ID-mapped ones are refused.",
		OnUsageError: onUsageError,
		// Else a first argument "help" or "h" is no path but a command.
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "lazy", Aliases: []string{"l"}, Usage: "remove it from TARGET at once, end it when nobody uses it"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "TARGET")
			if err != nil {
				return err
			}
			return idmount.Unmount(args[0], c.Bool("lazy"))
		},
	}
}
