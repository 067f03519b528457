package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/diagnose"
	"berth/internal/registry"
	"berth/proxy"
	"berth/upstream"

	"berth/auth/credential"
)

// Diagnose answers berth diagnose where no node runs, by the configuration alone.
// Version is what this program calls itself.
func Diagnose(ctx context.Context, cfg *config.Config, version string, r admin.DiagnoseRequest) (*diagnose.Report, error) {
	n := &node{
		setup:   setup{version: version, log: slog.New(slog.DiscardHandler), now: time.Now},
		started: cfg, key: credential.NewKey(),
		upstream: upstream.NewMetrics(nil), pulls: proxy.NewMetrics(proxy.MetricsOptions{}),
	}
	g, err := n.newGeneration(n.withoutBadDropIns(cfg, nil))
	if err != nil {
		return nil, err
	}
	defer g.clients.closeAllBut(nil)
	defer n.unlisted.close()
	return g.diagnose(ctx, r)
}

// diagnose answers berth diagnose.
func (n *node) diagnose(ctx context.Context, r admin.DiagnoseRequest) (*diagnose.Report, error) {
	n.mu.Lock()
	g := n.current
	n.mu.Unlock()
	return g.diagnose(ctx, r)
}

func (g *generation) diagnose(ctx context.Context, r admin.DiagnoseRequest) (*diagnose.Report, error) {
	if r.What == admin.DiagnoseFleet {
		return g.diagnoseFleet(ctx)
	}
	if err := g.mayAsk(r.Organisation); err != nil {
		return nil, err
	}
	platform, err := wantedPlatform(r.Platform)
	if err != nil {
		return nil, err
	}
	s := diagnose.Subject{Organisation: r.Organisation, Platform: platform, Proxied: g.node.started.Upstream.Proxy != ""}
	live, err := g.locate(r.What, &s)
	if err != nil {
		return diagnose.NotBegun(s, diagnose.StepName, err), nil
	}
	if s.Credential, s.Others, err = g.accountFor(ctx, live.spec, s, r.Account); err != nil {
		return diagnose.NotBegun(s, diagnose.StepAccount, err), nil
	}
	s.Connect = func(tap *diagnose.Tap, m *upstream.Metrics) (*upstream.Registry, error) {
		return g.node.tapped(live.spec, tap, m)
	}
	report := diagnose.Run(ctx, s)
	if !report.OK && s.Organisation == "" && s.Credential == nil && len(g.cfg.Organisations) > 0 {
		report.Hints = append(report.Hints, "this was asked as nobody: add --org ORGANISATION to ask with its account")
	}
	if report.Taken { // pulls need not wait for what was held against it
		live.client.upstream.Authority().Accepted(s.Credential)
	}
	return report, nil
}

// mayAsk says why organisation cannot be asked for.
func (g *generation) mayAsk(organisation string) error {
	if organisation == "" {
		return nil
	}
	if _, ok := g.cfg.Organisations[organisation]; ok {
		return nil
	}
	if _, ok := g.cfg.Broken[organisation]; ok {
		return &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("the configuration of organisation %s cannot be read: berth check says why", organisation)}
	}
	return &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %.100q in this configuration", organisation)}
}

// tapped is a client of its own, under the same rules as those that serve pulls.
func (n *node) tapped(s *registry.Spec, tap *diagnose.Tap, m *upstream.Metrics) (*upstream.Registry, error) {
	pem, err := n.readCAs(s.CAFile)
	if err != nil {
		return nil, err
	}
	maker := clientMaker{
		version: n.version, limits: n.started.Upstream, log: slog.New(slog.DiscardHandler), upstream: m, hosts: n.hosts, now: time.Now, before: tap.Before,
	}
	r, err := maker.open(s, pem)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", s.Name, err)
	}
	return r, nil
}

// accountFor is as whom a pull would go, or what account says. others are accounts that
// the organisation has for other repositories alone.
func (g *generation) accountFor(ctx context.Context, at *registry.Spec, s diagnose.Subject, account string) (cred *credential.Credential, others []string, err error) {
	switch {
	case s.Organisation != "" && s.Repository == "":
		cred, err = g.credentials.Account(ctx, s.Organisation, account, at.Name)
	case s.Organisation != "":
		cred, err = g.credentials.Lookup(ctx, s.Organisation, account, at.Name, s.Repository)
	}
	if cred != nil || err != nil {
		return cred, nil, err
	}
	if s.Organisation != "" {
		others = g.credentials.Accounts(s.Organisation, at.Name)
	}
	cred, err = g.credentials.Lookup(ctx, "", "", at.Name, s.Repository)
	return cred, others, err
}
