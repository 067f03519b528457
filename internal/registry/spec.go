// Package registry describes registries: one Spec for each, from the configuration
// to the client that asks it.
package registry

import (
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"berth/oci"
)

// Spec is one registry: what names it, how it is reached, and what may be served of
// it. A configuration makes each once; the table of names, the cache and the client
// are handed the same one. It is not written to after New.
type Spec struct {
	// Name is what users write in front of a repository.
	Name string
	// Organisation is who brought the registry and alone sees it; empty: the
	// platform, for everybody.
	Organisation string
	Place
	Trust
	// Unlisted says that no configuration names it: somebody asked for it.
	Unlisted bool

	// Origin is the identity behind every proof: where Endpoint leads, and whose
	// registry it is.
	Origin oci.Origin
	// Named are the URLs that the operator wrote down. Their hosts may have any
	// address, all others must be public or in AllowPrivate.
	Named []*url.URL
}

// Place is what kind of registry it is, and where. It is a part of the configuration
// file, whose reference is made of the comments here.
type Place struct {
	// What kind of registry it is, which decides the known token endpoints and
	// how refusals are read: dockerhub, ghcr, digitalocean, quay or generic.
	// Default: generic; for a built-in registry its own.
	Type Type `yaml:"type"`

	// Where it is reached: scheme, host and port; no user name, path or query.
	// http is allowed for this node (localhost) and together with allow_private.
	// Default: https://NAME; for a built-in registry its own. Required for a name
	// that is no host.
	Endpoint string `yaml:"endpoint"`

	// Other names for it in image names: hosts, or short names. An alias may not
	// be the name of an organisation. Default: none; those of a built-in registry
	// remain.
	Aliases []string `yaml:"aliases"`

	// Copies of this registry, asked in this order for the bytes that it cannot give,
	// when it cannot be reached or limits us. They get no credential and decide neither
	// tags nor access. They only supply content of images that the registry has shown
	// this caller within grace. They are reached as the registry is, with its ca_file
	// and allow_private. Default: none.
	Mirrors []Mirror `yaml:"mirrors"`
}

// Mirror is a copy of a registry.
type Mirror struct {
	// Where it is reached, written like a registry's endpoint. Required.
	URL string `yaml:"url"`
}

// Trust is whom to believe about a registry, and what may be served of it. It is a
// part of the configuration file as Place is.
type Trust struct {
	// Where tokens may be fetched besides the registry's own host and the
	// endpoints known for its type; URLs with path, without query. Credentials go
	// nowhere else. Default: none.
	TokenEndpoints []string `yaml:"token_endpoints"`

	// Certificates (PEM) of the authorities to trust for this registry, instead
	// of the system's. The file is read again at a reload. Not for an organisation's
	// own registry. Default: the system's.
	CAFile string `yaml:"ca_file"`

	// Private networks (CIDR) that this registry, its redirects and its token
	// endpoints may lead into. The host that endpoint names is always allowed.
	// Default: none.
	AllowPrivate []netip.Prefix `yaml:"allow_private"`

	// What happens to a kept image that upstream no longer has: refuse, or keep. With
	// keep it is served on, marked as stale, to those who could pull it before, as long as
	// the registry shows them something else of the repository, or did within grace, and
	// does not answer that it has no such repository. Default: refuse.
	OnNotFound OnNotFound `yaml:"on_not_found"`

	// What a proven right covers: the whole repository, or just the one object
	// that was asked for, for registries whose rights differ within a repository.
	// Either repository or object. Default: repository.
	Access Access `yaml:"access"`

	// Whether the registry shows everyone the same content under a name, if it
	// shows it at all. Only then may an organisation be served what was seen
	// without its credential. Without effect where access is object. Default:
	// false; true for built-in registries.
	UniformView bool `yaml:"uniform_view"`

	// Whether an organisation whose credential was refused is still served public
	// images, which needs uniform_view, and whether this node goes on without its own
	// credential when that is refused. Default: true.
	AnonymousFallback bool `yaml:"anonymous_fallback"`
}

// Type is the name of a kind of registry.
type Type string

// The kinds of registry.
const (
	DockerHub    Type = "dockerhub"
	GHCR         Type = "ghcr"
	DigitalOcean Type = "digitalocean"
	Quay         Type = "quay"
	Generic      Type = "generic"
)

// CountsManifests says that each GET of a manifest is counted against a limit, and a
// HEAD is not.
func (t Type) CountsManifests() bool { return t == DockerHub }

// TokenEndpoints are those of the hosted service that are not on the registry's own host;
// the dialect of the type has the same.
func (t Type) TokenEndpoints() []string {
	switch t {
	case DockerHub:
		return []string{"https://auth.docker.io/token"}
	case DigitalOcean:
		return []string{"https://api.digitalocean.com/v2/registry/auth"}
	}
	return nil
}

// Values are the kinds of registry.
func (Type) Values() []string {
	return []string{string(DockerHub), string(GHCR), string(DigitalOcean), string(Quay), string(Generic)}
}

// OnNotFound is what happens to kept images that upstream no longer has.
type OnNotFound string

