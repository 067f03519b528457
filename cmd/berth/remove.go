package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"berth/internal/admin"
)

func removeCommand(o *options) *cobra.Command {
	var a nodeFlags
	var r admin.RemoveRequest
	c := &cobra.Command{
		Use:   "remove IMAGE|DIGEST | --org ORGANISATION",
		Short: "Delete what is kept of an image, or of an organisation",
		Long: `Delete what the running node keeps of an image: its manifests, and the layers that no
other image has. Pulls that run go on, and whoever may pull the image gets it from the
registry again.

IMAGE is a name as berth list prints it. Without a tag it is all of the repository;
ghcr.io/acme/* is all of that account. DIGEST is that of anything that is kept, a layer
with a secret in it for example: it goes even if other images have it too.

With --org: what only that organisation may pull, as far as its pulls of the last 30 days
tell, and what is from its own registries. It may have been taken out of the configuration
before; berth purge forgets what this goes by, so call it after this.`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r.Image = strings.Join(args, "")
			if (r.Image == "") == (r.Organisation == "") {
				return usageError{fmt.Errorf("name an image or a digest, or say --org ORGANISATION: see %s --help", c.CommandPath())}
			}
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			done, err := client.Remove(c.Context(), r)
			if err != nil {
				return err
			}
			return printAnswer(c, a.json, done, showRemoved)
		},
	}
	a.flags(c)
	organisationFlag(c, &r.Organisation, "the organisation")
	return c
}

func showRemoved(w io.Writer, r admin.Removal) {
	fmt.Fprintf(w, "removed %d manifests and %d blobs, %s are free\n", r.Manifests, r.Blobs, inBytes(r.FreedBytes))
	if r.SharedBlobs > 0 {
		fmt.Fprintf(w, "%d blobs stay: other images have them too\n", r.SharedBlobs)
	}
}
