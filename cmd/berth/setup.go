package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	clientsetup "berth/internal/setup"
)

func setupCommand(o *options) *cobra.Command {
	var a asking
	var f setupFlags
	c := &cobra.Command{
		Use:   "setup docker|containerd|podman|nerdctl|buildkit",
		Short: "Print what a client needs to pull through this node",
		Long: `Print the configuration that makes a client pull through this node: what to
write where, how to put it in force, and what it does not do.

  berth setup docker
  sudo berth setup docker --write      # merge it into /etc/docker/daemon.json
  sudo systemctl reload docker`,
		ValidArgs: clientsetup.Clients(),
		Args:      usage(oneClient),
		RunE: func(c *cobra.Command, args []string) error {
			if f.write && args[0] != "docker" {
				return usageError{errors.New("--write is for docker: the other clients' files are new ones, write them as they are printed")}
			}
			plan, err := f.plan(c, &a, o, args[0])
			if err != nil {
				return err
			}
			if f.write {
				return f.merge(c, a.json, plan)
			}
			return tell(c, a.json, plan.Plan, showPlan)
		},
	}
	a.flags(c)
	organisationFlag(c, &f.organisation, "who the client pulls as: it chooses the port, and stands in names where it must")
	c.Flags().BoolVar(&f.write, "write", false, "docker only: merge the keys into daemon.json, keeping the rest and a copy")
	c.Flags().StringVar(&f.file, "file", clientsetup.DaemonJSON, "where daemon.json is, with --write")
	return c
}

// oneClient takes the name of a client there is a plan for, and says which those are.
func oneClient(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("name a client: %s", strings.Join(clientsetup.Clients(), ", "))
	}
	if len(args) == 1 && slices.Contains(clientsetup.Clients(), args[0]) {
		return nil
	}
	return fmt.Errorf("%q is no client: name one of %s", strings.Join(args, " "), strings.Join(clientsetup.Clients(), ", "))
}

type setupFlags struct {
	organisation, file string
	write              bool
}

// planned is a plan with what it was made of.
type planned struct {
	clientsetup.Plan

	options clientsetup.Options
}

func (f *setupFlags) plan(c *cobra.Command, a *asking, o *options, client string) (planned, error) {
	cfg, err := o.load()
	if err != nil {
		return planned{}, err
	}
	if err := known(cfg, f.organisation); err != nil {
		return planned{}, err
	}
	ports, err := a.ports(c.Context(), o, cfg)
	if err != nil {
		return planned{}, err
	}
	registries, err := registriesOf(cfg, f.organisation)
	if err != nil {
		return planned{}, err
	}
	options := clientsetup.Options{Listeners: ports, Organisation: f.organisation, Registries: registries}
	plan, err := clientsetup.For(client, options)
	return planned{plan, options}, err
}

// merge writes Docker's file.
func (f *setupFlags) merge(c *cobra.Command, asJSON bool, p planned) error {
	keys := clientsetup.DockerKeys(p.options)
	w, err := clientsetup.WriteDaemonJSON(f.file, keys, time.Now())
	if err != nil {
		return err
	}
	return tell(c, asJSON, w, func(out io.Writer, w clientsetup.Written) {
		switch {
		case !w.Changed:
			fmt.Fprintf(out, "%s: nothing to change\n", w.Path)
		case w.Backup == "":
			fmt.Fprintf(out, "%s: written\n", w.Path)
		default:
			fmt.Fprintf(out, "%s: written; as it was: %s\n", w.Path, w.Backup)
		}
		for _, m := range w.OtherMirrors {
			if len(keys.Mirrors) == 0 {
				fmt.Fprintf(out, "berth sets no mirror where callers log in, and this one stays: %s: take it away if it is berth's\n", m)
				continue
			}
			fmt.Fprintf(out, "another mirror stays behind berth: %s\n", m)
		}
		if w.Changed {
			fmt.Fprintln(out, "now: systemctl reload docker (never restart: that stops the containers)")
		}
	})
}

func showPlan(w io.Writer, p clientsetup.Plan) {
	for _, f := range p.Files {
		what := "write"
		if f.Merge {
			what = "put into"
		}
		fmt.Fprintf(w, "# %s %s", what, f.Path)
		if f.When != "" {
			fmt.Fprintf(w, "\n# (%s)", f.When)
		}
		fmt.Fprintf(w, "\n\n%s\n", indented(f.Content))
	}
	if len(p.Then) > 0 {
		fmt.Fprintf(w, "# then\n\n%s\n", indented(strings.Join(p.Then, "\n")))
	}
	fmt.Fprintln(w, "# to know")
	for _, note := range p.Notes {
		fmt.Fprintf(w, "- %s\n", note)
	}
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			b.WriteString("    ")
		}
		b.WriteString(line)
	}
	if !strings.HasSuffix(text, "\n") {
		b.WriteByte('\n')
	}
	return b.String()
}
