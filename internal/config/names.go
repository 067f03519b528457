package config

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"berth/internal/registry"
	"berth/internal/suggest"
	"berth/oci"
)

// names knows every registry of the platform under every spelling: its name,
// its aliases, and each of them as it stands in a path (reg.acme.com_5443).
type names struct {
	canonical map[string]string // spelling to name
	builtin   map[string]bool   // by name
	places    map[string]string // host:port that is asked for a registry, to its name
}

// newNames knows the registries that are built in.
func newNames() *names {
	n := &names{canonical: map[string]string{}, builtin: map[string]bool{}, places: map[string]string{}}
	for _, b := range registry.Builtins() {
		n.builtin[b.Name] = true
		for _, s := range append(b.Aliases, b.Name) {
			n.add(s, b.Name)
			n.place("https://"+s, b.Name)
		}
	}
	for _, b := range registry.Builtins() {
		n.placeAll(b.Name, b.Place, b.Trust)
	}
	return n
}

// place notes that raw, a URL, is asked for the registry called name. Who was there first
// stays.
func (n *names) place(raw, name string) {
	if u, why := parseURL(raw); why == "" && n.places[placeOf(u)] == "" {
		n.places[placeOf(u)] = name
	}
}

func (n *names) placeAll(name string, p registry.Place, t registry.Trust) {
	n.place(p.Endpoint, name)
	for _, m := range p.Mirrors {
		n.place(m.URL, name)
	}
	for _, raw := range append(p.Type.TokenEndpoints(), t.TokenEndpoints...) {
		n.place(raw, name)
	}
}

// placeRegistries notes where the platform's registries are.
func (n *names) placeRegistries(registries map[string]Registry) {
	for _, name := range slices.Sorted(maps.Keys(registries)) {
		n.placeAll(name, registries[name].Place, registries[name].Trust)
	}
}

// add makes spelling a name of the registry called name. If it belongs to
// another registry already, nothing changes and that one is returned.
func (n *names) add(spelling, name string) (other string) {
	for _, s := range [...]string{spelling, oci.PathForm(spelling)} {
		if other, ok := n.canonical[s]; ok && other != name {
			return other
		}
	}
	n.canonical[spelling], n.canonical[oci.PathForm(spelling)] = name, name
	return ""
}

func (n *names) knows(spelling string) bool { return n.canonical[spelling] != "" }

// resolve is the name that spelling stands for, or spelling itself.
func (n *names) resolve(spelling string) string {
	if name := n.canonical[spelling]; name != "" {
		return name
	}
	return spelling
}

// nicknames are how people call registries that are built in: by their type, or by
// the site where one signs up.
var nicknames = [...][2]string{
	{"dockerhub", oci.DockerHub}, {"docker-hub", oci.DockerHub}, {"docker", oci.DockerHub}, {"hub", oci.DockerHub},
	{"docker.com", oci.DockerHub}, {"hub.docker.com", oci.DockerHub},
	{"ghcr", "ghcr.io"}, {"github", "ghcr.io"}, {"github.com", "ghcr.io"},
	{"quay", "quay.io"},
	{"digitalocean", digitalOcean}, {"digitalocean.com", digitalOcean},
}

// orMeant ends a complaint about a registry that is not there: with the one that
// was probably meant; empty if none is near.
func (n *names) orMeant(s string) string {
	for _, nick := range nicknames {
		if strings.EqualFold(s, nick[0]) && n.builtin[nick[1]] {
			return ", or write " + quote(nick[1]) + " if that is meant"
		}
	}
	known := slices.Sorted(maps.Keys(n.canonical))
	known = slices.DeleteFunc(known, func(spelling string) bool { return spelling == s || n.canonical[spelling] != spelling })
	if near := suggest.Nearest(s, known); near != "" {
		return ", or write " + quote(near) + " if that is meant"
	}
	return ""
}

// with is a copy that more names can be added to.
func (n *names) with() *names {
	copied := *n
	copied.canonical = maps.Clone(n.canonical)
	return &copied
}

