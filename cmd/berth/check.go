package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"berth/internal/config"
	"berth/internal/node"
)

func checkCommand(o *options) *cobra.Command {
	var as, image, organisation string
	var inJSON bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check the configuration, or one organisation's drop-in, without using it",
		Long: `Check the main file with its drop-ins, or one drop-in, without using it: what they
say, and whether the files that they name (secrets, certificates) are there, can
be read and are kept from others. No registry is asked and no helper is run.

With --image it also says whether an organisation may pull an image by the policy, as
far as its name tells, or which rule, file and line refuses it.

Root reads everything, so for root the check is made as the user that the node
runs as: the one that --user names, else for files in /etc/berth the user berth, if
there is one.`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			opts := config.Options{}
			opts.Main = o.path()
			file := opts.Main
			if len(args) == 1 {
				file = args[0]
			}
			if organisation != "" && image == "" {
				return usageError{errors.New("--org is who pulls an image: name it with --image")}
			}
			if file == "" {
				return usageError{errors.New("there is no configuration file: name one, as in berth check berth.yaml")}
			}
			if id, err := identityFor(as, file); err != nil {
				return usageError{err}
			} else if id != nil {
				return checkAs(c, id, checkArgs(opts.Main, file, image, organisation, inJSON))
			}
			r := config.Check(file, opts)
			if r.Config != nil {
				node.CheckFiles(c.Context(), r.Config, &r)
			}
			if image != "" && r.OK() {
				return judge(c, r.Config, image, organisation, inJSON)
			}
			if inJSON {
				return reportJSON(c, r)
			}
			return report(c, file, r)
		},
	}
	c.Flags().BoolVar(&inJSON, "json", false, "print the errors and warnings as JSON")
	c.Flags().StringVar(&image, "image", "", "an image: say whether it may be pulled, or what refuses it")
	organisationFlag(c, &organisation, "who pulls that image (default nobody in particular)")
	c.Flags().StringVar(&as, "user", "", "the user that the node runs as, for root (default for files in /etc/berth: "+serviceUser+", if there is one)")
	return c
}

// judge says whether organisation may pull image by cfg.
func judge(c *cobra.Command, cfg *config.Config, image, organisation string, inJSON bool) error {
	if err := known(cfg, organisation); err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		c.PrintErrln("warning:", w)
	}
	v, err := node.Judge(cfg, image, organisation)
	if err != nil {
		return err
	}
	if err := printAnswer(c, inJSON, v, showVerdict); err != nil {
		return err
	}
	if !v.Allowed {
		return errSaid
	}
	return nil
}

func showVerdict(w io.Writer, v node.Verdict) {
	if !v.Allowed {
		fmt.Fprintf(w, "%s: refused: %s\n", v.Image, v.Why)
		return
	}
	fmt.Fprintf(w, "%s: allowed\n", v.Image)
	for _, rule := range v.Unless {
		fmt.Fprintf(w, "  but for %s\n", rule)
	}
}

func report(c *cobra.Command, file string, r config.Report) error {
	for _, w := range r.Warnings {
		c.PrintErrln("warning:", w)
	}
	for _, e := range r.Errors {
		c.PrintErrln("error:", e)
	}
	if !r.OK() {
		return errSaid
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), file+": ok")
	return err
}

// reportJSON has lists even where they are empty, for programs.
func reportJSON(c *cobra.Command, r config.Report) error {
	r.Errors, r.Warnings = append(config.Problems{}, r.Errors...), append(config.Problems{}, r.Warnings...)
	if err := printAnswer(c, true, r, nil); err != nil {
		return err
	}
	if !r.OK() {
		return errSaid
	}
	return nil
}
