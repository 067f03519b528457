package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"berth/internal/config"
	"berth/internal/node"
)

type serveFlags struct{ listen, cache, maxSize string }

func serveCommand(o *options) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer pulls",
		Long: `Answer pulls until SIGTERM or SIGINT, then let running ones end.

Without a configuration file it answers on localhost:5000, for everyone on this node, with
public images. SIGHUP reads the configuration again and opens log files anew; organisations'
files are read again by themselves. berth.yaml(5) has every key, or doc/configuration.md.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			outlive() // whoever reads the log may go in the middle of pulls
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if err := f.apply(cfg); err != nil {
				return usageError{err}
			}
			return node.Serve(c.Context(), cfg, node.Options{Override: f.apply, Log: c.ErrOrStderr(), Out: c.OutOrStdout(), Now: o.now, Version: version(), Hung: o.hung})
		},
	}
	c.Flags().StringVar(&f.listen, "listen", "", "address of the first listener, such as localhost:5000")
	c.Flags().StringVar(&f.cache, "cache", "", "cache folder")
	c.Flags().StringVar(&f.maxSize, "max-size", "", "limit of the cache, such as 20% or 50GiB")
	return c
}

// apply lets flags win over the file.
func (f serveFlags) apply(cfg *config.Config) error {
	if f.listen != "" {
		if err := cfg.Listeners[0].Address.UnmarshalText([]byte(f.listen)); err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
	}
	if f.cache != "" {
		dir, err := filepath.Abs(f.cache)
		if err != nil {
			return fmt.Errorf("--cache: %w", err)
		}
		cfg.Cache.Directory = dir
	}
	if f.maxSize != "" {
		if err := cfg.Cache.MaxSize.UnmarshalText([]byte(f.maxSize)); err != nil {
			return fmt.Errorf("--max-size: %w", err)
		}
	}
	return cfg.Validate()
}
