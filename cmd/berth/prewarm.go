package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"berth/internal/admin"
)

func prewarmCommand(o *options) *cobra.Command {
	var a nodeFlags
	var r admin.PrewarmRequest
	c := &cobra.Command{
		Use:   "prewarm IMAGE...",
		Short: "Fetch images into the cache of the running node",
		Long: `Fetch images into the cache of the running node, as a pull would: as an organisation,
the image for one platform, and only what is not there yet. It ends with 1 if one of
them could not be fetched; the others are. At a terminal it shows how far it is, in a
pipe it says nothing but what went wrong.`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, images []string) error {
			client, err := a.client(o)
			if err != nil {
				return err
			}
			defer client.Close()
			failed := false
			for _, r.Image = range images {
				err := prewarm(c, client, r, a.json)
				if errors.Is(err, admin.ErrNotRunning) || errors.Is(err, admin.ErrNotPermitted) || c.Context().Err() != nil {
					return err
				}
				if err != nil {
					failed = true
					c.PrintErrf("berth: %s: %v\n", r.Image, err)
				}
			}
			if failed {
				return errSaid
			}
			return nil
		},
	}
	a.flags(c)
	organisationFlag(c, &r.Organisation, "as whom it is fetched; default: nobody, for public images")
	c.Flags().StringVar(&r.Account, "account", "", "the organisation's account to use (default: the one that fits best)")
	c.Flags().StringVar(&r.Platform, "platform", "", "such as linux/arm64 (default: the node's)")
	return c
}

// prewarmed is an image's end, in JSON.
type prewarmed struct {
	Image string `json:"image"`
	admin.Progress
}

func prewarm(c *cobra.Command, client *admin.Client, r admin.PrewarmRequest, asJSON bool) error {
	m := meter{to: c.ErrOrStderr(), name: r.Image}
	m.on = !asJSON && isTerminal(m.to)
	last, err := client.Prewarm(c.Context(), r, m.show)
	m.end(last, err)
	if asJSON {
		p := prewarmed{r.Image, last}
		if err != nil && p.Error == "" {
			p.Error = err.Error()
		}
		if werr := json.NewEncoder(c.OutOrStdout()).Encode(p); werr != nil {
			return werr
		}
	}
	return err
}

// isTerminal says whether a person sees what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// meter is one line on a terminal that says how far an image is.
type meter struct {
	to   io.Writer
	name string
	on   bool
}

const meterWidth = 30

func (m *meter) show(p admin.Progress) {
	if !m.on || p.Done {
		return
	}
	part := 0
	if p.Total > 0 {
		part = int(min(p.Bytes*meterWidth/p.Total, meterWidth))
	}
	// \r goes to the line's beginning, and \x1b[K clears the rest of it.
	fmt.Fprintf(m.to, "\r%s [%s%s] %s of %s\x1b[K", m.name, strings.Repeat("#", part), strings.Repeat(".", meterWidth-part), inBytes(p.Bytes), inBytes(p.Total))
}

func (m *meter) end(p admin.Progress, err error) {
	switch {
	case !m.on:
	case err != nil:
		fmt.Fprint(m.to, "\r\x1b[K") // the error says it
	case p.Fetched == 0:
		fmt.Fprintf(m.to, "\r%s: %s, all of it was here\x1b[K\n", m.name, inBytes(p.Total))
	default:
		fmt.Fprintf(m.to, "\r%s: %s, %s fetched\x1b[K\n", m.name, inBytes(p.Total), inBytes(p.Fetched))
	}
}
