package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/admin"
)

func statusCommand(o *options) *cobra.Command {
	var a nodeFlags
	var ready bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the running node: what it saved, what needs attention, accounts, listeners, cache",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			if ready {
				return client.Ready(c.Context())
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			return printAnswer(c, a.json, s, showStatus)
		},
	}
	a.flags(c)
	c.Flags().BoolVar(&ready, "ready", false, "only say by the exit code whether pulls are answered, for health checks")
	return c
}

func showStatus(w io.Writer, s admin.Status) {
	fmt.Fprintf(w, "%d pulls served, %d charged to Docker Hub, %s saved\n", s.Pulls.Served, s.Pulls.ChargedDockerHub, inBytes(int64(s.Pulls.SavedBytes)))
	fmt.Fprintf(w, "berth %s, process %d, up for %s\n", s.Version, s.PID, time.Duration(s.UptimeSeconds)*time.Second)
	showProblems(w, s.Problems())
	fmt.Fprintln(w)
	for _, l := range s.Listeners {
		showListener(w, l)
	}
	showCache(w, s.Cache)
	if s.Fleet != nil {
		fmt.Fprintf(w, "fleet: %s in zone %s\n", s.Fleet.Node, s.Fleet.Zone)
	}
	showConfiguration(w, s.Configuration.Reload)
	showAccounts(w, s.Accounts)
	showFills(w, s.Fills)
	for _, wait := range s.Waiting {
		fmt.Fprintf(w, "waiting: %d requests of %s to %s\n", wait.Requests, nameOf(wait.Organisation), wait.Host)
	}
	showHeld(w, s.Held)
	showClients(w, &s)
	if len(s.Failures) > 0 {
		fmt.Fprintln(w, "\nlast failures (berth failures shows more)")
		showFailures(w, admin.Failures{Failures: s.Failures})
	}
}

func showProblems(w io.Writer, all []admin.Problem) {
	for _, p := range all {
		mark := "?"
		if p.Bad {
			mark = "!"
		}
		fmt.Fprintf(w, "%s %s\n", mark, p.Text)
	}
}

func showListener(w io.Writer, l admin.Listener) {
	who := "nobody has to log in: public images only"
	switch {
	case l.Callers == "token":
		who = "callers prove who they are by token"
	case l.Organisation != "":
		who = "nobody has to log in: everyone pulls as organisation " + l.Organisation
	}
	fmt.Fprintf(w, "listener %s (%s): %s", l.Address, strings.Join(l.Sockets, ", "), who)
	if l.CertificateEnds != nil {
		fmt.Fprintf(w, ", TLS with a certificate until %s", l.CertificateEnds.Format(time.DateOnly))
	}
	fmt.Fprintln(w)
}

func showCache(w io.Writer, c admin.Cache) {
	limit := "no limit"
	switch {
	case c.PastDisk != nil && c.PastDisk.Reason == "unusable":
		limit = "not in use"
	case c.LimitBytes > 0:
		limit = "at most " + inBytes(c.LimitBytes)
	}
	fmt.Fprintf(w, "cache %s: %s, %s", c.Directory, inBytes(c.Bytes), limit)
	if c.DiskBytes > 0 {
		fmt.Fprintf(w, ", disk %s with %s free", inBytes(c.DiskBytes), inBytes(c.FreeBytes))
	}
	if p := c.PastDisk; p != nil && p.Reason == "inodes" && c.FreeFiles != nil {
		fmt.Fprintf(w, " and %d free inodes", *c.FreeFiles)
	}
	fmt.Fprintln(w)
	if p := c.PastDisk; p != nil && p.Error != "" {
		fmt.Fprintf(w, "pulls go past the disk: %s\n", p.Error)
	}
}

func showAccounts(w io.Writer, all []admin.Account) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ORGANISATION\tREGISTRY\tACCOUNT\tSTATE\tPULLS LEFT")
	for _, a := range all {
		left := "-"
		switch {
		case a.RateLeft != nil && a.RateLimit != nil:
			left = fmt.Sprintf("%d of %d", *a.RateLeft, *a.RateLimit)
		case a.RateLeft != nil:
			left = fmt.Sprint(*a.RateLeft)
		}
		if a.RateRefills != nil {
			left += ", more at " + a.RateRefills.Local().Format(time.TimeOnly)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", a.Organisation, a.Registry, a.Name, stateOf(a), left)
	}
	_ = t.Flush() // it writes to memory
	for _, a := range all {
		if a.SecretError != "" {
			fmt.Fprintf(w, "account %s of %s for %s: %s\n", a.Name, owner(a), a.Registry, a.SecretError)
		}
	}
}

func owner(a admin.Account) string {
	if a.Organisation == admin.Nobody {
		return "the node itself"
	}
	return a.Organisation
}

func stateOf(a admin.Account) string {
	state := a.State.Text()
	if a.CoolDownUntil != nil {
		state += " until " + a.CoolDownUntil.Local().Format(time.TimeOnly)
	}
	return state
}

func showFills(w io.Writer, all []admin.Fill) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w)
	for _, f := range all {
		size := "?"
		if f.Size >= 0 {
			size = inBytes(f.Size)
		}
		fmt.Fprintf(w, "fetching %s/%s@%s: %s of %s, read by %d\n", f.Registry, f.Repository, shortDigest(f.Digest), inBytes(f.Bytes), size, f.Readers)
	}
}

func showHeld(w io.Writer, all []admin.Held) {
	for i, h := range all {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "held until %s: %s serves %s for %s, not %s\n",
			h.Until.Local().Format(time.DateTime), h.Image, shortDigest(h.Serves), nameOf(h.Organisation), shortDigest(h.New))
	}
}

func nameOf(organisation string) string {
	if organisation == admin.Nobody {
		return "callers without an organisation"
	}
	return organisation
}

// shortDigest is enough of one to find it in a list.
func shortDigest(d string) string { return d[:min(len(d), len("sha256:")+12)] }

func showClients(w io.Writer, s *admin.Status) {
	if len(s.Clients) == 0 {
		fmt.Fprintln(w, "\nnobody has pulled since the start")
		return
	}
	fmt.Fprintln(w)
	for _, c := range s.Clients {
		fmt.Fprintf(w, "last pull by %s: %s ago\n", c.Client, s.Now.Sub(c.Last).Round(time.Second))
	}
}
