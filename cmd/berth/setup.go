package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/node"
	clientsetup "berth/internal/setup"
)

func setupCommand(o *options) *cobra.Command {
	var a nodeFlags
	var f setupFlags
	c := &cobra.Command{
		Use:   "setup docker|containerd|podman|nerdctl|buildkit",
		Short: "Print what a client needs to pull through this node",
		Long: `Print the configuration that makes a client pull through this node: what to
write where, how to put it in force, and what it does not do.

  berth setup docker
  sudo berth setup docker --write      # merge it into /etc/docker/daemon.json
  sudo systemctl reload docker
  sudo berth setup podman --write      # write a file of berth's own`,
		ValidArgs: clientsetup.Clients(),
		Args:      usage(oneClient),
		RunE: func(c *cobra.Command, args []string) error {
			if f.write && args[0] != "docker" && args[0] != "podman" {
				return usageError{errors.New("--write is for docker and podman: write the other clients' files as they are printed")}
			}
			plan, err := f.plan(c, &a, o, args[0])
			if err != nil {
				return err
			}
			switch {
			case f.write && args[0] == "podman":
				return f.replace(c, a.json, plan)
			case f.write:
				return f.merge(c, a.json, plan)
			}
			return printAnswer(c, a.json, plan.Plan, showPlan)
		},
	}
	a.flags(c)
	organisationFlag(c, &f.organisation, "who the client pulls as: it chooses the port, and stands in names where it must")
	c.Flags().BoolVar(&f.write, "write", false, "docker: merge the keys into daemon.json, keeping the rest; podman: write berth's file; a copy of what was there stays")
	c.Flags().StringVar(&f.file, "file", "", "where that file is, with --write (default "+clientsetup.DaemonJSON+", "+clientsetup.PodmanConf+")")
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

func (f *setupFlags) plan(c *cobra.Command, a *nodeFlags, o *options, client string) (planned, error) {
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
	registries, err := node.Registries(cfg, f.organisation)
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
	w, err := clientsetup.WriteDaemonJSON(cmp.Or(f.file, clientsetup.DaemonJSON), keys, time.Now())
	if err != nil {
		return err
	}
	return printAnswer(c, asJSON, w, func(out io.Writer, w clientsetup.Written) {
		showWritten(out, w)
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

// replace writes podman's file.
func (f *setupFlags) replace(c *cobra.Command, asJSON bool, p planned) error {
	file := p.Files[0]
	w, err := clientsetup.WriteFile(cmp.Or(f.file, file.Path), file.Content, time.Now())
	if err != nil {
		return err
	}
	return printAnswer(c, asJSON, w, func(out io.Writer, w clientsetup.Written) {
		showWritten(out, w)
		for _, note := range p.Notes {
			fmt.Fprintf(out, "- %s\n", note)
		}
	})
}

func showWritten(out io.Writer, w clientsetup.Written) {
	switch {
	case !w.Changed:
		fmt.Fprintf(out, "%s: nothing to change\n", w.Path)
	case w.Backup == "":
		fmt.Fprintf(out, "%s: written\n", w.Path)
	default:
		fmt.Fprintf(out, "%s: written; as it was: %s\n", w.Path, w.Backup)
	}
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
