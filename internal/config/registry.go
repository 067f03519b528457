package config

import (
	"net/netip"
	"strings"
)

// Registry is one upstream. An organisation may have some of its own, which are
// narrower: https only, public addresses unless organisation_registries says
// otherwise, token endpoints on the endpoint's own host, no ca_file, no credential.
type Registry struct {
	// What kind of registry it is, which decides the known token endpoints and
	// how refusals are read: dockerhub, ghcr, digitalocean, quay or generic.
	// Default: generic; for a built-in registry its own.
	Type RegistryType `yaml:"type"`

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
	// when it cannot be reached or limits us. They get no credential, and what a tag
	// means and who may have what is never theirs to say: they help with images that
	// the registry itself has shown to the caller within grace. They are reached as
	// the registry is, with its ca_file and allow_private. Default: none.
	Mirrors []Mirror `yaml:"mirrors"`

	// What callers without an account for this registry go as, so that they share
	// its rate limit. It must be able to read public images only: everyone sees
	// what it sees. Where it is refused, or its secret cannot be used, public images
	// go on without it (see anonymous_fallback), with a warning, and it is left
	// alone for a while, as an organisation's is. Not for an organisation's own
	// registry. Default: none.
	Credential *Account `yaml:"credential"`

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
	// keep it is served on, marked as stale, to those who could pull it before, unless
	// the registry answers that it has no such repository. Default: refuse.
	OnNotFound OnNotFound `yaml:"on_not_found"`

	// What a proven right covers: the whole repository, or just the one object
	// that was asked for, for registries whose rights differ within a repository.
	// Either repository or object. Default: repository.
	Access Access `yaml:"access"`

	// Whether the registry shows everyone the same content under a name, if it
	// shows it at all. Only then may an organisation be served what was seen
	// without its credential. Without effect where access is object. Default:
	// false; true for built-in registries.
	UniformView *bool `yaml:"uniform_view"`

	// Whether an organisation whose credential was refused is still served public
	// images, which needs uniform_view, and whether this node goes on without its own
	// credential when that is refused. Default: true.
	AnonymousFallback bool `yaml:"anonymous_fallback"`
}

// Mirror is a copy of a registry.
type Mirror struct {
	// Where it is reached, written like a registry's endpoint. Required.
	URL string `yaml:"url"`
}

// RegistryType is a kind of registry.
type RegistryType string

// The kinds of registry.
const (
	TypeDockerHub    RegistryType = "dockerhub"
	TypeGHCR         RegistryType = "ghcr"
	TypeDigitalOcean RegistryType = "digitalocean"
	TypeQuay         RegistryType = "quay"
	TypeGeneric      RegistryType = "generic"
)

func (RegistryType) values() []string {
	return []string{string(TypeDockerHub), string(TypeGHCR), string(TypeDigitalOcean), string(TypeQuay), string(TypeGeneric)}
}

// OnNotFound is what happens to kept images that upstream no longer has.
type OnNotFound string

// The values of on_not_found.
const (
	Refuse OnNotFound = "refuse"
	Keep   OnNotFound = "keep"
)

func (OnNotFound) values() []string { return []string{string(Refuse), string(Keep)} }

// Access is what one proof covers.
type Access string

// The values of access.
const (
	AccessRepository Access = "repository"
	AccessObject     Access = "object"
)

func (Access) values() []string { return []string{string(AccessRepository), string(AccessObject)} }

func (r *Registry) setDefaults() {
	r.OnNotFound = Refuse
	r.Access = AccessRepository
	r.AnonymousFallback = true
}

// resolve fills in what follows from the registry's name, and writes URLs in
// their one form. What is built in is not known here and stays empty.
func (r *Registry) resolve(name string, builtin bool, in folder) {
	if r.Type == "" && !builtin {
		r.Type = TypeGeneric
	}
	if r.Endpoint == "" && !builtin && hostLike(name) {
		r.Endpoint = "https://" + name
	}
	r.Endpoint = normalEndpoint(r.Endpoint)
	for i := range r.Mirrors {
		r.Mirrors[i].URL = normalEndpoint(r.Mirrors[i].URL)
	}
	for i, raw := range r.TokenEndpoints {
		if u, why := parseURL(raw); why == "" {
			r.TokenEndpoints[i] = u.String()
		}
	}
	r.CAFile = in.absolute(r.CAFile)
	if r.Credential != nil {
		r.Credential.resolve(in)
	}
}

