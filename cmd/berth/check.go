package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"berth/internal/config"
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
			opts := configOptions()
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
				checkFiles(c.Context(), r.Config, &r)
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

// checkFiles adds what is wrong with the files that a good configuration names.
func checkFiles(ctx context.Context, cfg *config.Config, r *config.Report) {
	add := func(to *config.Problems, file string, err error) {
		if err != nil {
			*to = append(*to, &config.Problem{File: file, Message: err.Error()})
		}
	}
	main := cfg.Files[""].Path
	for i, l := range cfg.Listeners {
		if l.TLS != nil {
			_, err := readPair(*l.TLS)
			add(&r.Errors, main, prefixed(fmt.Sprintf("listeners[%d].tls", i), err))
		}
	}
	if file := cfg.Admin.WebConfigFile; file != "" {
		a := cfg.Admin.Address
		add(&r.Errors, main, prefixed("admin", checkWeb(file, a.Socket == "" && !a.Loopback())))
	}
	for name, o := range cfg.Organisations {
		if o.File != "" {
			add(&r.Errors, o.File, errors.Join(vet(cfg, name, &o), mayHold(&o)))
		} else {
			add(&r.Errors, main, prefixed("organisations."+name, vet(cfg, name, &o)))
		}
	}
	bad, unseen := checkSecrets(ctx, cfg)
	for _, err := range bad {
		add(&r.Errors, main, err)
	}
	for _, w := range unseen {
		add(&r.Warnings, main, w)
	}
}

func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// checkSecrets reads every secret and certificate of an authority. What only the
// service sees is left out.
func checkSecrets(ctx context.Context, cfg *config.Config) (bad, unseen []error) {
	specs, err := specs(cfg)
	if err != nil {
		return []error{err}, nil
	}
	for _, s := range specs {
		pem, err := readCAs(s.caFile)
		if err == nil {
			_, err = pool(s.caFile, pem)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("registry %s: %w", s.name, err))
		}
		if s.account != nil && outOfSight(*s.account) {
			unseen = append(unseen, fmt.Errorf("the secret of registry %s is not checked: only the service sees it", s.name))
			s.account = nil
		}
	}
	seen, skipped := inSight(cfg)
	d := &desk{cfg: seen, secrets: secrets{}}
	credentials, err := d.newCredentials(&node{}, specs)
	if err != nil {
		return append(bad, err), nil
	}
	return append(bad, credentials.Check(ctx)...), append(unseen, skipped...)
}

// outOfSight says that a command cannot look at the secret: a helper is a program
// that asks somebody, and systemd's credentials are for the service alone.
func outOfSight(a config.Account) bool {
	return a.Helper != nil || a.PasswordCredential != "" && os.Getenv("CREDENTIALS_DIRECTORY") == ""
}

// inSight is cfg without the accounts that are out of sight.
func inSight(cfg *config.Config) (seen *config.Config, skipped []error) {
	next := *cfg
	next.Organisations = map[string]config.Organisation{}
	for name, o := range cfg.Organisations {
		var kept []config.Credential
		for _, c := range o.Credentials {
			if outOfSight(c.Account) {
				skipped = append(skipped, fmt.Errorf("the secret of account %q of organisation %s is not checked: only the service sees it", c.Name, name))
				continue
			}
			kept = append(kept, c)
		}
		o.Credentials = kept
		next.Organisations[name] = o
	}
	return &next, skipped
}
