package proxy

import (
	"fmt"
	"slices"
	"strings"

	"berth/internal/registry"
	"berth/oci"
)

// Router is the table of registries. It never changes after NewRouter: a new
// configuration makes a new one. Safe for concurrent use.
type Router struct {
	// Unlisted lets every host be a registry, as nobody's and without an alias. It is set
	// before the first request.
	Unlisted bool

	platform map[string]entry
	owned    map[string]map[string]entry // by organisation
	// origins are the platform's registries by where they are reached.
	origins map[oci.Origin]*registry.Spec
}

// entry is a spelling of a registry. host says that the spelling looks like a
// host, so that it can't be mistaken for a folder in a repository name.
type entry struct {
	spec *registry.Spec
	host bool
}

// NewRouter builds the table. It is an error when a spelling would mean two
// registries to somebody, when it could not be written in a path, or when an
// organisation is called like a registry of the platform.
func NewRouter(specs []*registry.Spec) (*Router, error) {
	t := &Router{platform: map[string]entry{}, owned: map[string]map[string]entry{}, origins: map[oci.Origin]*registry.Spec{}}
	// The platform's first: an organisation's may not take their names.
	for _, s := range specs {
		if s.Organisation == "" {
			if err := t.add(s, t.platform); err != nil {
				return nil, err
			}
			if t.origins[s.Origin] == nil {
				t.origins[s.Origin] = s
			}
		}
	}
	for _, s := range specs {
		if s.Organisation == "" {
			continue
		}
		if _, taken := t.platform[s.Organisation]; taken {
			return nil, fmt.Errorf("organisation %s is called like a registry of the platform: names could mean either", s.Organisation)
		}
		if t.owned[s.Organisation] == nil {
			t.owned[s.Organisation] = map[string]entry{}
		}
		if err := t.add(s, t.owned[s.Organisation]); err != nil {
			return nil, fmt.Errorf("organisation %s: %w", s.Organisation, err)
		}
	}
	return t, nil
}

func (t *Router) add(s *registry.Spec, table map[string]entry) error {
	for _, spelling := range spellings(s) {
		path := oci.PathForm(spelling)
		if !oci.ValidName(path) || strings.Contains(path, "/") {
			return fmt.Errorf("registry %s: %q cannot be part of an image name", s.Name, spelling)
		}
		for _, key := range []string{spelling, path} {
			if other, taken := t.taken(table, key); taken && other != s {
				return fmt.Errorf("registry %s: %q already means %s", s.Name, key, other.Name)
			}
			table[key] = entry{spec: s, host: hostLike(spelling)}
		}
	}
	return nil
}

func (t *Router) taken(table map[string]entry, key string) (*registry.Spec, bool) {
	if e, ok := table[key]; ok {
		return e.spec, true
	}
	e, ok := t.platform[key]
	return e.spec, ok
}

// Lookup finds what name (a registry's name, alias or port form; not a
// repository) means to organisation (empty: nobody).
func (t *Router) Lookup(organisation, name string) (*registry.Spec, bool) {
	e, ok := t.find(organisation, strings.ToLower(name))
	return e.spec, ok
}

func (t *Router) find(organisation, name string) (entry, bool) {
	if e, ok := t.platform[name]; ok {
		return e, true
	}
	if e, ok := t.owned[organisation][name]; ok && organisation != "" {
		return e, true
	}
	if !t.Unlisted || !hostLike(name) {
		return entry{}, false
	}
	spec, ok := registry.Unlisted(name)
	if !ok {
		return entry{}, false
	}
	// What is configured is not unlisted for being spelt in another way: its policy, its
	// rights and what is kept of it are those of its name.
	if e, ok := t.platform[spec.Name]; ok {
		return e, true
	}
	if e, ok := t.owned[organisation][spec.Name]; ok && organisation != "" {
		return e, true
	}
	if known := t.origins[spec.Origin]; known != nil {
		return entry{spec: known, host: true}, true
	}
	return entry{spec: spec, host: true}, true
}

// names are those of the registries that organisation sees, in order.
func (t *Router) names(organisation string) (all []string) {
	for _, table := range [...]map[string]entry{t.platform, t.owned[organisation]} {
		for key, e := range table {
			if key == e.spec.Name {
				all = append(all, key)
			}
		}
	}
	slices.Sort(all)
	return all
}

// spellings are all the names of s, its own first.
func spellings(s *registry.Spec) []string {
	all := []string{s.Name}
	if oci.IsDockerHub(s.Name) {
		all = oci.DockerHubNames()
	}
	return slices.Concat(all, s.Aliases)
}

// hostLike says whether s can only be meant as a host: Docker's rule for the
// first component of an image name.
func hostLike(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || strings.HasPrefix(s, "localhost_")
}
