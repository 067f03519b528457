package main

import "github.com/spf13/cobra"

func reloadCommand(o *options) *cobra.Command {
	var a nodeFlags
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the running node read its configuration again; returns when it is in force",
		Long: `Have the running node read its configuration again: the main file, the drop-ins
and the secrets. It returns when what can be used is in force, and fails if a
file is bad: then what was in force before stays.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Reload(c.Context())
			if err != nil {
				return err
			}
			err = printAnswer(c, a.json, r, showReload)
			if err == nil && !r.OK() {
				return errSaid
			}
			return err
		},
	}
	a.flags(c)
	return c
}
