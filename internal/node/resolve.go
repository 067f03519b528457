package node

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"

	"github.com/distribution/reference"

	"berth/internal/admin"
	"berth/internal/diagnose"
	"berth/oci"
	"berth/proxy"
	"berth/upstream/dialect"
)

// locate reads what, an image or a registry, as a pull on this node would be
// read, and puts it into s.
func (g *generation) locate(what string, s *diagnose.Subject) (*liveRegistry, error) {
	spec, ok := g.router.Lookup(s.Organisation, what)
	if !ok {
		route, ref, err := g.route(what, s.Organisation)
		if err != nil {
			return nil, err
		}
		spec, s.Repository, s.Reference = route.Registry, route.Repo, ref
	}
	kind, _ := dialect.TypeNamed(string(spec.Type)) // the configuration was checked
	s.Registry, s.Origin, s.Type = spec.Name, spec.Origin, kind
	return g.live(s.Organisation, spec)
}

// route reads an image's name: with or without the node in front of it.
func (g *generation) route(image, organisation string) (proxy.Route, string, error) {
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		return proxy.Route{}, "", &oci.Error{Class: oci.NotFound, Message: fmt.Sprintf("%q is neither a registry of this node nor the name of an image", oci.OneLine(image, 300))}
	}
	host, name := reference.Domain(ref), reference.Path(ref)
	if _, known := g.router.Lookup(organisation, host); known && host != oci.DockerHub || !known && !isHere(host) {
		name = host + "/" + name
	}
	route, err := g.router.Route(&oci.Request{Endpoint: oci.EndpointManifest, Name: name}, organisation, proxy.Naming{})
	switch r := ref.(type) {
	case reference.Canonical:
		return route, r.Digest().String(), err
	case reference.Tagged:
		return route, r.Tag(), err
	}
	return route, "latest", err
}

// isHere says whether a host, with or without a port, can only be this machine.
func isHere(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// wantedPlatform is what s names, or the node's own.
func wantedPlatform(s string) (oci.Platform, error) {
	if s == "" {
		return oci.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}, nil
	}
	p, ok := oci.ParsePlatform(s)
	if !ok {
		return p, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%.60q is no platform: name one like linux/arm64", s)}
	}
	return p, nil
}
