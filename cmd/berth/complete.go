package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/config"
)

// completeFor bounds how long a shell waits for the running node.
const completeFor = 2 * time.Second

// completion gives what may stand in a command's place. What it cannot find out, as
// somebody who may not read the configuration or ask the node, it leaves out: a shell has
// no place for errors.
type completion func(c *cobra.Command, o *options) []string

// completes has the arguments of the command named completed by what each gives.
func completes(root *cobra.Command, o *options) {
	for name, all := range map[string][]completion{
		"diagnose": {registries, images}, "name": {images}, "prewarm": {images}, "purge": {images}, "remove": {images},
		"token": {organisations},
	} {
		if c, _, err := root.Find([]string{name}); err == nil {
			c.ValidArgsFunction = o.completed(all...)
		}
	}
	for _, c := range root.Commands() {
		if c.Flags().Lookup("org") != nil {
			_ = c.RegisterFlagCompletionFunc("org", o.completed(organisations)) // it fails where there is no such flag
		}
	}
}

func (o *options) completed(all ...completion) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, typed string) (found []string, _ cobra.ShellCompDirective) {
		for _, give := range all {
			for _, one := range give(c, o) {
				if strings.HasPrefix(one, typed) {
					found = append(found, one)
				}
			}
		}
		slices.Sort(found)
		return slices.Compact(found), cobra.ShellCompDirectiveNoFileComp
	}
}

// configured is what can be read of the configuration.
func (o *options) configured() *config.Config {
	cfg, err := o.load()
	if err != nil {
		return config.Default(config.Options{Hung: o.hung})
	}
	return cfg
}

func organisations(_ *cobra.Command, o *options) []string {
	return slices.Collect(maps.Keys(o.configured().Organisations))
}

func registries(_ *cobra.Command, o *options) (names []string) {
	specs, err := o.configured().Specs()
	if err != nil {
		return nil
	}
	for _, s := range specs {
		names = append(names, s.Name)
	}
	return names
}

// images are those that the running node keeps.
func images(c *cobra.Command, o *options) (names []string) {
	a := nodeFlags{}
	if f := c.Flags().Lookup("socket"); f != nil {
		a.socket = f.Value.String()
	}
	client, err := a.client(o)
	if err != nil {
		return nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), completeFor)
	defer cancel()
	kept, err := client.Images(ctx, "")
	if err != nil {
		return nil
	}
	for _, i := range kept.Images {
		for _, tag := range i.Tags {
			names = append(names, i.Registry+"/"+i.Repository+":"+tag)
		}
	}
	return names
}
