package proxy

import (
	"fmt"
	"slices"
	"strings"

	"berth/oci"
)

// Registry is one registry as names select it.
type Registry struct {
	// Name is as users write it: a host, with its port if it has one. The names
	// of Docker Hub all become docker.io.
	Name string
	// Aliases are other names for it.
	Aliases []string
	// Organisation is who brought the registry and alone sees it. Empty: the
	// platform, for everybody.
	Organisation string
	// Library adds library/ to names of one component, as Docker Hub wants it.
	Library bool
	// Value is handed through to Options.Sources untouched.
	Value any
}

// Router is the table of registries. It never changes after NewRouter: a new
// configuration makes a new one. Safe for concurrent use.
type Router struct {
	platform map[string]entry
	owned    map[string]map[string]entry // by organisation
}

// entry is a spelling of a registry. host says that the spelling looks like a
// host, so that it can't be mistaken for a folder in a repository name.
type entry struct {
	registry *Registry
	host     bool
}

// NewRouter builds the table. It is an error when a spelling would mean two
// registries to somebody, when it could not be written in a path, or when an
// organisation is called like a registry of the platform.
func NewRouter(registries []Registry) (*Router, error) {
	t := &Router{platform: map[string]entry{}, owned: map[string]map[string]entry{}}
	// The platform's first: an organisation's may not take their names.
	for _, r := range registries {
		if r.Organisation == "" {
			if err := t.add(r, t.platform); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range registries {
		if r.Organisation == "" {
			continue
		}
		if _, taken := t.platform[r.Organisation]; taken {
			return nil, fmt.Errorf("organisation %s is called like a registry of the platform: names could mean either", r.Organisation)
		}
		if t.owned[r.Organisation] == nil {
			t.owned[r.Organisation] = map[string]entry{}
		}
		if err := t.add(r, t.owned[r.Organisation]); err != nil {
			return nil, fmt.Errorf("organisation %s: %w", r.Organisation, err)
		}
	}
	return t, nil
}

func (t *Router) add(r Registry, table map[string]entry) error {
	r.Name = canonical(r.Name)
	registry := &r
	for _, spelling := range spellings(registry) {
		path := pathForm(spelling)
		if !oci.ValidName(path) || strings.Contains(path, "/") {
			return fmt.Errorf("registry %s: %q cannot be part of an image name", r.Name, spelling)
		}
		for _, key := range []string{spelling, path} {
			if other, taken := t.taken(table, key); taken && other != registry {
				return fmt.Errorf("registry %s: %q already means %s", r.Name, key, other.Name)
			}
			table[key] = entry{registry: registry, host: hostLike(spelling)}
		}
	}
	return nil
}

func (t *Router) taken(table map[string]entry, key string) (*Registry, bool) {
	if e, ok := table[key]; ok {
		return e.registry, true
	}
	e, ok := t.platform[key]
	return e.registry, ok
}

// Lookup finds what name (a registry's name, alias or port form; not a
// repository) means to organisation (empty: nobody).
func (t *Router) Lookup(organisation, name string) (*Registry, bool) {
	e, ok := t.find(organisation, strings.ToLower(name))
	return e.registry, ok
}

func (t *Router) find(organisation, name string) (entry, bool) {
	if e, ok := t.platform[name]; ok {
		return e, true
	}
	if organisation == "" {
		return entry{}, false
	}
	e, ok := t.owned[organisation][name]
	return e, ok
}

// names are those of the registries that organisation sees, in order.
func (t *Router) names(organisation string) (all []string) {
	for _, table := range [...]map[string]entry{t.platform, t.owned[organisation]} {
		for key, e := range table {
			if key == e.registry.Name {
				all = append(all, key)
			}
		}
	}
	slices.Sort(all)
	return all
}

// spellings are all the names of r, its own first.
func spellings(r *Registry) []string {
	all := []string{r.Name}
	if r.Name == oci.DockerHub {
		all = oci.DockerHubNames()
	}
	for _, alias := range r.Aliases {
		all = append(slices.Clip(all), strings.ToLower(alias))
	}
	return all
}

// canonical is the name that labels, messages and look-ups use.
func canonical(name string) string {
	if oci.IsDockerHub(name) {
		return oci.DockerHub
	}
	return strings.ToLower(name)
}

// pathForm is how name is written in an image name, where a colon can't be.
func pathForm(name string) string { return strings.Replace(name, ":", "_", 1) }

// hostLike says whether s can only be meant as a host: Docker's rule for the
// first component of an image name.
func hostLike(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || strings.HasPrefix(s, "localhost_")
}
