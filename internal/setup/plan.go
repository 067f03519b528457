package setup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/secret"
	"berth/oci"
)

// client is a kind of client, and what is written for it.
type client struct {
	name string
	// file is its configuration; what else is written lies beside it.
	file string
	plan func(Options) (Plan, error)
	// token says that a token of an organisation can stand in its files.
	token bool
}

// metrics is the client that pulls nothing.
const metrics = "prometheus"

// Engines is what For calls those of a fleet, which are no clients.
const Engines = "fleet"

func clients() []client {
	return []client{
		{"docker", DaemonJSON, docker, true},
		{"containerd", "/etc/containerd/config.toml", containerd, true},
		{"podman", PodmanConf, podman, false},
		{"nerdctl", "/etc/containerd/config.toml", nerdctl, true},
		{"buildkit", "/etc/buildkit/buildkitd.toml", buildkit, false},
		{"k3s", "/etc/rancher/k3s/registries.yaml", k3s, true},
		{"crio", PodmanConf, podman, false},
		{metrics, "/etc/prometheus/prometheus.yml", prometheus, false},
		{Engines, "/etc/valkey/users.acl", fleet, false},
	}
}

// Clients are the names that For knows.
func Clients() (names []string) {
	for _, c := range clients() {
		names = append(names, c.name)
	}
	return names
}

// DefaultFile is where the client called name looks for its configuration.
func DefaultFile(name string) string {
	for _, c := range clients() {
		if c.name == name {
			return c.file
		}
	}
	return ""
}

// Plan is what has to be done so that a client pulls through the node.
type Plan struct {
	Client string `json:"client"`
	// Files are what has to be written.
	Files []File `json:"files"`
	// Then are commands that put the files in force.
	Then []string `json:"then"`
	// Notes say where versions differ, and what this does not do.
	Notes []string `json:"notes"`
	// stale are files of berth's from before, which may have no part in the plan any more.
	stale string // a pattern
	// unshown are files that have nothing of the plan in them any more, but of one before.
	unshown []File
}

// File is one file, or a part of one.
type File struct {
	Path string `json:"path"`
	// When says for whom the file is, if not for everyone.
	When string `json:"when,omitempty"`
	// Merge says that Content belongs into a file that may have more in it.
	Merge   bool   `json:"merge"`
	Content string `json:"content"`

	// put adds what is berth's to what is there, take takes it out again. Without them
	// the file is shown and not written.
	put  func(before string) (edit, error)
	take func(before string) (string, error)
}

// edit is what is to become of a file.
type edit struct {
	text string
	// secret says that nobody but root may read it.
	secret bool
	// others are mirrors that are not berth's, and stay.
	others []string
}

// Registry is one that the node knows.
type Registry struct {
	// Name is how an image's name begins, host or host:port.
	Name string
	// Server is where pushes go: the registry itself.
	Server string
}

// Options say for whom a Plan is.
type Options struct {
	// Listeners are those of the node.
	Listeners []Listener
	// Organisation is who the client pulls as, where it logs in. Empty: nobody in
	// particular.
	Organisation string
	// Token is one of the organisation's, for headers. If it is there the client's files
	// get it, so that whoever pulls needs no login.
	Token secret.Text
	// Registries are those that the node knows.
	Registries []Registry
	// Unlisted says that the node answers for other registries too.
	Unlisted bool
	// Metrics is where the node shows them. If empty, localhost:5001.
	Metrics string
	// Fleet is for the plan of the fleet's engines.
	Fleet Fleet
	// File is the client's configuration. If empty, where the client looks for it.
	File string
}

// ErrUnknownClient says that For does not know the client.
var ErrUnknownClient = errors.New("unknown client")

// For is the plan for a client.
func For(name string, o Options) (Plan, error) {
	all := clients()
	i := slices.IndexFunc(all, func(c client) bool { return c.name == name })
	if i < 0 {
		return Plan{}, fmt.Errorf("%w %q: choose one of %s", ErrUnknownClient, name, strings.Join(Clients(), ", "))
	}
	c := all[i]
	if o.File == "" {
		o.File = c.file
	}
	var err error
	if o.File, err = filepath.Abs(o.File); err != nil { // hosts.toml names certificates beside it
		return Plan{}, err
	}
	o.Registries = slices.Clone(o.Registries)
	slices.SortFunc(o.Registries, func(a, b Registry) int { return strings.Compare(a.Name, b.Name) })
	if o.hasToken() && !c.token {
		return Plan{}, fmt.Errorf("%s has no file that a token could stand in: log in with it at the address that berth setup %[1]s --org %s prints", name, o.Organisation)
	}
	p, err := c.plan(o)
	p.Client = name
	p.Files, p.Then = orEmpty(p.Files), orEmpty(p.Then)
	if err == nil && len(o.Listeners) > 1 && name != metrics {
		for _, l := range o.Listeners {
			if who := whoPulls(l, ""); !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.HasPrefix(n, who) }) {
				p.note(who)
			}
		}
	}
	return p, err
}

// note adds a line to know, once.
func (p *Plan) note(lines ...string) {
	for _, l := range lines {
		if !slices.Contains(p.Notes, l) {
			p.Notes = append(p.Notes, l)
		}
	}
}

// orEmpty keeps null out of JSON.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func (o Options) hasToken() bool { return !o.Token.Empty() }

// beside is a path in the folder of the client's configuration.
func (o Options) beside(path ...string) string {
	return filepath.Join(append([]string{filepath.Dir(o.File)}, path...)...)
}

// behind is where registry's images are at the listener at which o's
// organisation pulls; for clients that can put something before a name.
func (o Options) behind(l Listener, registry string) string {
	path := oci.PathForm(registry)
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
	switch {
	case o.hasToken() && !l.Token:
		return Listener{}, fmt.Errorf("%w: at %s nobody shows a token: leave it out, or add a listener with callers: token", ErrNoListener, l.Address)
	case o.hasToken() && !l.Loopback:
		return Listener{}, fmt.Errorf("%w: a token that stands in a file is good on the node itself only, and others reach %s: add a listener on localhost", ErrNoListener, l.Address)
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
	if how != "" {
		how = " (" + how + ")"
	}
	switch {
	case l.Token:
		return fmt.Sprintf("callers log in at %s: user name ORGANISATION or ORGANISATION+ACCOUNT, password one of the organisation's tokens%s", l.Address, how)
	case l.Organisation != "":
		return fmt.Sprintf("every process that reaches %s pulls as organisation %s", l.Address, l.Organisation)
	}
	return fmt.Sprintf("nobody logs in at %s, and everyone gets public images only", l.Address)
}
