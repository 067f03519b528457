package proxy

import (
	"fmt"
	"net/http"
	"strings"

	"berth/internal/registry"
	"berth/internal/suggest"
	"berth/oci"
)

// Naming is how one listener reads names.
type Naming struct {
	// Default is the registry that a name without one means, as users write it.
	// If empty, docker.io is used.
	Default string
	// OrganisationRequired refuses names that do not begin with the caller's
	// organisation. It is for nodes where organisations share one dockerd: its
	// local tags would otherwise serve the image of one to the other.
	OrganisationRequired bool
}

// Route is where a request goes.
type Route struct {
	Registry *registry.Spec
	// Repo is the repository as the registry knows it: a valid name, without
	// organisation or registry, with library/ where that is needed.
	Repo string
}

// Route finds the registry and repository that req means to a caller of
// organisation (empty: nobody). It is pure. Errors are *oci.Error: 403
// for a registry that is not in the table, and for a name that
// belongs to another organisation or lacks one.
//
// A registry comes from, in this order: the ns parameter, the path before
// /v2/, the first component of the name, the listener's default.
func (t *Router) Route(req *oci.Request, organisation string, naming Naming) (Route, error) {
	selected, err := t.selected(req, organisation)
	if err != nil {
		return Route{}, err
	}
	name, own, err := t.cutOrganisation(req.Name, organisation, selected)
	if err != nil {
		return Route{}, err
	}
	spec, repo, err := t.cutRegistry(name, organisation, selected, naming.Default)
	if err != nil {
		return Route{}, err
	}
	if repo, err = repository(spec, repo); err != nil {
		return Route{}, err
	}
	if own {
		return Route{Registry: spec, Repo: repo}, nil
	}
	if naming.OrganisationRequired || spec.Name == oci.DockerHub {
		// Names at Docker Hub have two components, so what has three is none of them.
		if unknown, ok := registryAfterOrganisation(organisation, req.Name, selected); ok {
			return Route{}, t.notConfigured(unknown, organisation)
		}
	}
	if naming.OrganisationRequired {
		return Route{}, organisationMissing(organisation, req.Name, spec, repo)
	}
	return Route{Registry: spec, Repo: repo}, nil
}

// selected is the registry that the request names outside of its name: by ns
// or by the path before /v2/. Nil: by neither.
//
// With both, ns decides: it is what the user wrote, while the path is how the
// client was configured to get here.
func (t *Router) selected(req *oci.Request, organisation string) (*registry.Spec, error) {
	name := req.NS
	if name == "" {
		name = req.Prefix
	}
	if name == "" {
		return nil, nil
	}
	if e, ok := t.find(organisation, strings.ToLower(name)); ok {
		return e.spec, nil
	}
	return nil, t.notConfigured(name, organisation)
}

// cutOrganisation takes the caller's organisation off the front of name, which
// is read so when a registry follows it, and something after that. own says
// that it was there.
func (t *Router) cutOrganisation(name, organisation string, selected *registry.Spec) (rest string, own bool, err error) {
	first, rest, _ := strings.Cut(name, "/")
	second, image, _ := strings.Cut(rest, "/")
	if image == "" {
		return name, false, nil
	}
	e, ok := t.find(organisation, second)
	if !ok {
		return name, false, nil
	}
	// Where the registry is known from elsewhere, the name is a repository's own
	// unless it says that same host again: mirror folders such as Harbor's
	// "team/docker.io/library/nginx" are real names.
	if selected != nil && (!e.spec.Same(selected) || !e.host) {
		return name, false, nil
	}
	if first == organisation {
		return rest, true, nil
	}
	if _, ok := t.find(organisation, first); ok {
		return name, false, nil
	}
	return "", false, &oci.Error{
		Class: oci.Policy,
		Message: fmt.Sprintf("%s: the name %s/%s/... belongs to organisation %s: use your own organisation in its place",
			callerName(organisation), first, second, first),
	}
}

