package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/auth"
	"berth/internal/admin"
	"berth/internal/diagnose"
	"berth/proxy"
	"berth/upstream"
)

func diagnoseCommand(o *options) *cobra.Command {
	var a asking
	var r admin.DiagnoseRequest
	c := &cobra.Command{
		Use:   "diagnose IMAGE|REGISTRY",
		Short: "Find out why a pull fails, step by step",
		Long: `Walk the way of a pull to the registry, step by step, as an organisation: name, DNS,
connection, TLS, /v2/, challenge, realm, token, manifest, platform, first byte of a
layer, rate limit. The first step that fails says what is wrong and what to do.
Given a registry instead of an image, only the account is tested.

The running node does it, or else this command by itself, with the configuration.
Nothing comes from the cache or from what is remembered about refusals: the registry
is asked, which for an image at Docker Hub counts as up to two pulls.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r.What = args[0]
			report, err := a.diagnose(c.Context(), o, r)
			if err != nil {
				return err
			}
			if err := tell(c, a.json, report, showReport); err != nil {
				return err
			}
			if !report.OK {
				return errSaid
			}
			return nil
		},
	}
	a.flags(c)
	organisationFlag(c, &r.Organisation, "as this organisation")
	c.Flags().StringVar(&r.Account, "account", "", "with this account, and not the one that a pull would use")
	c.Flags().StringVar(&r.Platform, "platform", "", "what the image should run on, such as linux/arm64 (default: this node's)")
	return c
}

// diagnose asks the running node, which can read the secrets, and does it itself
// where there is none to ask.
func (a *asking) diagnose(ctx context.Context, o *options, r admin.DiagnoseRequest) (*diagnose.Report, error) {
	client, err := a.client(o)
	if err == nil {
		defer client.Close()
		report, err := client.Diagnose(ctx, r)
		if a.socket != "" || !errors.Is(err, admin.ErrNotRunning) && !errors.Is(err, admin.ErrNotPermitted) {
			return report, err
		}
	}
	cfg, err := o.load()
	if err != nil {
		return nil, err
	}
	n := &node{
		started: cfg, log: slog.New(slog.DiscardHandler), now: time.Now, key: auth.NewKey(),
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
	return diagnose.Run(ctx, s), nil
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
		limits: n.started.Upstream, log: slog.New(slog.DiscardHandler), upstream: m, now: time.Now, before: tap.Before,
	}
	l, err := maker.line(s, newWire(s, pem), pem)
	if err != nil {
		return nil, err
	}
	return &diagnose.Line{Registry: l.upstream, Authority: l.authority}, nil
}

// accountFor is as whom a pull would go, or what account says. Note says what a
// person should know about it.
func (d *desk) accountFor(ctx context.Context, at *site, s diagnose.Subject, account string) (cred *auth.Credential, note string, err error) {
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

func showReport(w io.Writer, r *diagnose.Report) {
	for _, s := range r.Steps {
		took := ""
		if s.Milliseconds > 0 {
			took = fmt.Sprintf("%.0f ms", s.Milliseconds)
		}
		fmt.Fprintf(w, "%-10s %-8s %8s  %s\n", s.Name, s.State, took, s.Detail)
	}
	for _, h := range r.Hints {
		fmt.Fprintf(w, "hint: %s\n", h)
	}
	switch {
	case r.OK && r.Repository != "":
		fmt.Fprintln(w, "this pull works")
	case r.OK:
		fmt.Fprintln(w, "this registry can be asked")
	case r.Class != "":
		fmt.Fprintf(w, "this fails: %s (%s)\n", r.Class, whoMends(r))
	}
}

// whoMends says who can mend what failed. The node's own account is not an
// organisation's.
func whoMends(r *diagnose.Report) string {
	if r.Owner == "tenant" && r.Organisation == "" {
		return "whoever pulls, or runs this node, can mend it"
	}
	return owners[r.Owner]
}

// owners say who can mend a failure.
var owners = map[string]string{
	"tenant":   "the organisation can mend it",
	"network":  "it may pass by itself",
	"operator": "whoever runs this node can mend it",
	"-":        "it was given up",
}
