package node

import (
	"context"
	"net/http"
	"sync"
	"time"

	"berth/auth/caller"
	"berth/cache"
	"berth/cache/proof"
	"berth/internal/config"
	"berth/internal/registry"
	"berth/oci"
	"berth/policy"
	"berth/proxy"
	"berth/upstream"

	"berth/auth/credential"
)

// generation is what one configuration makes of the node: its registries, who may
// call, as whom it asks, and a handler for each listener. A new configuration makes
// a new one; requests end at the generation they began at.
type generation struct {
	node        *node
	cfg         *config.Config
	registries  map[*registry.Spec]*liveRegistry
	clients     registryClients
	credentials *credential.Table
	router      *proxy.Router
	secrets     secrets
	settings    []config.Listener // in force, for each listener
	handlers    []http.Handler    // likewise

	accounts map[string]bool // organisation+account, as configured

	making  sync.RWMutex // guards sources
	sources map[sourceKey]oci.Source
}

// newGeneration makes that of cfg, with the clients and secrets of the one in force
// where they will do. On an error nothing has changed.
func (n *node) newGeneration(cfg *config.Config) (*generation, error) {
	g := &generation{node: n, cfg: cfg, accounts: accounts(cfg), registries: map[*registry.Spec]*liveRegistry{}, clients: registryClients{}, secrets: secrets{}, sources: map[sourceKey]oci.Source{}}
	if err := g.build(); err != nil {
		g.clients.closeAllBut(n.registryClients())
		return nil, err
	}
	return g, nil
}

func (g *generation) build() error {
	specs, err := g.cfg.Specs()
	if err != nil {
		return err
	}
	if g.credentials, err = g.newCredentials(specs); err != nil {
		return err
	}
	for _, spec := range specs {
		c, err := g.node.client(spec)
		if err != nil {
			return err
		}
		g.clients[keyOf(spec)] = c
		g.registries[spec] = g.newLiveRegistry(spec, c)
	}
	if g.router, err = newRouter(g.cfg, specs); err != nil {
		return err
	}
	return g.makeHandlers()
}

// makeHandlers makes one for each listener.
func (g *generation) makeHandlers() error {
	callers, err := newCallers(g.cfg, g.node.now)
	if err != nil {
		return err
	}
	g.settings = settings(g.node.listeners, g.cfg)
	for i, f := range g.node.listeners {
		l := &g.settings[i]
		if err := f.mayServe(l); err != nil {
			return err
		}
		o := proxy.Options{
			Router:  g.router,
			Sources: g.source,
			Accounts: func(organisation string, r *registry.Spec) []string {
				return g.credentials.Accounts(organisation, r.Name)
			},
			Organisation: l.Organisation,
			Naming:       proxy.Naming{Default: l.Registry, OrganisationRequired: l.OrganisationInName == config.InNameRequired},
			Names:        l.Names,
			Limiter:      g.node.requests,
			Memory:       g.node.memory,
			Logger:       g.node.log,
			Metrics:      g.node.pulls,
			Failures:     g.node.failures,
			Audit:        g.node.audit,
			Tracer:       g.node.tracing.tracer(),
		}
		if l.Callers == config.CallersToken {
			o.Callers = callers
		} else if _, in := g.cfg.Organisations[l.Organisation]; !in && l.Organisation != "" {
			o.Callers = unavailableTenant(l.Organisation)
		}
		g.handlers = append(g.handlers, proxy.New(o))
	}
	return nil
}

// sourceKey is which registry is asked, and as whom.
type sourceKey struct {
	registry              *liveRegistry
	organisation, account string
}

