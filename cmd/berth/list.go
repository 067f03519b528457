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

func listCommand(o *options) *cobra.Command {
	var a nodeFlags
	var organisation string
	c := &cobra.Command{
		Use:   "list",
		Short: "Show which images the running node keeps",
		Long: `Show which images the running node keeps: their tags when they were last asked, how
much of each is here, and when it was last used, to the minute. Layers that images share count in
each of them: what berth remove frees may be less. Being in this list gives nobody the
right to an image.

With --org: what that organisation has pulled as itself in the last 30 days, and what is
from its own registries. Public images that it pulls without an account are nobody's.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			all, err := client.Images(c.Context(), organisation)
			if err != nil {
				return err
			}
			return printAnswer(c, a.json, all, showImages)
		},
	}
	a.flags(c)
	organisationFlag(c, &organisation, "only what this organisation has pulled as itself")
	return c
}

func showImages(w io.Writer, all admin.Images) {
	if len(all.Images) == 0 {
		fmt.Fprintln(w, "no images are kept")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tPLATFORM\tDIGEST\tSIZE\tLAST USE")
	for _, i := range all.Images {
		name := i.Registry + "/" + i.Repository
		if len(i.Tags) > 0 {
			name += ":" + strings.Join(i.Tags, ",")
		}
		if i.Unconfigured {
			name += " (from before: no registry of the configuration)"
		}
		platform, size := i.Platform, inBytes(i.Bytes)
		if platform == "" {
			platform = "-"
		}
		if i.Bytes < i.TotalBytes {
			size += " of " + inBytes(i.TotalBytes)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, platform, shortDigest(i.Digest), size, i.LastUse.Local().Format(time.DateTime))
	}
	_ = t.Flush() // it writes to memory
}
