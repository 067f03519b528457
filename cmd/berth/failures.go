package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/proxy"
)

func failuresCommand(o *options) *cobra.Command {
	var a asking
	var r admin.FailuresRequest
	c := &cobra.Command{
		Use:   "failures",
		Short: "Show which pulls failed on the running node, and why",
		Long: `Show the last failures of pulls, the latest first: who pulled what, the reason,
and the message that says what to do, also where the client hid it. Reasons are
those of berth_pull_failures_total, and wrong_platform: an image that is not built
for the client's platform. They are kept in memory, up to a hundred for each
organisation.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := admin.ParseSince(r.Since, time.Now()); err != nil {
				return usageError{fmt.Errorf("--%w", err)}
			}
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			f, err := client.Failures(c.Context(), r)
			if err != nil {
				return err
			}
			return tell(c, a.json, f, showFailures)
		},
	}
	a.flags(c)
	organisationFlag(c, &r.Organisation, `only this organisation's; "-": of those without one`)
	c.Flags().StringVar(&r.Since, "since", "", "only what failed since then: how long ago (90m), or a time (2026-11-23T18:00:00Z)")
	return c
}

func showFailures(w io.Writer, all admin.Failures) {
	if len(all.Failures) == 0 {
		fmt.Fprintln(w, "no failed pulls")
	}
	for _, f := range all.Failures {
		image := f.Image()
		if image == "" {
			image = "(no image)"
		}
		fmt.Fprintf(w, "%s  %s  %s  %s", f.Last.Local().Format(time.DateTime), f.Organisation, image, f.Class)
		if f.Count > 1 {
			fmt.Fprintf(w, "  %d times since %s", f.Count, f.First.Local().Format(time.DateTime))
		}
		fmt.Fprintf(w, "\n    %s [%s]\n", f.Message, f.RequestID)
	}
}

// lastFailures answers berth failures.
func (n *node) lastFailures(_ context.Context, r admin.FailuresRequest) (admin.Failures, error) {
	since, err := admin.ParseSince(r.Since, n.now())
	if err != nil {
		return admin.Failures{}, &admin.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	kept, err := n.failuresOf(r.Organisation, since)
	if err != nil {
		return admin.Failures{}, err
	}
	all := admin.Failures{Failures: make([]admin.Failure, 0, len(kept))}
	for i := range kept {
		all.Failures = append(all.Failures, shownFailure(&kept[i]))
	}
	return all, nil
}

func (n *node) failuresOf(organisation string, since time.Time) ([]proxy.Failure, error) {
	switch {
	case organisation == "":
		return n.failures.All(since), nil
	case organisation == admin.Nobody:
		return n.failures.Of("", since), nil
	case !config.ValidOrganisation(organisation) || !n.knows(organisation):
		return nil, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %.100q on this node: berth status lists them", organisation)}
	}
	return n.failures.Of(organisation, since), nil
}

func (n *node) knows(organisation string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return knows(n.cfg, organisation)
}

// knows says whether there is such an organisation, though it may be out.
func knows(cfg *config.Config, organisation string) bool {
	_, there := cfg.Organisations[organisation]
	_, broken := cfg.Broken[organisation]
	return there || broken
}

func shownFailure(f *proxy.Failure) admin.Failure {
	organisation := f.Organisation
	if organisation == "" {
		organisation = admin.Nobody
	}
	return admin.Failure{
		Organisation: organisation, Registry: f.Registry, Repository: f.Repository, Reference: f.Reference,
		Class: f.Class.String(), Owner: f.Class.Owner(),
		Message: f.Message, RequestID: f.RequestID, Client: f.Client,
		Count: f.Count, First: f.First, Last: f.Last,
	}
}