func (k *checker) registry(name string, r *Registry, path string) {
	if badRegistryName(name) != "" {
		return // already said, and everything else may follow from it
	}
	switch {
	case r.Endpoint != "":
		k.endpoint(path+".endpoint", r, r.Endpoint)
	case !k.names.builtin[name]:
		k.errorf(path+".endpoint", "the address is missing: write it as https://registry.example.com%s", k.names.orMeant(name))
	}
	for i, m := range r.Mirrors {
		k.endpoint(indexed(path+".mirrors", i)+".url", r, m.URL)
	}
	for i, raw := range r.TokenEndpoints {
		k.tokenEndpoint(indexed(path+".token_endpoints", i), r, raw)
	}
	if k.organisation != "" {
		k.narrowRegistry(r, path)
		return
	}
	if r.Credential != nil {
		k.account(r.Credential, path+".credential", r.Type == TypeDigitalOcean || name == digitalOcean)
	}
}

// endpoint checks the address of a registry or a mirror.
func (k *checker) endpoint(path string, r *Registry, raw string) {
	if raw == "" {
		k.errorf(path, "the address is missing: write it as https://registry.example.com")
		return
	}
	u, why := parseEndpoint(raw)
	if why != "" {
		k.errorf(path, "%s", why)
		return
	}
	k.scheme(path, r, u.Scheme, u.Hostname())
	k.publicHost(path, r, u.Hostname())
}

func (k *checker) tokenEndpoint(path string, r *Registry, raw string) {
	u, why := parseURL(raw)
	if why != "" {
		k.errorf(path, "%s", why)
		return
	}
	k.scheme(path, r, u.Scheme, u.Hostname())
	k.publicHost(path, r, u.Hostname())
	if k.organisation == "" {
		return
	}
	if own, why := parseEndpoint(r.Endpoint); why == "" && !strings.EqualFold(own.Hostname(), u.Hostname()) {
		k.errorf(path, "an organisation's registry may send its credential to its own host only, %s: remove this, or ask the operator to add the registry under registries", own.Hostname())
	}
}

func (k *checker) scheme(path string, r *Registry, scheme, host string) {
	switch {
	case scheme == "https":
	case k.organisation != "":
		k.errorf(path, "an organisation's registry must use https: write https://")
	case !loopbackHost(host) && len(r.AllowPrivate) == 0:
		k.errorf(path, "http would send images and credentials readable for everyone on the way: write https://, or list the private network in allow_private")
	}
}

// publicHost refuses a private address that an organisation wrote down. What a
// name leads to is judged when it is dialled.
func (k *checker) publicHost(path string, r *Registry, host string) {
	if k.organisation == "" {
		return
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if loopbackHost(host) {
			k.errorf(path, "an organisation's registry may not be on this node: name its public host")
		}
		return
	}
	if ip = ip.Unmap(); !publicAddress(ip) && !contains(r.AllowPrivate, ip) {
		k.errorf(path, "%s is no public address: name a public host, or list the network in allow_private if the operator opened it", ip)
	}
}

// narrowRegistry holds what only the operator may give.
func (k *checker) narrowRegistry(r *Registry, path string) {
	if r.CAFile != "" {
		k.errorf(path+".ca_file", "an organisation's registry is trusted by the system's authorities only: remove it, or ask the operator to add the registry under registries")
	}
	if r.Credential != nil {
		k.errorf(path+".credential", "only the organisation itself uses this registry: put the account under credentials")
	}
	for i, p := range r.AllowPrivate {
		if !covered(k.foreign.AllowPrivate, p) {
			k.errorf(indexed(path+".allow_private", i), "the operator did not open %s to organisations: remove it, or ask for organisation_registries.allow_private", p)
		}
	}
}
