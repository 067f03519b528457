package node

import (
	"slices"

	"berth/internal/config"
	"berth/proxy"
)

// NewRouter is the table of names of a configuration, without what is behind them.
func NewRouter(cfg *config.Config) (*proxy.Router, error) {
	specs, err := cfg.Specs()
	if err != nil {
		return nil, err
	}
	return proxy.NewRouter(specs)
}

// Registries are the names of those that organisation (empty: nobody) sees.
func Registries(cfg *config.Config, organisation string) ([]string, error) {
	specs, err := cfg.Specs()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range specs {
		if s.Organisation == "" || s.Organisation == organisation {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