// The values of on_not_found.
const (
	Refuse OnNotFound = "refuse"
	Keep   OnNotFound = "keep"
)

// Values are those of on_not_found.
func (OnNotFound) Values() []string { return []string{string(Refuse), string(Keep)} }

// Access is what one proof covers.
type Access string

// The values of access.
const (
	AccessRepository Access = "repository"
	AccessObject     Access = "object"
)

// Values are those of access.
func (Access) Values() []string { return []string{string(AccessRepository), string(AccessObject)} }

// New is the registry called name as p and t describe it: for one that is built in,
// on top of what is known of it.
func New(name, organisation string, p Place, t Trust) (*Spec, error) {
	s := &Spec{Name: name, Organisation: organisation, Place: p, Trust: t}
	if organisation == "" {
		for _, raw := range slices.Concat([]string{p.Endpoint}, t.TokenEndpoints) {
			if raw == "" {
				continue // that of a built-in registry, which nobody wrote down
			}
			u, err := url.Parse(raw)
			if err != nil {
				return nil, fmt.Errorf("registry %s: %w", name, err)
			}
			s.Named = append(s.Named, u)
		}
		if b, ok := Builtin(name); ok {
			s.Aliases = slices.Concat(b.Aliases, p.Aliases)
			s.TokenEndpoints = slices.Concat(b.TokenEndpoints, t.TokenEndpoints)
			if s.Endpoint == "" {
				s.Endpoint = b.Endpoint
			}
		}
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("registry %s: endpoint: %w", name, err)
	}
	s.Origin = origin(organisation, u)
	return s, nil
}

// Label is what it is called in metrics, which have no more series for who asks for more.
func (s *Spec) Label() string {
	if s.Unlisted {
		return "other"
	}
	return s.Name
}

// Unlisted is the registry at host, which no configuration names: over https, at public
// addresses only, without credentials, and with tokens from itself. False where host,
// which may have its port in either form, cannot be one.
func Unlisted(host string) (*Spec, bool) {
	if at := strings.LastIndexByte(host, '_'); at > 0 {
		host = host[:at] + ":" + host[at+1:]
	}
	host = strings.TrimSuffix(host, ":443") // one host is one registry, by whichever spelling
	u, err := url.Parse("https://" + host)
	name := ""
	if err == nil {
		name = u.Hostname()
	}
	ip, notIP := netip.ParseAddr(name)
	switch {
	case notIP == nil && (!ip.IsGlobalUnicast() || ip.IsPrivate()):
		return nil, false // this node, or the inside of its network
	case err != nil || u.Host != host || len(host) > 255 || strings.HasSuffix(host, ":") || strings.HasPrefix(u.Port(), "0"):
		return nil, false
	case notIP != nil && (!strings.Contains(name, ".") || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.HasSuffix(name, ".localhost") || slices.Contains(strings.Split(name, "."), "")):
		return nil, false
	}
	s, err := New(host, "", Place{Type: Generic, Endpoint: u.String()}, Trust{OnNotFound: Refuse, Access: AccessRepository, AnonymousFallback: true})
	if err != nil {
		return nil, false
	}
	s.Named, s.Unlisted = nil, true // nobody wrote it down
	return s, true
}

// Same says whether both are one registry.
func (s *Spec) Same(o *Spec) bool {
	return s == o || s != nil && o != nil && s.Unlisted && o.Unlisted && s.Name == o.Name
}

// MirrorSpec is m as a registry of its own: nobody's account, its own connections and
// breaker, and tokens from itself alone.
func (s *Spec) MirrorSpec(m Mirror) (*Spec, error) {
	u, err := url.Parse(m.URL)
	if err != nil {
		return nil, fmt.Errorf("mirror of %s: %w", s.Name, err)
	}
	return New(u.Host, s.Organisation, Place{Type: Generic, Endpoint: m.URL}, Trust{CAFile: s.CAFile, AllowPrivate: s.AllowPrivate})
}

// origin leaves the scheme's own port out, so that two spellings of one place are
// one origin.
func origin(organisation string, u *url.URL) oci.Origin {
	host := u.Host
	if p := u.Port(); u.Scheme == "https" && p == "443" || u.Scheme == "http" && p == "80" {
		host = host[:len(host)-len(p)-1]
	}
	return oci.Origin{Owner: organisation, Scheme: u.Scheme, Host: host}
}

// Uniform says whether what one caller saw tells about all. Where rights differ within
// a repository it does not: a denial of one object would not be seen to be about the
// next.
func (s *Spec) Uniform() bool { return s.UniformView && s.Access != AccessObject }

// SameReach says whether both are reached in one way, so that connections, tokens and
// what is known about accounts go on to serve when a new configuration has o in the
// place of s.
func (s *Spec) SameReach(o *Spec) bool { return reflect.DeepEqual(s.reach(), o.reach()) }

// reach leaves out what merely names a registry, or says what may be served of it. A
// new field that is not named here counts, which is the safe side: then a change of
// it makes new connections.
func (s *Spec) reach() Spec {
	r := *s
	r.Aliases = nil
	r.OnNotFound, r.Access, r.UniformView, r.AnonymousFallback = "", "", false, false
	return r
}
