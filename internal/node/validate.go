package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"berth/auth/caller"
	"berth/internal/config"
	"berth/internal/hung"
	"berth/proxy"

	"berth/auth/credential"
	"berth/auth/token"
)

// withoutBadDropIns is cfg without the drop-ins that this program cannot use although the
// configuration let them pass, so that one of them never stops the others. Such
// an organisation goes on with what it had before, or is out.
func (n *node) withoutBadDropIns(cfg, before *config.Config) *config.Config {
	bad := map[string]error{}
	for name, o := range cfg.Organisations {
		if o.File == "" || cfg.Same(name, before) {
			continue // the main file's: the operator's own mistakes are told at once
		}
		if err := errors.Join(validate(cfg, name, &o), n.mayHold(&o)); err != nil {
			bad[name] = config.Problems{{File: o.File, Message: err.Error()}}
		}
	}
	if len(bad) == 0 {
		return cfg
	}
	next := *cfg
	next.Organisations, next.Broken = maps.Clone(cfg.Organisations), maps.Clone(cfg.Broken)
	for name, err := range bad {
		next.Broken[name] = err
		delete(next.Organisations, name)
		if before == nil {
			continue
		}
		if o, ok := before.Organisations[name]; ok && o.File != "" && validate(cfg, name, &o) == nil {
			next.Organisations[name] = o
		}
	}
	return &next
}

// mayHold says whether the drop-in of o may hold the passwords that it holds.
// Without any it may be readable for everyone: hashes of tokens tell nothing.
func (n *node) mayHold(o *config.Organisation) error {
	inline := func(c config.Credential) bool { return !c.Password.Empty() }
	if !slices.ContainsFunc(o.Credentials, inline) {
		return nil
	}
	_, err := hung.Do(n.hung, hung.Limit, o.File, func() (_ struct{}, err error) { return struct{}{}, (credential.File{Path: o.File}).Check() })
	if err != nil {
		return fmt.Errorf("a file with a password in it: %w", err)
	}
	return nil
}

// validate says what about one organisation cannot be used.
func validate(cfg *config.Config, name string, o *config.Organisation) error {
	for _, t := range o.Tokens {
		if err := caller.CheckHash(name, t.SHA256.String()); err != nil {
			return fmt.Errorf("token %q: %w", t.Name, err)
		}
	}
	for _, c := range o.Credentials {
		for _, p := range c.Repositories {
			if _, err := credential.ParsePattern(p); err != nil {
				return fmt.Errorf("account %q: %w", c.Name, err)
			}
		}
	}
	if len(o.Registries) == 0 {
		return nil
	}
	alone := *cfg
	alone.Organisations = map[string]config.Organisation{name: *o}
	specs, err := alone.Specs()
	if err != nil {
		return err
	}
	for _, s := range specs {
		if _, err := token.NewRealms(s.Origin, s.TokenEndpoints...); err != nil {
			return err
		}
	}
	_, err = proxy.NewRouter(specs)
	return err
}
