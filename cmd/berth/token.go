package main

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"berth/auth/caller"
	"berth/internal/config"
	"berth/internal/node"
)

// madeToken is a token and what belongs into the configuration. Only this command shows
// a token.
type madeToken struct {
	Organisation string `json:"organisation"`
	Token        string `json:"token"`
	Name         string `json:"name"`
	SHA256       string `json:"sha256"`
	NotAfter     string `json:"not_after,omitempty"`
	For          string `json:"for"`
	// Address is where it is good, at the listener that wants tokens.
	Address string `json:"address"`
}

func tokenCommand(o *options) *cobra.Command {
	var t madeToken
	var inJSON bool
	c := &cobra.Command{
		Use:   "token ORGANISATION",
		Short: "Make a token with which an organisation's callers log in; it is shown once",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := t.check(args[0]); err != nil {
				return usageError{err}
			}
			token := caller.NewToken()
			t.Organisation, t.Token, t.SHA256, t.Address = args[0], token.Reveal(), caller.HashToken(token), o.loginAt()
			return printAnswer(c, inJSON, t, showToken)
		},
	}
	c.Flags().StringVar(&t.Name, "name", "default", "what the token is called in logs")
	c.Flags().StringVar(&t.NotAfter, "not-after", "", "the last day that it is good for, as in 2027-01-31 (default for ever)")
	c.Flags().StringVar(&t.For, "for", string(config.ForLogin), "login, or header: one that stands in a client's configuration")
	c.Flags().BoolVar(&inJSON, "json", false, "answer in JSON")
	return c
}

func (t *madeToken) check(organisation string) error {
	if !config.ValidOrganisation(organisation) {
		return fmt.Errorf("%q is no organisation: lower-case letters and digits, with single dots, dashes or underscores between them", organisation)
	}
	if t.For != string(config.ForLogin) && t.For != string(config.ForHeader) {
		return fmt.Errorf("--for: %q is not known: write login or header", t.For)
	}
	if err := config.CheckName(t.Name); err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	if t.NotAfter == "" {
		return nil
	}
	until, err := config.ParseNotAfter(t.NotAfter)
	if err == nil && until.Before(time.Now()) {
		err = fmt.Errorf("%s is over: write a later day", t.NotAfter)
	}
	if err != nil {
		return fmt.Errorf("--not-after: %w", err)
	}
	return nil
}

func showToken(w io.Writer, t madeToken) {
	name := t.Name
	if !regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`).MatchString(name) {
		name = strconv.Quote(name)
	}
	line := fmt.Sprintf("{name: %s, sha256: %s", name, t.SHA256)
	if t.NotAfter != "" {
		line += ", not_after: " + t.NotAfter
	}
	use := fmt.Sprintf("log in with:\n  docker login %s --username %s", t.Address, t.Organisation)
	if t.For == string(config.ForHeader) {
		line += ", for: header"
		use = fmt.Sprintf("put it into a client's configuration with:\n  berth setup docker --write --organisation %s --token-file FILE", t.Organisation)
	}
	fmt.Fprintf(w, `token, shown only now:
  %s
line for "tokens:" in organisations.d/%s.yaml (or in the main file below organisations.%[2]s):
  - %s}
%s
`, t.Token, t.Organisation, line, use)
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
