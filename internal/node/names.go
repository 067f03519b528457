package node

import (
	"cmp"
	"slices"
	"strings"

	"berth/internal/config"
	"berth/internal/registry"
	"berth/oci"
	"berth/proxy"
)

// NewRouter is the table of names of a configuration, without what is behind them.
func NewRouter(cfg *config.Config) (*proxy.Router, error) {
	specs, err := cfg.Specs()
	if err != nil {
		return nil, err
	}
	return newRouter(cfg, specs)
}

func newRouter(cfg *config.Config, specs []*registry.Spec) (*proxy.Router, error) {
	router, err := proxy.NewRouter(specs)
	if err == nil {
		router.Unlisted = cfg.UnlistedRegistries == config.UnlistedPublic
	}
	return router, err
}

// Registry is one as clients know it.
type Registry struct {
	// Name is how users write it: its own name, or an alias.
	Name string
	// Server is where clients would go without this node.
	Server string
}

// Registries are those that organisation (empty: nobody) sees, under each of their names
// that an image's name can begin with.
func Registries(cfg *config.Config, organisation string) (all []Registry, err error) {
	specs, err := cfg.Specs()
	if err != nil {
		return nil, err
	}
	for _, s := range specs {
		if s.Organisation != "" && s.Organisation != organisation {
			continue
		}
		server := s.Endpoint
		if b, ok := registry.Builtin(s.Name); ok {
			server = b.Endpoint // and not a cache that the operator put before it
		}
		for _, name := range append([]string{s.Name}, s.Aliases...) {
			// What Docker Hub is called besides, clients call docker.io.
			if (name == s.Name || !oci.IsDockerHub(name)) && strings.ContainsAny(name, ".:") {
				all = append(all, Registry{name, server})
			}
		}
	}
	slices.SortFunc(all, func(a, b Registry) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}
