package node

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"berth/auth/caller"
	"berth/cache"
	"berth/cache/proof"
	"berth/internal/config"
	"berth/oci"
	"berth/proxy"
	"berth/upstream"

	"berth/auth/credential"
)

// desk is what one configuration makes of the node: its registries, who may
// call, as whom it asks, and a handler for each front. A new configuration makes
// a new one; requests end at the desk they began at.
type desk struct {
	cfg         *config.Config
	sites       []*site
	lines       lines
	credentials *credential.Table
	router      *proxy.Router
	secrets     secrets
	settings    []config.Listener // in force, for each front
	handlers    []http.Handler    // likewise

	sources  sync.Map        // seat to oci.Source
	accounts map[string]bool // organisation+account, as configured
}

// site is one registry as it is reached from here.
type site struct {
	name              string
	owner             string // the organisation that brought it, or empty
	origin            oci.Origin
	spec              *spec
	line              *line
	shared            oci.Source
	credentials       *credential.Table
	uniform, fallback bool
	perObject, keep   bool
}

// newDesk makes the desk of cfg, with the lines and secrets of the one in force
// where they will do. On an error nothing has changed.
func (n *node) newDesk(cfg *config.Config) (*desk, error) {
	d := &desk{cfg: cfg, accounts: accounts(cfg), lines: lines{}, secrets: secrets{}}
	if err := d.furnish(n); err != nil {
		d.lines.closeBut(n.lines())
		return nil, err
	}
	return d, nil
}

func (d *desk) furnish(n *node) error {
	specs, err := specs(d.cfg)
	if err != nil {
		return err
	}
	if d.credentials, err = d.newCredentials(n, specs); err != nil {
		return err
	}
	var named []proxy.Registry
	for _, spec := range specs {
		l, err := n.line(spec)
		if err != nil {
			return fmt.Errorf("registry %s: %w", spec.name, err)
		}
		s := newSite(spec, l, d.credentials)
		d.lines[place{spec.owner, spec.name}] = l
		d.sites = append(d.sites, s)
		named = append(named, spec.entry(s))
	}
	router, err := proxy.NewRouter(named)
	if err != nil {
		return err
	}
	return d.open(n, router)
}

// open makes the handlers.
func (d *desk) open(n *node, router *proxy.Router) error {
	d.router = router
	callers, err := newCallers(d.cfg, n.now)
	if err != nil {
		return err
	}
	d.settings = settings(n.fronts, d.cfg)
	for i, f := range n.fronts {
		l := &d.settings[i]
		if err := f.mayServe(l); err != nil {
			return err
		}
		o := proxy.Options{
			Router: router,
			Sources: func(_ context.Context, c caller.Caller, r *proxy.Registry) (oci.Source, error) {
				return d.source(n.cache, c, r)
			},
			Organisation: l.Organisation,
			Naming:       proxy.Naming{Default: l.Registry, OrganisationRequired: l.OrganisationInName == config.InNameRequired},
			Names:        l.Names,
			Limiter:      n.limits,
			Logger:       n.log,
			Metrics:      n.pulls,
			Failures:     n.failures,
		}
		if l.Callers == config.CallersToken {
			o.Callers = callers
		} else if _, in := d.cfg.Organisations[l.Organisation]; !in && l.Organisation != "" {
			o.Callers = out(l.Organisation)
		}
		d.handlers = append(d.handlers, proxy.New(o))
	}
	return nil
}

// seat is as whom a site is asked.
type seat struct {
	site                  *site
	organisation, account string
}

// source is a registry as caller may see it, through the cache. It is made once
// for each seat that the configuration knows; a caller can write any account
// behind the plus sign, so those are not kept.
func (d *desk) source(c *cache.Cache, caller caller.Caller, r *proxy.Registry) (oci.Source, error) {
	s, ok := r.Value.(*site)
	if !ok {
		return nil, fmt.Errorf("registry %s has no site", r.Name)
	}
	at := seat{s, caller.Organisation, caller.Account}
	kept, _ := d.sources.Load(at)
	if source, ok := kept.(oci.Source); ok {
		return source, nil
	}
	made := d.newSource(c, at)
	if caller.Account == "" || d.accounts[at.organisation+"+"+at.account] {
		d.sources.Store(at, made)
	}
	return made, nil
}

func (d *desk) newSource(c *cache.Cache, at seat) oci.Source {
	s := at.site
	share := d.cfg.Organisations[at.organisation].Limits.AnonymousShare
	u := cache.Upstream{
		Name: s.name, Organisation: at.organisation, Origin: s.origin, PerObject: s.perObject,
		Shared: s.shared, Uniform: s.uniform,
		Mirrors: s.line.mirrorSources(), KeepMissing: s.keep,
		AnonymousFallback: s.fallback, Without: s.without(), Times: d.times(at.organisation),
		Spend: func() (undo func(), err error) { return s.line.upstream.Spend(at.organisation, share) },
		As: s.line.upstream.As(upstream.Identity{
			Organisation: at.organisation,
			Credential: func(ctx context.Context, repo string) (*credential.Credential, error) {
				return d.credential(ctx, at, repo)
			},
		}),
	}
	return c.Through(u)
}

// times are the configuration's, with the organisation's own grace.
func (d *desk) times(organisation string) proof.Times {
	t := proof.Times{TagTTL: orNever(d.cfg.Cache.TagTTL), AccessTTL: orNever(d.cfg.Cache.AccessTTL), Grace: orNever(d.cfg.Cache.Grace), Doubt: orNever(d.cfg.Cache.Doubt)}
	if o, ok := d.cfg.Organisations[organisation]; ok {
		t.Grace = orNever(o.Grace)
	}
	return t
}

// orNever translates the configuration's 0s, which facts take for "the default".
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// credential is what the seat has for the repository, or else what the
// registry's entry has for everyone.
func (d *desk) credential(ctx context.Context, at seat, repo string) (*credential.Credential, error) {
	if at.organisation != "" {
		own, err := d.credentials.Lookup(ctx, at.organisation, at.account, at.site.name, repo)
		if own != nil || err != nil {
			return own, err
		}
	}
	return at.site.sharedCredential(ctx, repo)
}

func accounts(cfg *config.Config) map[string]bool {
	all := map[string]bool{}
	for name, o := range cfg.Organisations {
		for _, c := range o.Credentials {
			all[name+"+"+c.Name] = true
		}
	}
	return all
}

func newCallers(cfg *config.Config, now func() time.Time) (*caller.Table, error) {
	var all []caller.Organisation
	for name, o := range cfg.Organisations {
		one := caller.Organisation{Name: name}
		for _, t := range o.Tokens {
			one.Tokens = append(one.Tokens, caller.Token{Name: t.Name, SHA256: t.SHA256.String(), NotAfter: t.NotAfter})
		}
		all = append(all, one)
	}
	for name := range cfg.Broken {
		if _, kept := cfg.Organisations[name]; !kept {
			all = append(all, caller.Organisation{Name: name, Broken: true})
		}
	}
	return caller.NewTable(all, now)
}

// expect makes the zero series: who could fail where.
func (d *desk) expect(m *proxy.Metrics) {
	for name, o := range d.cfg.Organisations {
		for _, c := range o.Credentials {
			m.Expect(name, c.Registry)
		}
	}
	for i := range d.settings {
		l := &d.settings[i]
		if l.Callers == config.CallersToken {
			continue
		}
		for _, s := range d.sites {
			if s.owner == "" || s.owner == l.Organisation {
				m.Expect(l.Organisation, s.name)
			}
		}
	}
}
