package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/doctor"
	clientsetup "berth/internal/setup"
)

func doctorCommand(o *options) *cobra.Command {
	var a nodeFlags
	var organisation, file, socket string
	var canaries []string
	c := &cobra.Command{
		Use:   "doctor [" + strings.Join(doctor.Clients(), "|") + "]",
		Short: "Look whether this machine's clients pull through this node",
		Long: `Look at how the clients of this machine are configured: whether they pull through
this node for each registry, as whom, where they would go around it, and whether a
push would come to it. Nothing is changed. It exits with 1 if there is something to do.

Files say where a client should go. With --canary each client that can be told to is made
to pull a tag that nobody has, of a repository of yours, and the node is asked whether it
has seen that. It costs the registry one HEAD.

  sudo berth doctor
  sudo berth doctor --canary ghcr.io/acme/app
  sudo berth doctor docker --json`,
		ValidArgs: doctor.Clients(),
		Args:      usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if file != "" && len(args) == 0 {
				return usageError{errors.New("--file is one client's: name it")}
			}
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if organisation == "" {
				organisation = theOnly(cfg)
			}
			options := doctor.Options{Client: strings.Join(args, ""), Command: "berth" + o.again(), DockerSocket: socket}
			if options.Options, err = clientOptions(c, &a, o, cfg, organisation); err != nil {
				return err
			}
			options.File, options.Canaries = file, canaries
			options.Seen = func(ctx context.Context, client, registry, tag string) (bool, error) {
				return a.seen(ctx, o, admin.CanaryRequest{Client: client, Registry: registry, Tag: tag})
			}
			report, err := doctor.Look(c.Context(), options)
			if errors.Is(err, clientsetup.ErrUnknownClient) {
				return usageError{err}
			}
			if err == nil && !report.OK() {
				err = errSaid
			}
			return errors.Join(printAnswer(c, a.json, report, showDoctor), err)
		},
	}
	a.flags(c)
	organisationFlag(c, &organisation, "whose node this is (default: that of the only organisation)")
	c.Flags().StringVar(&file, "file", "", "the client's configuration (default where the client looks for it)")
	c.Flags().StringSliceVar(&canaries, "canary", nil, "a repository that each client shall be seen to ask this node for, as in ghcr.io/acme/app")
	c.Flags().StringVar(&socket, "docker-socket", "", "where dockerd answers (default /var/run/docker.sock)")
	return c
}

// seen says whether a canary came to the running node, which remembers those that did not.
func (a *nodeFlags) seen(ctx context.Context, o *options, canary admin.CanaryRequest) (bool, error) {
	client, err := a.client(o)
	if err != nil {
		return false, err
	}
	defer client.Close()
	answer, err := client.Canary(ctx, canary)
	return answer.Seen, err
}

// theOnly is the organisation whose node this is: there is one, and nobody pulls here
// without saying that it is for it.
func theOnly(cfg *config.Config) string {
	if len(cfg.Organisations) != 1 || slices.ContainsFunc(cfg.Listeners, func(l config.Listener) bool { return l.Callers == config.CallersOpen && l.Organisation == "" }) {
		return ""
	}
	return slices.Collect(maps.Keys(cfg.Organisations))[0]
}

func showDoctor(w io.Writer, r doctor.Report) {
	if len(r.Clients) == 0 {
		fmt.Fprintln(w, "there is no client on this machine that berth knows")
	}
	for _, c := range r.Clients {
		fmt.Fprintf(w, "%s %s\n", c.Name, strings.TrimSpace(c.Version+" "+c.Store))
		for _, way := range c.Ways {
			through := "around berth"
			if way.Through != "" {
				through = "through " + way.Through + " as " + way.Who
			}
			if len(way.Around) > 0 {
				through += ", to " + strings.Join(way.Around, ", ")
			}
			if way.Canary {
				through += " (seen)"
			}
			fmt.Fprintf(w, "  %-28s %s; pushes to %s\n", way.Registry, through, way.Push)
		}
		for _, f := range c.Findings {
			fmt.Fprintf(w, "! %s: %s\n", f.Problem, f.Message)
			if len(f.Registries) > 0 {
				fmt.Fprintf(w, "  registries: %s\n", strings.Join(f.Registries, ", "))
			}
			if f.File != "" {
				fmt.Fprintf(w, "  file: %s\n", f.File)
			}
			fmt.Fprintf(w, "  to do: %s\n", f.Cure)
			if f.Run != "" {
				fmt.Fprintf(w, "  %s\n", f.Run)
			}
		}
	}
}
