package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"berth/internal/admin"
	"berth/internal/diagnose"
	"berth/internal/node"
)

func diagnoseCommand(o *options) *cobra.Command {
	var a nodeFlags
	var r admin.DiagnoseRequest
	c := &cobra.Command{
		Use:   "diagnose IMAGE|REGISTRY|fleet",
		Short: "Find out why a pull fails, step by step",
		Long: `Walk the way of a pull to the registry, step by step, as an organisation: name, DNS,
connection, TLS, /v2/, challenge, realm, token, manifest, platform, first byte of a
layer, rate limit. The first step that fails says what is wrong and what to do.
Given a registry instead of an image, only the account is tested. Given "fleet",
what this node shares with others is: keys, bucket, coordinator, clock and rights. (An
image of that name is library/fleet.)

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
			if err := printAnswer(c, a.json, report, showReport); err != nil {
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
func (a *nodeFlags) diagnose(ctx context.Context, o *options, r admin.DiagnoseRequest) (*diagnose.Report, error) {
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
	return node.Diagnose(ctx, cfg, version(), r)
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
	case r.OK && r.Fleet:
		fmt.Fprintln(w, "this node can share")
	case r.Fleet:
		fmt.Fprintln(w, "this node shares nothing, or less than it could; pulls go on without")
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
	if r.Owner == "network" && r.Lasting {
		return "it does not pass by itself: whoever runs the registry, or this node, can mend it"
	}
	return owners[r.Owner]
}

// owners say who can mend a failure.
var owners = map[string]string{
	"tenant":   "the organisation can mend it",
	"network":  "possibly temporary",
	"operator": "whoever runs this node can mend it",
	"-":        "it was given up",
}
