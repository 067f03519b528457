package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/diagnose"
	"berth/proxy"
	"berth/upstream"

	"berth/auth/credential"
)

// Diagnose answers berth diagnose where no node runs, by the configuration alone.
// Version is what this program calls itself.
func Diagnose(ctx context.Context, cfg *config.Config, version string, r admin.DiagnoseRequest) (*diagnose.Report, error) {
	n := &node{
		version: version, started: cfg, log: slog.New(slog.DiscardHandler), now: time.Now, key: credential.NewKey(),
		upstream: upstream.NewMetrics(nil), pulls: proxy.NewMetrics(proxy.MetricsOptions{}),
	}
	d, err := n.newDesk(vetted(cfg, nil))
	if err != nil {
		return nil, err
	}
	defer d.lines.closeBut(nil)
	return d.diagnose(ctx, n, r)
}

// diagnose answers berth diagnose.
func (n *node) diagnose(ctx context.Context, r admin.DiagnoseRequest) (*diagnose.Report, error) {
	n.mu.Lock()
	d := n.desk
	n.mu.Unlock()
	return d.diagnose(ctx, n, r)
}

func (d *desk) diagnose(ctx context.Context, n *node, r admin.DiagnoseRequest) (*diagnose.Report, error) {
	if err := d.mayAsk(r.Organisation); err != nil {
		return nil, err
	}
	platform, err := wantedPlatform(r.Platform)
	if err != nil {
		return nil, err
	}
	s := diagnose.Subject{Organisation: r.Organisation, Platform: platform, Proxied: n.started.Upstream.Proxy != ""}
	site, err := d.locate(r.What, &s)
	if err != nil {
		return diagnose.NotBegun(s, diagnose.StepName, err), nil
	}
	if s.Credential, s.Note, err = d.accountFor(ctx, site, s, r.Account); err != nil {
		return diagnose.NotBegun(s, diagnose.StepAccount, err), nil
	}
	s.Line = func(tap *diagnose.Tap, m *upstream.Metrics) (*diagnose.Line, error) {
		return site.spec.tapped(n, tap, m)
	}
	report := diagnose.Run(ctx, s)
	if report.Taken { // pulls need not wait for what was held against it
		site.line.authority.Accepted(s.Credential)
	}
	return report, nil
}

// mayAsk says why organisation cannot be asked for.
func (d *desk) mayAsk(organisation string) error {
	if organisation == "" {
		return nil
	}
	if _, ok := d.cfg.Organisations[organisation]; ok {
		return nil
	}
	if _, ok := d.cfg.Broken[organisation]; ok {
		return &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("the configuration of organisation %s cannot be read: berth check says why", organisation)}
	}
	return &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %.100q in this configuration", organisation)}
}

// tapped is a line of its own, under the same rules as those that serve pulls.
func (s *spec) tapped(n *node, tap *diagnose.Tap, m *upstream.Metrics) (*diagnose.Line, error) {
	pem, err := readCAs(s.caFile)
	if err != nil {
		return nil, err
	}
	maker := lineMaker{
		version: n.version, limits: n.started.Upstream, log: slog.New(slog.DiscardHandler), upstream: m, now: time.Now, before: tap.Before,
	}
	l, err := maker.line(s, newWire(s, pem), pem)
	if err != nil {
		return nil, err
	}
	return &diagnose.Line{Registry: l.upstream, Authority: l.authority}, nil
}

// accountFor is as whom a pull would go, or what account says. Note says what a
// person should know about it.
func (d *desk) accountFor(ctx context.Context, at *site, s diagnose.Subject, account string) (cred *credential.Credential, note string, err error) {
	switch {
	case s.Organisation != "" && s.Repository == "":
		cred, err = d.credentials.Account(ctx, s.Organisation, account, at.name)
	case s.Organisation != "":
		cred, err = d.credentials.Lookup(ctx, s.Organisation, account, at.name, s.Repository)
	}
	if cred != nil || err != nil {
		return cred, "", err
	}
	if names := d.credentials.Accounts(s.Organisation, at.name); s.Organisation != "" && len(names) > 0 {
		note = fmt.Sprintf("the repositories of %s do not include %s", strings.Join(names, ", "), s.Repository)
	}
	cred, err = d.credentials.Lookup(ctx, "", "", at.name, s.Repository)
	return cred, note, err
}
