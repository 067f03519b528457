package node

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"berth/internal/config"
	"berth/oci"
	"berth/proxy"
	"berth/upstream"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

// newLiveRegistry is a registry with the client that asks it.
func newLiveRegistry(s *registrySpec, l *registryClient, credentials *credential.Table) *liveRegistry {
	at := &liveRegistry{
		name: s.name, owner: s.owner, origin: s.origin, spec: s, client: l, credentials: credentials,
		uniform: s.uniform, fallback: s.uniform && s.fallback, perObject: s.perObject, keep: s.keep,
	}
	at.shared = l.upstream.As(upstream.Identity{Credential: at.sharedCredential})
	return at
}

// sharedCredential is what those without an account present for repo: this node's
// account there, unless that is of no use now and anonymous_fallback lets public
// images do without it.
func (s *liveRegistry) sharedCredential(ctx context.Context, repo string) (*credential.Credential, error) {
	cred, err := s.credentials.Lookup(ctx, "", "", s.name, repo)
	if !s.spec.fallback || ctx.Err() != nil || s.useless(cred, err) == nil {
		return cred, err
	}
	return nil, nil //nolint:nilnil // nobody is a credential too: the shared view
}

// useless is why an account that was looked up is of no use; nil: it is not.
func (s *liveRegistry) useless(cred *credential.Credential, err error) *oci.Error {
	if err != nil {
		return oci.AsError(err)
	}
	return s.client.authority.Refusal(cred)
}

// without says why the shared view does without this node's account; nil where it
// has none, or cannot do without.
func (s *liveRegistry) without() func(repo string) *oci.Error {
	if s.spec.account == nil || !s.spec.fallback {
		return nil
	}
	return func(repo string) *oci.Error {
		return s.useless(s.credentials.Lookup(context.Background(), "", "", s.name, repo))
	}
}

// maxCAs bounds a ca_file, in bytes: the system's whole store is 200 KiB.
const maxCAs = 4 << 20

// readCAs reads a ca_file; nil where there is none.
func readCAs(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := readBounded(file, maxCAs)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return pem, nil
}

// pool is what is in a ca_file; nil, which means the system's, for none.
func pool(file string, pem []byte) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	cas := x509.NewCertPool()
	if !cas.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s: there is no certificate in it", file)
	}
	return cas, nil
}

// registrySpec is a registry as configuration and built-in table together say it.
type registrySpec struct {
	name, owner       string
	aliases           []string
	origin            oci.Origin
	kind              dialect.Type
	named             []*url.URL
	allowPrivate      []netip.Prefix
	tokenEndpoints    []string
	caFile            string
	uniform, fallback bool
	perObject, keep   bool
	mirrors           []*url.URL
	account           *config.Account
}

// registrySpecs lists every registry: the built-in ones as adjusted, the platform's
// others, and those that organisations brought.
func registrySpecs(cfg *config.Config) ([]*registrySpec, error) {
	var all []*registrySpec
	add := func(owner string, r dialect.Registry, c *config.Registry) error {
		s, err := newRegistrySpec(owner, r, c)
		if err != nil {
			return fmt.Errorf("registry %s: %w", r.Name, err)
		}
		all = append(all, s)
		return nil
	}
	builtin := map[string]bool{}
	for _, r := range dialect.Registries() {
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
		if err := add("", dialect.Registry{Name: name}, &c); err != nil {
			return nil, err
		}
	}
	for owner, o := range cfg.Organisations {
		for name, c := range o.Registries {
			if err := add(owner, dialect.Registry{Name: name}, &c); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// entry is the registry in the table of names.
func (s *registrySpec) entry(at *liveRegistry) proxy.Registry {
	return proxy.Registry{Name: s.name, Aliases: s.aliases, Organisation: s.owner, Library: s.name == oci.DockerHub, Value: at}
}

// newRegistrySpec lays c over what is built in. c may be nil.
func newRegistrySpec(owner string, r dialect.Registry, c *config.Registry) (*registrySpec, error) {
	s := &registrySpec{name: r.Name, owner: owner, aliases: r.Aliases, tokenEndpoints: r.TokenEndpoints, uniform: r.UniformView, fallback: true}
	endpoint, kind := r.Endpoint, r.Type
	if c != nil {
		s.aliases = append(slices.Clone(s.aliases), c.Aliases...)
		s.tokenEndpoints = append(slices.Clone(s.tokenEndpoints), c.TokenEndpoints...)
		s.allowPrivate, s.caFile = c.AllowPrivate, c.CAFile
		s.keep = c.OnNotFound == config.Keep
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
	s.kind, _ = dialect.TypeNamed(kind) // the configuration was checked
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	s.origin = oci.Origin{Owner: owner, Scheme: u.Scheme, Host: originHost(u)}
	if c != nil {
		if s.mirrors, err = parseMirrors(c.Mirrors); err != nil {
			return nil, err
		}
	}
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

func parseMirrors(mirrors []config.Mirror) ([]*url.URL, error) {
	all := make([]*url.URL, 0, len(mirrors))
	for _, m := range mirrors {
		u, err := url.Parse(m.URL)
		if err != nil {
			return nil, fmt.Errorf("mirrors: %w", err)
		}
		all = append(all, u)
	}
	return all, nil
}

// mirror is a registry's mirror as a registry of its own: nobody's account, its
// own connections and breaker, and tokens from itself alone.
func (s *registrySpec) mirror(u *url.URL) *registrySpec {
	m := &registrySpec{
		name: u.Host, owner: s.owner, origin: oci.Origin{Owner: s.owner, Scheme: u.Scheme, Host: originHost(u)},
		allowPrivate: s.allowPrivate, caFile: s.caFile,
	}
	m.kind, _ = dialect.TypeNamed(dialect.Generic)
	if s.owner == "" {
		m.named = []*url.URL{u}
	}
	return m
}

// originHost leaves the scheme's own port out, so that two spellings of one
// place are one origin.
func originHost(u *url.URL) string {
	if p := u.Port(); u.Scheme == "https" && p == "443" || u.Scheme == "http" && p == "80" {
		return u.Host[:len(u.Host)-len(p)-1]
	}
	return u.Host
}