// registryNames checks names and aliases of registries and adds them to n.
// Names come first: an alias that is also a name is the alias's fault.
func (k *checker) registryNames(registries map[string]Registry, n *names, path string) {
	for _, name := range slices.Sorted(maps.Keys(registries)) {
		if n.builtin[name] && k.organisation == "" {
			continue // adjusted
		}
		k.registryName(name, name, n, key(path, name))
	}
	for _, name := range slices.Sorted(maps.Keys(registries)) {
		for i, alias := range registries[name].Aliases {
			at := indexed(key(path, name)+".aliases", i)
			switch {
			case alias == name:
				k.errorf(at, "%s is the registry's name already: remove it here", quote(alias))
			case k.organisation != "" && k.hasOrganisation(alias):
				k.errorf(at, "%s is the name of an organisation, and image names may begin with that: choose another alias", quote(alias))
			default:
				k.registryName(alias, name, n, at)
				k.shadows(alias, at)
			}
		}
	}
}

// shadows warns of an alias that may be somebody's name at Docker Hub: images are
// written as NAME/app there, without any registry. A Docker ID has 4 to 30 lower-case
// letters and digits (docs.docker.com/accounts). What an organisation calls its own
// registry is its own business.
func (k *checker) shadows(alias, path string) {
	hub := slices.ContainsFunc(k.c.Listeners, func(l Listener) bool { return l.Registry == oci.DockerHub })
	if !hub || k.organisation != "" || len(alias) < 4 || len(alias) > 30 || strings.Trim(alias, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return
	}
	k.warnf(path, "if %[1]s is somebody at Docker Hub too, %[2]s/app no longer means his images: choose an alias with a dot or a dash, or write docker.io/%[2]s/app for those", quote(alias), alias)
}

// registryName checks one spelling of the registry called name and adds it to n.
func (k *checker) registryName(spelling, name string, n *names, path string) {
	if why := badRegistryName(spelling); why != "" {
		k.errorf(path, "%s", why)
		return
	}
	if k.organisation != "" && (k.names.knows(spelling) || k.names.knows(oci.PathForm(spelling))) {
		k.errorf(path, "the platform already has a registry %s: credentials for it go under credentials; a registry of your own needs another name", quote(spelling))
		return
	}
	if other := n.add(spelling, name); other != "" {
		k.errorf(path, "%s is already a name of registry %s: choose another name, or adjust %s itself", quote(spelling), other, other)
	}
}

// badRegistryName says what is wrong with a registry's name or alias; empty if
// nothing is. It must be good as a component of a path, but for a port.
func badRegistryName(s string) string {
	host, port, hasPort := strings.Cut(s, ":")
	switch {
	case s == "library" || s == "v2":
		return quote(s) + " begins other image names already: choose another name"
	case strings.ToLower(s) != s:
		return quote(s) + " has capital letters, which image names may not have: write it in lower case"
	case strings.Contains(s, "/"):
		return quote(s) + " has a slash: write only the host, as in registry.example.com or reg.example.com:5443"
	case !oci.ValidName(host) || hasPort && !validPort(port):
		return quote(s) + " is no name for a registry: write a host, as in registry.example.com or reg.example.com:5443, or a short name"
	}
	return ""
}

func validPort(s string) bool {
	return s != "" && len(s) <= 5 && s[0] != '0' && strings.Trim(s, "0123456789") == "" && (len(s) < 5 || s <= "65535")
}

// hostLike says that https://NAME makes sense without being told.
func hostLike(name string) bool { return strings.ContainsAny(name, ".:") || name == "localhost" }

const (
	maxOrganisation  = 128
	organisationForm = "use lower-case letters and digits with single . _ or - between them"
)

// ValidOrganisation says whether s may be an organisation's name:
// [a-z0-9]+([._-][a-z0-9]+)*, at most 128 bytes.
func ValidOrganisation(s string) bool {
	return len(s) <= maxOrganisation && oci.ValidName(s) &&
		!strings.Contains(s, "/") && !strings.Contains(s, "__") && !strings.Contains(s, "--")
}

// validHost says whether s is a host name in lower case, or an IP address.
func validHost(s string) bool {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Zone() == ""
	}
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// plainName says whether s may name a program, a systemd socket or a systemd
// credential: no separator, not hidden, not an option.
func plainName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+@"
	return s != "" && len(s) <= 255 && s[0] != '.' && s[0] != '-' && strings.Trim(s, letters) == ""
}
