package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"berth/internal/config"
	"berth/internal/node"
)

func checkCommand(o *options) *cobra.Command {
	var as string
	var inJSON bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check the configuration, or one organisation's drop-in, without using it",
		Long: `Check the main file with its drop-ins, or one drop-in, without using it: what they
say, and whether the files that they name (secrets, certificates) are there, can
be read and are kept from others. No registry is asked and no helper is run.

Root reads everything, so for root the check is made as the user that the node
runs as: the one that --user names, else berth, if there is such a user.`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			opts := config.Options{}
			opts.Main = o.path()
			file := opts.Main
			if len(args) == 1 {
				file = args[0]
			}
			if file == "" {
				return usageError{errors.New("there is no configuration file: name one, as in berth check berth.yaml")}
			}
			if id, err := identityFor(as); err != nil {
				return usageError{err}
			} else if id != nil {
				return checkAs(c, id, opts.Main, file, inJSON)
			}
			r := config.Check(file, opts)
			if r.Config != nil {
				node.CheckFiles(c.Context(), r.Config, &r)
			}
			if inJSON {
				return reportJSON(c, r)
			}
			return report(c, file, r)
		},
	}
	c.Flags().BoolVar(&inJSON, "json", false, "print the errors and warnings as JSON")
	c.Flags().StringVar(&as, "user", "", "the user that the node runs as, for root (default "+serviceUser+", if there is one)")
	return c
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

// reportJSON has lists even where they are empty, for programs.
func reportJSON(c *cobra.Command, r config.Report) error {
	r.Errors, r.Warnings = append(config.Problems{}, r.Errors...), append(config.Problems{}, r.Warnings...)
	e := json.NewEncoder(c.OutOrStdout())
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return err
	}
	if !r.OK() {
		return errSaid
	}
	return nil
}
