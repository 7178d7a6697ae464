package main

import (
	"github.com/urfave/cli/v2"

	"github.com/idmount/idmount"
)

// daemonCommand is what mount starts to serve a FUSE mount.
func daemonCommand() *cli.Command {
	return &cli.Command{
		Name:         "serve-daemon",
		Hidden:       true,
		OnUsageError: onUsageError,
		// Else a first argument "help" or "h" is no path but a command.
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return idmount.ServeDaemon(c.Context)
		},
	}
}
