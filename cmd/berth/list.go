package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/admin"
)

func listCommand(o *options) *cobra.Command {
	var a asking
	c := &cobra.Command{
		Use:   "list",
		Short: "Show which images the running node keeps",
		Long: `Show which images the running node keeps: their tags when they were last asked, how
much of each is here, and when it was last used. Layers that images share count in
each of them. Being in this list gives nobody the right to an image.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			all, err := client.Images(c.Context())
			if err != nil {
				return err
			}
			return tell(c, a.json, all, showImages)
		},
	}
	a.flags(c)
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

// images answers berth list.
func (n *node) images(ctx context.Context) (admin.Images, error) {
	kept, err := n.cache.Images(ctx)
	if err != nil {
		return admin.Images{}, err
	}
	names := n.origins()
	all := admin.Images{Images: make([]admin.Image, 0, len(kept))}
	for _, i := range kept {
		registry, ok := names[i.Origin]
		if !ok {
			registry = formerly(i.Origin)
		}
		all.Images = append(all.Images, admin.Image{
			Registry: registry, Unconfigured: !ok, Repository: i.Repository, Tags: append([]string{}, i.Tags...), Digest: i.Digest.String(),
			Platform: i.Platform, Bytes: i.Size, TotalBytes: i.Of, LastUse: i.LastUse.UTC(),
		})
	}
	return all, nil
}

// formerly is the host of a registry that is not configured any more, as far as the
// folder of its images tells (oci.Origin.Dir).
func formerly(dir string) string {
	i := strings.LastIndexByte(dir, '-')
	if i <= 0 {
		return dir
	}
	host := dir[:i]
	if j := strings.LastIndexByte(host, '_'); j > 0 {
		if _, err := strconv.ParseUint(host[j+1:], 10, 16); err == nil {
			return host[:j] + ":" + host[j+1:]
		}
	}
	return host
}

// origins are the names of the registries by the folders of their images. One
// that an organisation brought has its name before it.
func (n *node) origins() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := map[string]string{}
	for _, s := range n.desk.sites {
		names[s.origin.Dir()] = s.name
		if s.owner != "" {
			names[s.origin.Dir()] = s.owner + "'s " + s.name
		}
	}
	return names
}
