package setup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Clients are the names that For knows.
func Clients() []string { return []string{"docker", "containerd", "podman", "nerdctl", "buildkit"} }

// Plan is what has to be done so that a client pulls through the node.
type Plan struct {
	Client string `json:"client"`
	// Files are what has to be written.
	Files []File `json:"files"`
	// Then are commands that put the files in force.
	Then []string `json:"then"`
	// Notes say where versions differ, and what this does not do.
	Notes []string `json:"notes"`
}

// File is one file, or a part of one.
type File struct {
	Path string `json:"path"`
	// When says for whom the file is, if not for everyone.
	When string `json:"when,omitempty"`
	// Merge says that Content belongs into a file that may have more in it.
	Merge   bool   `json:"merge"`
	Content string `json:"content"`
}

// Options say for whom a Plan is.
type Options struct {
	// Listeners are those of the node.
	Listeners []Listener
	// Organisation is who the client pulls as, where it logs in. Empty: nobody in
	// particular.
	Organisation string
	// Registries are those that the node knows, for clients that want to be told
	// each of them.
	Registries []string
}

// ErrUnknownClient says that For does not know the client.
var ErrUnknownClient = errors.New("unknown client")

// For is the plan for a client.
func For(client string, o Options) (Plan, error) {
	o.Registries = slices.Clone(o.Registries)
	slices.Sort(o.Registries)
	var p Plan
	var err error
	switch client {
	case "docker":
		p = docker(o)
	case "containerd":
		p, err = containerd(o)
	case "nerdctl":
		p, err = nerdctl(o)
	case "podman":
		p, err = podman(o)
	case "buildkit":
		p, err = buildkit(o)
	default:
		return Plan{}, fmt.Errorf("%w %q: choose one of %s", ErrUnknownClient, client, strings.Join(Clients(), ", "))
	}
	p.Client = client
	p.Files, p.Then = orEmpty(p.Files), orEmpty(p.Then)
	return p, err
}

// orEmpty keeps null out of JSON.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// behind is where registry's images are at the listener at which o's
// organisation pulls; for clients that can put something before a name.
func (o Options) behind(l Listener, registry string) string {
	path := strings.Replace(registry, ":", "_", 1)
	if o.Organisation != "" && l.Token {
		path = o.Organisation + "/" + path
	}
	return l.Address + "/" + path
}

// unchanged is the listener for clients that ask for an image by the name that
// its registry has for it.
func (o Options) unchanged() (Listener, error) {
	l, ok := mirror(o.Listeners, o.Organisation)
	if !ok {
		return Listener{}, fmt.Errorf("%w: names at %s begin with an organisation, which this client cannot add: add a listener without organisation_in_name: required, or pull by the names that berth name prints", ErrNoListener, addresses(o.Listeners))
	}
	return l, nil
}

// certificate is what a client needs to trust the listener.
func certificate(l Listener, where string) []string {
	if l.plain() {
		return nil
	}
	return []string{fmt.Sprintf("%s serves a certificate: if its authority is not among the system's, put that authority's certificate in %s", l.Address, where)}
}

// whoPulls says what a login at l is.
func whoPulls(l Listener, how string) string {
	switch {
	case l.Token:
		return fmt.Sprintf("callers log in at %s: user name ORGANISATION or ORGANISATION+ACCOUNT, password one of the organisation's tokens (%s)", l.Address, how)
	case l.Organisation != "":
		return fmt.Sprintf("every process that reaches %s pulls as organisation %s", l.Address, l.Organisation)
	}
	return fmt.Sprintf("nobody logs in at %s, and everyone gets public images only", l.Address)
}
