package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/admin"
)

func failuresCommand(o *options) *cobra.Command {
	var a nodeFlags
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
			return printAnswer(c, a.json, f, showFailures)
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
