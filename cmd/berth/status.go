package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/admin"
)

func statusCommand(o *options) *cobra.Command {
	var a asking
	var ready bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the running node: listeners, configuration, cache",
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
			return tell(c, a.json, s, showStatus)
		},
	}
	a.flags(c)
	c.Flags().BoolVar(&ready, "ready", false, "only say by the exit code whether pulls are answered, for health checks")
	return c
}

func showStatus(w io.Writer, s admin.Status) {
	fmt.Fprintf(w, "berth %s, process %d, up for %s\n", s.Version, s.PID, time.Duration(s.UptimeSeconds)*time.Second)
	for _, l := range s.Listeners {
		showListener(w, l)
	}
	limit := "no limit"
	if s.Cache.LimitBytes > 0 {
		limit = "at most " + inBytes(s.Cache.LimitBytes)
	}
	fmt.Fprintf(w, "cache %s: %s, %s\n", s.Cache.Directory, inBytes(s.Cache.Bytes), limit)
	showConfiguration(w, s.Configuration.Reload)
}

func showListener(w io.Writer, l admin.Listener) {
	who := "everyone is nobody: public images only"
	switch {
	case l.Callers == "token":
		who = "callers prove who they are by token"
	case l.Organisation != "":
		who = "everyone is organisation " + l.Organisation
	}
	fmt.Fprintf(w, "listener %s (%s): %s", l.Address, strings.Join(l.Sockets, ", "), who)
	if l.CertificateEnds != nil {
		fmt.Fprintf(w, ", TLS with a certificate until %s", l.CertificateEnds.Format(time.DateOnly))
	}
	fmt.Fprintln(w)
}