// cutRegistry takes the registry off the front of name.
func (t *Router) cutRegistry(name, organisation string, selected *registry.Spec, standard string) (*registry.Spec, string, error) {
	first, rest, _ := strings.Cut(name, "/")
	e, known := t.find(organisation, first)
	switch {
	case selected != nil && known && e.spec.Same(selected) && e.host && rest != "":
		// Only a spelling that looks like a host goes: an alias such as
		// "example" may as well be a folder of that registry.
		return selected, rest, nil
	case selected != nil:
		return selected, name, nil
	case known && rest != "":
		return e.spec, rest, nil
	case known && e.host:
		return nil, "", &oci.Error{
			Class:   oci.Policy,
			Message: fmt.Sprintf("%s is a registry: name an image in it, as in %s/library/name", first, first),
		}
	case rest != "" && hostLike(first):
		return nil, "", t.notConfigured(first, organisation)
	}
	if standard == "" {
		standard = oci.DockerHub
	}
	if e, ok := t.find(organisation, strings.ToLower(standard)); ok {
		return e.spec, name, nil
	}
	return nil, "", t.notConfigured(standard, organisation)
}

// repository is name as the registry knows it: Docker Hub keeps images whose name has
// one component under library/.
func repository(s *registry.Spec, name string) (string, error) {
	if s.Name != oci.DockerHub || strings.Contains(name, "/") {
		return name, nil
	}
	name = "library/" + name
	if !oci.ValidName(name) {
		return "", &oci.Error{
			Class: oci.Policy, Status: http.StatusBadRequest, Code: oci.CodeNameInvalid,
			Message: "the name is too long: a repository name has at most 255 characters",
		}
	}
	return name, nil
}

// registryAfterOrganisation is what stands where a registry belongs in a name that begins with
// the caller's organisation as it should: "write it before" would be no help.
func registryAfterOrganisation(organisation, name string, selected *registry.Spec) (unknown string, ok bool) {
	rest, own := strings.CutPrefix(name, organisation+"/")
	second, image, _ := strings.Cut(rest, "/")
	return second, own && organisation != "" && selected == nil && image != "" && hostLike(second)
}

// maxNamed is how many registries a message names, and maxCompared how many are held
// against a mistyped one: an organisation may have a thousand.
const (
	maxNamed    = 12
	maxCompared = 64
)

// unlistedRule is what notConfigured enforces.
const unlistedRule = "unlisted_registries: refuse"

// notConfigured names those that are: most often one of them was meant. It is 403: of a 404
// dockerd with the containerd store and containerd say "not found" and hide the text.
func (t *Router) notConfigured(name, organisation string) error {
	names := t.names(organisation)
	there := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if more := len(names) - maxNamed; more > 0 {
		there += fmt.Sprintf(" and %d more", more)
	}
	todo := "add it under registries:"
	if near := suggest.Nearest(name, names[:min(len(names), maxCompared)]); near != "" {
		todo = fmt.Sprintf("did you mean %s? Else %s", near, todo)
	}
	return &oci.Error{
		Class: oci.Policy, Rule: unlistedRule,
		Message: oci.OneLine(fmt.Sprintf("registry %q is not configured on this node: %s or write one of those that are there (%s)",
			oci.OneLine(name, 255), todo, there), 600),
	}
}

// organisationRule is what organisationMissing enforces.
const organisationRule = "organisation_in_name: required"

// name is the whole one, repo what it means at s.
func organisationMissing(organisation, name string, s *registry.Spec, repo string) error {
	if organisation == "" {
		return &oci.Error{
			Class:   oci.Policy,
			Rule:    organisationRule,
			Message: "names on this port must begin with the caller's organisation, and this caller has none",
		}
	}
	at := organisation + "/" + oci.PathForm(s.Name) + "/"
	write := at + repo
	rest, begins := strings.CutPrefix(repo, organisation+"/")
	if begins && strings.HasPrefix(name, organisation+"/") {
		// The name has the organisation, and lacks the registry; unless the organisation has
		// a namespace of its name there.
		if image, err := repository(s, rest); err == nil {
			write = at + image + " (or " + at + repo + ", if that is its name there)"
		}
	}
	return &oci.Error{
		Class: oci.Policy, Rule: organisationRule,
		Message: fmt.Sprintf("organisation %s: names on this port begin with the organisation and the registry: after host and port write %s", organisation, write),
	}
}

// callerName names the caller in a message.
func callerName(organisation string) string {
	if organisation == "" {
		return "a caller without an organisation"
	}
	return "organisation " + organisation
}
