package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/config"
	"berth/internal/node"
	clientsetup "berth/internal/setup"
)

func setupCommand(o *options) *cobra.Command {
	var a nodeFlags
	var f setupFlags
	c := &cobra.Command{
		Use:   "setup " + strings.Join(clientsetup.Clients(), "|"),
		Short: "Lead a client through this node, or say what that takes",
		Long: `Print the configuration that makes a client pull through this node: what to
write where, how to put it in force, and what it does not do. With --write it is
merged into the client's files, and with --undo taken out of them again.

  berth setup docker
  sudo berth setup docker --write      # daemon.json, and a hosts.toml for each registry
  sudo systemctl reload docker
  sudo berth setup docker --undo

Where callers log in, a node of one organisation can have its token in the client's
files, which only root can then read:

  sudo berth setup docker --write --organisation acme --token-file FILE`,
		ValidArgs: clientsetup.Clients(),
		Args:      usage(oneClient),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case f.token != "" && f.organisation == "":
				return usageError{errors.New("--token-file needs --organisation: say whose token it is")}
			case f.write && f.undo:
				return usageError{errors.New("--write and --undo are opposites: choose one")}
			}
			plan, err := f.plan(c, &a, o, args[0])
			if err != nil {
				return err
			}
			apply := plan.Write
			switch {
			case f.undo:
				apply = plan.Undo
			case !f.write:
				return printAnswer(c, a.json, plan, showPlan)
			}
			files, err := apply(time.Now())
			done := applied{Client: plan.Client, Files: files, Then: plan.Then, Notes: plan.Notes}
			if f.undo {
				done.Notes = nil
			}
			return errors.Join(printAnswer(c, a.json, done, showApplied), err)
		},
	}
	a.flags(c)
	organisationFlag(c, &f.organisation, "who the client pulls as: it chooses the port, and stands in names where it must")
	c.Flags().BoolVar(&f.write, "write", false, "write the files, keeping the rest of them and a copy of each")
	c.Flags().BoolVar(&f.undo, "undo", false, "take out of the files what --write put there")
	c.Flags().StringVar(&f.file, "file", "", "the client's configuration, what else is written lies beside it (default where the client looks for it)")
	c.Flags().StringVar(&f.token, "token-file", "", "a file with a token of the organisation that is for: header; it goes into the client's files")
	return c
}

// oneClient takes the name of a client there is a plan for, and says which those are.
func oneClient(c *cobra.Command, args []string) error {
	if len(args) != 1 || slices.Contains(clientsetup.Clients(), args[0]) {
		return cobra.ExactArgs(1)(c, args)
	}
	return usageError{fmt.Errorf("unknown client %q: choose one of %s", args[0], strings.Join(clientsetup.Clients(), ", "))}
}

type setupFlags struct {
	organisation, file, token string
	write, undo               bool
}

func (f *setupFlags) plan(c *cobra.Command, a *nodeFlags, o *options, client string) (none clientsetup.Plan, err error) {
	cfg, err := o.load()
	if err != nil {
		return none, err
	}
	if client == clientsetup.Engines { // which know nothing of this node's ports and registries
		return clientsetup.For(client, clientsetup.Options{File: f.file, Fleet: clientsetup.Fleet(node.SetupFleet(cfg))})
	}
	options, err := clientOptions(c, a, o, cfg, f.organisation)
	if err != nil {
		return none, err
	}
	options.File = f.file
	if f.token != "" {
		if options.Token, err = node.CallerToken(cfg, f.organisation, f.token); err != nil {
			return none, err
		}
	}
	return clientsetup.For(client, options)
}

// clientOptions are what a client's configuration is made of, and held against.
func clientOptions(c *cobra.Command, a *nodeFlags, o *options, cfg *config.Config, organisation string) (all clientsetup.Options, err error) {
	if err := known(cfg, organisation); err != nil {
		return all, err
	}
	ports, err := a.ports(c.Context(), o, cfg)
	if err != nil {
		return all, err
	}
	registries, err := node.Registries(cfg, organisation)
	if err != nil {
		return all, err
	}
	all = clientsetup.Options{Listeners: ports, Organisation: organisation, Metrics: cfg.Admin.Address.String(), Unlisted: cfg.UnlistedRegistries == config.UnlistedPublic}
	for _, r := range registries {
		all.Registries = append(all.Registries, clientsetup.Registry(r))
	}
	return all, nil
}

// applied is what --write or --undo did.
type applied struct {
	Client string                `json:"client"`
	Files  []clientsetup.Written `json:"files"`
	Then   []string              `json:"then"`
	Notes  []string              `json:"notes"`
}

func showApplied(out io.Writer, a applied) {
	changed := false
	for _, w := range a.Files {
		changed = changed || w.Changed
		showWritten(out, w)
		for _, m := range w.OtherMirrors {
			fmt.Fprintf(out, "  another mirror stays behind berth: %s\n", m)
		}
	}
	if changed && len(a.Then) > 0 {
		fmt.Fprintf(out, "now: %s\n", strings.Join(a.Then, "; "))
	}
	for _, note := range a.Notes {
		fmt.Fprintf(out, "- %s\n", note)
	}
}

func showWritten(out io.Writer, w clientsetup.Written) {
	switch {
	case !w.Changed:
		fmt.Fprintf(out, "%s: nothing to change\n", w.Path)
	case w.Removed:
		fmt.Fprintf(out, "%s: removed, there was nothing else in it\n", w.Path)
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
