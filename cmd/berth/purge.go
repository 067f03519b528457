package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"berth/internal/admin"
)

func purgeCommand(o *options) *cobra.Command {
	var a nodeFlags
	var organisation string
	c := &cobra.Command{
		Use:   "purge --org ORGANISATION",
		Short: "Forget what was proven to an organisation, and its tokens, now",
		Long: `Forget what registries have proven about an organisation's rights, and the tokens
they gave it. Its next pull asks the registry; while that cannot be asked, the
organisation gets nothing from the cache. Images stay: other organisations may
use them, and this one too once it has proven its right again.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if organisation == "" {
				return usageError{errors.New("say whose: berth purge --org ORGANISATION")}
			}
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			p, err := client.Purge(c.Context(), admin.PurgeRequest{Organisation: organisation})
			if err != nil {
				return err
			}
			return printAnswer(c, a.json, p, func(w io.Writer, p admin.Purge) {
				fmt.Fprintf(w, "organisation %s: access will be checked again at the next pull; cached images were kept\n", p.Organisation)
			})
		},
	}
	a.flags(c)
	organisationFlag(c, &organisation, "the organisation")
	return c
}
