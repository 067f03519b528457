package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"

	"berth/auth"
	"berth/internal/config"
	"berth/oci"
	"berth/upstream"
)

// newSite makes a registry's upstream. It does not go there.
func (n *node) newSite(cfg *config.Config, spec *spec, credentials *auth.Credentials) (*site, error) {
	s := &site{
		name: spec.name, owner: spec.owner, origin: spec.origin, kind: spec.kind,
		uniform: spec.uniform, fallback: spec.uniform && spec.fallback, perObject: spec.perObject,
	}
	cas, err := readCAs(spec.caFile)
	if err != nil {
		return nil, err
	}
	o := upstream.Options{
		Name: spec.name, Origin: spec.origin, Type: spec.kind,
		AllowPrivate: spec.allowPrivate, Named: spec.named,
		CAs: cas, Connections: cfg.Upstream.Connections,
		UserAgent: "berth/" + version(), Logger: n.log, Metrics: n.upstream, Now: n.now,
		Authority: func(t http.RoundTripper) (upstream.Authority, error) {
			return auth.NewAuthority(auth.AuthorityOptions{
				Origin: spec.origin, Registry: spec.name, Type: spec.kind, TokenEndpoints: spec.tokenEndpoints,
				Transport: t, UserAgent: "berth/" + version(), Metrics: n.auth, Logger: n.log, Now: n.now,
			})
		},
	}
	if cfg.Upstream.Proxy != "" {
		if o.Proxy, err = url.Parse(cfg.Upstream.Proxy); err != nil {
			return nil, fmt.Errorf("upstream.proxy: %w", err)
		}
	}
	if s.upstream, err = upstream.New(o); err != nil {
		return nil, err
	}
	s.shared = s.upstream.As(upstream.Identity{
		Credential: func(ctx context.Context, repo string) (*auth.Credential, error) {
			return credentials.Lookup(ctx, "", "", spec.name, repo)
		},
	})
	return s, nil
}

func readCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s: there is no certificate in it", file)
	}
	return pool, nil
}

// spec is a registry as configuration and built-in table together say it.
type spec struct {
	name, owner       string
	aliases           []string
	origin            oci.Origin
	kind              auth.Type
	named             []*url.URL
	allowPrivate      []netip.Prefix
	tokenEndpoints    []string
	caFile            string
	uniform, fallback bool
	perObject         bool
	account           *config.Account
}

// specs lists every registry: the built-in ones as adjusted, the platform's
// others, and those that organisations brought.
func specs(cfg *config.Config) ([]*spec, error) {
	var all []*spec
	add := func(owner string, r auth.Registry, c *config.Registry) error {
		s, err := newSpec(owner, r, c)
		if err != nil {
			return fmt.Errorf("registry %s: %w", r.Name, err)
		}
		all = append(all, s)
		return nil
	}
	builtin := map[string]bool{}
	for _, r := range auth.Registries() {
		builtin[r.Name] = true
		var adjusted *config.Registry
		if c, ok := cfg.Registries[r.Name]; ok {
			adjusted = &c
		}
		if err := add("", r, adjusted); err != nil {
			return nil, err
		}
	}
	for name, c := range cfg.Registries {
		if builtin[name] {
			continue
		}
		if err := add("", auth.Registry{Name: name}, &c); err != nil {
			return nil, err
		}
	}
	for owner, o := range cfg.Organisations {
		for name, c := range o.Registries {
			if err := add(owner, auth.Registry{Name: name}, &c); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// newSpec lays c over what is built in. c may be nil.
func newSpec(owner string, r auth.Registry, c *config.Registry) (*spec, error) {
	s := &spec{name: r.Name, owner: owner, aliases: r.Aliases, tokenEndpoints: r.TokenEndpoints, uniform: r.UniformView, fallback: true}
	endpoint, kind := r.Endpoint, r.Type
	if c != nil {
		s.aliases = append(slices.Clone(s.aliases), c.Aliases...)
		s.tokenEndpoints = append(slices.Clone(s.tokenEndpoints), c.TokenEndpoints...)
		s.allowPrivate, s.caFile = c.AllowPrivate, c.CAFile
		s.perObject, s.fallback, s.account = c.Access == config.AccessObject, c.AnonymousFallback, c.Credential
		if c.UniformView != nil {
			s.uniform = *c.UniformView
		}
		if c.Endpoint != "" {
			endpoint = c.Endpoint
		}
		if c.Type != "" {
			kind = string(c.Type)
		}
	}
	s.kind, _ = auth.TypeNamed(kind) // the configuration was checked
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	s.origin = oci.Origin{Owner: owner, Scheme: u.Scheme, Host: originHost(u)}
	if owner == "" && c != nil && c.Endpoint != "" {
		s.named = append(s.named, u)
	}
	if owner == "" && c != nil {
		for _, e := range c.TokenEndpoints {
			if t, err := url.Parse(e); err == nil { // the configuration was checked
				s.named = append(s.named, t)
			}
		}
	}
	return s, nil
}

// originHost leaves the scheme's own port out, so that two spellings of one
// place are one origin.
func originHost(u *url.URL) string {
	if p := u.Port(); u.Scheme == "https" && p == "443" || u.Scheme == "http" && p == "80" {
		return u.Host[:len(u.Host)-len(p)-1]
	}
	return u.Host
}
