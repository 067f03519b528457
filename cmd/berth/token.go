package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"berth/auth/caller"
	"berth/internal/config"
	"berth/internal/node"
)

func tokenCommand(o *options) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "token ORGANISATION",
		Short: "Make a token with which an organisation's callers log in; it is shown once",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if !config.ValidOrganisation(args[0]) {
				return usageError{fmt.Errorf("%q is no organisation: lower-case letters and digits, with single dots, dashes or underscores between them", args[0])}
			}
			token := caller.NewToken()
			_, err := fmt.Fprintf(c.OutOrStdout(), `token, shown only now:
  %s
line for "tokens:" in organisations.d/%s.yaml (or in the main file below organisations.%[2]s):
  - {name: %s, sha256: %s}
log in with:
  docker login %s --username %s
`, token.Reveal(), args[0], name, caller.HashToken(token), o.loginAt(), args[0])
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "default", "what the token is called in logs")
	return c
}

// loginAt is the first listener of the configuration where callers log in. The
// organisation need not be in it yet.
func (o *options) loginAt() string {
	if cfg, err := o.load(); err == nil {
		for _, l := range node.Listeners(cfg) {
			if p, ok := port(l); ok && p.Token {
				return p.Address
			}
		}
	}
	return "localhost:5000"
}
