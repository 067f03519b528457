package config

import (
	"net/netip"
	"net/url"
	"strings"

	"berth/internal/registry"
)

// Registry is one upstream. An organisation may have some of its own, which are
// narrower: https only, public addresses unless organisation_registries says
// otherwise, token endpoints on the endpoint's own host, no ca_file, no credential, and
// never at a host and port that a registry of the platform has, its mirrors and token
// endpoints included. With their mirrors they are 1000 at most.
type Registry struct {
	registry.Place

	// What callers without an account for this registry go as, so that they share
	// its rate limit. It must be able to read public images only: everyone sees
	// what it sees. Where it is refused, or its secret cannot be used, public images
	// go on without it (see anonymous_fallback), with a warning, and it is left
	// alone for a while, as an organisation's is. Status and metrics call this account
	// "shared". Not for an organisation's own registry. Default: none.
	Credential *Account `yaml:"credential"`

	registry.Trust
}

func (r *Registry) setDefaults(name string) {
	r.Place, r.Trust = registry.Defaults(name)
}

// resolve fills in what follows from the registry's name, and writes URLs in
// their one form. What is built in is not known here and stays empty.
func (r *Registry) resolve(name string, builtin bool, in folder) {
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
	if badRegistryName(name) != "" || k.organisation != "" && k.names.knows(name) {
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
		k.account(r.Credential, path+".credential", r.Type == registry.DigitalOcean)
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
	k.ownPlace(path, u)
}

func (k *checker) tokenEndpoint(path string, r *Registry, raw string) {
	u, why := parseURL(raw)
	if why != "" {
		k.errorf(path, "%s", why)
		return
	}
	k.scheme(path, r, u.Scheme, u.Hostname())
	k.publicHost(path, r, u.Hostname())
	k.ownPlace(path, u)
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

// ownPlace refuses what the platform asks for a registry of its own: what the operator
// says about that one, and each organisation's share of it, would be gone around.
func (k *checker) ownPlace(path string, u *url.URL) {
	if k.organisation == "" {
		return
	}
	if name := k.names.places[placeOf(u)]; name != "" {
		k.errorf(path, "%s belongs to registry %s, which the platform has: remove this, write %[2]s in image names, and put an account for it under credentials", u.Host, quote(name))
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

// Specs are all registries of this configuration: those that are built in, as adjusted,
// the platform's others, and those that organisations brought.
func (c *Config) Specs() ([]*registry.Spec, error) {
	var all []*registry.Spec
	add := func(name, organisation string, r Registry) error {
		s, err := registry.New(name, organisation, r.Place, r.Trust)
		all = append(all, s)
		return err
	}
	for _, b := range registry.Builtins() {
		r, ok := c.Registries[b.Name]
		if !ok {
			r.setDefaults(b.Name)
		}
		if err := add(b.Name, "", r); err != nil {
			return nil, err
		}
	}
	for name, r := range c.Registries {
		if _, ok := registry.Builtin(name); ok {
			continue
		}
		if err := add(name, "", r); err != nil {
			return nil, err
		}
	}
	for organisation, o := range c.Organisations {
		for name, r := range o.Registries {
			if err := add(name, organisation, r); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