// source is a registry as caller may see it, through the policy and the cache. It is made once
// for each key that the configuration knows; a caller can write any account
// behind the plus sign, so those are not kept.
func (g *generation) source(caller caller.Caller, spec *registry.Spec) (oci.Source, error) {
	at := sourceKey{g.registries[spec], caller.Organisation, caller.Account}
	g.making.RLock()
	kept, ok := g.sources[at]
	g.making.RUnlock()
	if ok {
		return kept, nil
	}
	if at.registry == nil {
		live, err := g.live(caller.Organisation, spec)
		if err != nil {
			return nil, err
		}
		at.registry = live
		return g.newSource(at), nil
	}
	made := g.newSource(at)
	if caller.Account == "" || g.accounts[at.organisation+"+"+at.account] {
		g.making.Lock()
		defer g.making.Unlock()
		g.sources[at] = made
	}
	return made, nil
}

func (g *generation) newSource(at sourceKey) oci.Source {
	s := at.registry
	share := g.anonymousShare(at.organisation)
	cached := g.node.cache.Through(cache.Upstream{
		Spec:         s.spec,
		Organisation: at.organisation,
		As:           s.client.upstream.As(upstream.Identity{Organisation: at.organisation, Credential: at.credential}),
		Shared:       s.client.upstream.As(upstream.Identity{Payer: at.organisation, Credential: s.sharedCredential}),
		Without:      s.without(),
		Spend:        func() (undo func(), err error) { return s.client.upstream.Spend(at.organisation, share) },
		Scopes:       g.scopes(at),
		Mirrors:      s.client.mirrorSources(),
		Times:        g.times(at.organisation),
	})
	where := policy.At{Registry: s.spec.Name, Origin: s.spec.Origin.Dir(), Organisation: at.organisation}
	return policy.Around(cached, policyFor(g.cfg, at.organisation), where, g.node.cache.Proofs(), g.node.now)
}

// anonymousShare is what the organisation may use of the pulls without an account. Callers
// in none have the default share, beside organisations; alone they have all.
func (g *generation) anonymousShare(organisation string) float64 {
	if o, ok := g.cfg.Organisations[organisation]; ok {
		return o.Limits.AnonymousShare
	}
	if len(g.cfg.Organisations) == 0 {
		return 1
	}
	return config.UsualLimits().AnonymousShare
}

// times are the configuration's, with the organisation's own grace.
func (g *generation) times(organisation string) proof.Times {
	t := proof.Times{TagTTL: orNever(g.cfg.Cache.TagTTL), AccessTTL: orNever(g.cfg.Cache.AccessTTL), Grace: orNever(g.cfg.Cache.Grace), Doubt: orNever(g.cfg.Cache.Doubt)}
	if o, ok := g.cfg.Organisations[organisation]; ok {
		t.Grace = orNever(o.GraceIn(g.cfg))
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

// credential is what the organisation has for the repository, or else what the
// registry's entry has for everyone.
func (k sourceKey) credential(ctx context.Context, repo string) (*credential.Credential, error) {
	if k.organisation != "" {
		own, err := k.registry.credentials.Lookup(ctx, k.organisation, k.account, k.registry.spec.Name, repo)
		if own != nil || err != nil {
			return own, err
		}
	}
	return k.registry.sharedCredential(ctx, repo)
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
			one.Tokens = append(one.Tokens, caller.Token{Name: t.Name, SHA256: t.SHA256.String(), NotAfter: t.NotAfter, ForHeader: t.For == config.ForHeader})
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

// expect makes the zero series: who could fail where. Those of what has not changed
// since before are there.
func (g *generation) expect(m *proxy.Metrics, before *config.Config) {
	room := false // of organisations that are gone, for series that there was none for
	if before != nil {
		for name := range before.Organisations {
			room = room || !knows(g.cfg, name)
		}
	}
	for name, o := range g.cfg.Organisations {
		if !room && g.cfg.Same(name, before) {
			continue
		}
		for _, c := range o.Credentials {
			m.Expect(name, c.Registry)
		}
	}
	for i := range g.settings {
		l := &g.settings[i]
		if l.Callers == config.CallersToken {
			continue
		}
		for s := range g.registries {
			if s.Organisation == "" || s.Organisation == l.Organisation {
				m.Expect(l.Organisation, s.Name)
			}
		}
	}
}
