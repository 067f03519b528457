package node

import (
	"slices"

	"berth/internal/config"
	"berth/proxy"
)

// NewRouter is the table of names of a configuration, without what is behind them.
func NewRouter(cfg *config.Config) (*proxy.Router, error) {
	all, err := registrySpecs(cfg)
	if err != nil {
		return nil, err
	}
	var named []proxy.Registry
	for _, s := range all {
		named = append(named, s.entry(nil))
	}
	return proxy.NewRouter(named)
}

// Registries are the names of those that organisation (empty: nobody) sees.
func Registries(cfg *config.Config, organisation string) ([]string, error) {
	all, err := registrySpecs(cfg)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range all {
		if s.owner == "" || s.owner == organisation {
			names = append(names, s.name)
		}
	}
	slices.Sort(names)
	return names, nil
}
