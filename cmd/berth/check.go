package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"berth/internal/config"
)

func checkCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check the configuration, or one organisation's drop-in, without using it",
		Args:  usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			opts := configOptions()
			opts.Main = o.path()
			file := opts.Main
			if len(args) == 1 {
				file = args[0]
			}
			if file == "" {
				return usageError{errors.New("there is no configuration file: name one, as in berth check berth.yaml")}
			}
			return report(c, file, config.Check(file, opts))
		},
	}
}

func report(c *cobra.Command, file string, r config.Report) error {
	for _, w := range r.Warnings {
		c.PrintErrln("warning:", w)
	}
	for _, e := range r.Errors {
		c.PrintErrln("error:", e)
	}
	if !r.OK() {
		return errSaid
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), file+": ok")
	return err
}
