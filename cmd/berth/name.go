package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"berth/internal/config"
	"berth/internal/node"
	clientsetup "berth/internal/setup"
)

func nameCommand(o *options) *cobra.Command {
	var a nodeFlags
	var organisation string
	c := &cobra.Command{
		Use:   "name IMAGE",
		Short: "Print what an image is called on this node",
		Long: `Print the name under which clients on this node pull an image through berth.
With --org it is the name for that organisation, at a port where it may pull.

  docker pull $(berth name ghcr.io/acme/app:1)`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if err := known(cfg, organisation); err != nil {
				return err
			}
			ports, err := a.ports(c.Context(), o, cfg)
			if err != nil {
				return err
			}
			at, err := clientsetup.ListenerFor(ports, organisation)
			if err != nil {
				return err
			}
			n, err := localName(cfg, at, args[0], organisation)
			if err != nil {
				return err
			}
			return printAnswer(c, a.json, n, func(w io.Writer, n clientsetup.Name) { fmt.Fprintln(w, n.Local) })
		},
	}
	a.flags(c)
	organisationFlag(c, &organisation, "whose name: it begins with the organisation where callers log in, or where it must")
	return c
}

// known says whether there is such an organisation, or none was named.
func known(cfg *config.Config, organisation string) error {
	if organisation == "" {
		return nil
	}
	if _, ok := cfg.Organisations[organisation]; ok {
		return nil
	}
	if _, ok := cfg.Broken[organisation]; ok {
		return nil
	}
	if !config.ValidOrganisation(organisation) {
		return usageError{fmt.Errorf("%.100q is no organisation", organisation)}
	}
	return fmt.Errorf("there is no organisation %s in this configuration", organisation)
}

// localName is image's at a port, if its registry is known there.
func localName(cfg *config.Config, at clientsetup.Listener, image, organisation string) (clientsetup.Name, error) {
	named := ""
	if at.Token || at.NameNeedsOrganisation {
		if named = organisation; named == "" && at.NameNeedsOrganisation {
			named = at.Organisation
		}
	}
	n, err := clientsetup.LocalName(image, at.Address, named)
	if err != nil {
		return n, usageError{err}
	}
	if organisation == "" {
		organisation = at.Organisation
	}
	router, err := node.NewRouter(cfg)
	if err != nil {
		return n, err
	}
	if _, ok := router.Lookup(organisation, n.Registry); !ok {
		return n, fmt.Errorf("registry %s is not configured on this node: add it under registries", n.Registry)
	}
	return n, nil
}
