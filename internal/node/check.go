package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"berth/internal/audit"
	"berth/internal/config"

	"berth/auth/credential"
)

// CheckFiles adds what is wrong with the files that a good configuration names.
func CheckFiles(ctx context.Context, cfg *config.Config, r *config.Report) {
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
		add(&r.Errors, main, prefixed("admin", checkWeb(file, a.Socket == "" && !a.Loopback(), cfg.Admin.TokenFile != "")))
	}
	if file := cfg.Admin.TokenFile; file != "" {
		add(&r.Errors, main, checkToken(file, cfg.Admin.WebConfigFile))
	}
	add(&r.Warnings, main, openMetrics(cfg))
	add(&r.Warnings, main, prefixed("audit: pulls go on without it", audit.Check(cfg.Audit.File)))
	for name, o := range cfg.Organisations {
		if o.File != "" {
			add(&r.Errors, o.File, errors.Join(validate(cfg, name, &o), (&node{}).mayHold(&o)))
		} else {
			add(&r.Errors, main, prefixed("organisations."+name, validate(cfg, name, &o)))
		}
	}
	bad, unseen := checkSecrets(ctx, cfg)
	for _, err := range bad {
		p := &config.Problem{File: main, Message: err.Error()}
		if u, ok := errors.AsType[*credential.Unusable](err); ok {
			if at := placeOf(cfg, u); at.File != "" {
				p.File, p.Line = at.File, at.Line
			}
		}
		r.Errors = append(r.Errors, p)
	}
	for _, w := range unseen {
		add(&r.Warnings, main, w)
	}
}

// placeOf is where the account stands.
func placeOf(cfg *config.Config, u *credential.Unusable) (at config.Place) {
	if own := cfg.Registries[u.Registry].Credential; u.Organisation == "" && own != nil {
		return own.At
	}
	for _, c := range cfg.Organisations[u.Organisation].Credentials {
		if c.Name == u.Account && c.Registry == u.Registry {
			return c.At
		}
	}
	return at
}

// openMetrics warns of metrics that name organisations to whoever asks.
func openMetrics(cfg *config.Config) error {
	a := &cfg.Admin
	if len(cfg.Organisations) == 0 || a.Address.IsZero() || a.WebConfigFile != "" || a.TokenFile != "" {
		return nil
	}
	return errors.New("admin: every program on this node can read the metrics, which name organisations and their accounts: set token_file or web_config_file (berth setup prometheus says how)")
}

func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// checkSecrets reads every secret and certificate of an authority. What only the
// service sees is left out.
func checkSecrets(ctx context.Context, cfg *config.Config) (bad, skipped []error) {
	specs, err := cfg.Specs()
	if err != nil {
		return []error{err}, nil
	}
	for _, s := range specs {
		pem, err := (&node{}).readCAs(s.CAFile)
		if err == nil {
			_, err = pool(s.CAFile, pem)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("registry %s: %w", s.Name, err))
		}
	}
	seen, skipped := inSight(cfg)
	g := &generation{node: &node{}, cfg: seen, secrets: secrets{}}
	credentials, err := g.newCredentials(specs)
	if err != nil {
		return append(bad, err), nil
	}
	return append(bad, credentials.Check(ctx)...), skipped
}

// outOfSight says that a command cannot look at the secret: a helper is a program
// that asks somebody, and systemd's credentials are for the service alone.
func outOfSight(a config.Account) bool {
	return a.Helper != nil || a.PasswordCredential != "" && os.Getenv("CREDENTIALS_DIRECTORY") == ""
}

// inSight is a copy of cfg without the accounts whose secrets only the service sees: those
// of helpers, and those that systemd hands to it.
func inSight(cfg *config.Config) (seen *config.Config, skipped []error) {
	next := *cfg
	next.Registries = map[string]config.Registry{}
	for name, r := range cfg.Registries {
		if r.Credential != nil && outOfSight(*r.Credential) {
			skipped = append(skipped, fmt.Errorf("the secret of registry %s is not checked: only the service sees it", name))
			r.Credential = nil
		}
		next.Registries[name] = r
	}
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
