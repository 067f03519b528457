package setup

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"berth/oci"
)

// Listener is one port of the node as clients see it.
type Listener struct {
	// Address is what clients write: localhost:5000.
	Address string
	// Loopback says that only this machine reaches it.
	Loopback bool
	// TLS says that it is served with a certificate.
	TLS bool
	// Token says that callers log in; the user name is their organisation.
	Token bool
	// Organisation is who everyone is on a port without tokens, or empty.
	Organisation string
	// Registry is what a name without one means. If empty, docker.io.
	Registry string
	// NameNeedsOrganisation says that image names begin with the organisation.
	NameNeedsOrganisation bool
}

// URL is where the listener is.
func (l Listener) URL() string {
	if l.TLS {
		return "https://" + l.Address
	}
	return "http://" + l.Address
}

// Is says whether url leads to the listener, under whatever name of this machine.
func (l Listener) Is(at string) bool {
	u, err := url.Parse(at)
	ours, ourErr := url.Parse(l.URL())
	if err != nil || ourErr != nil || u.Scheme != ours.Scheme || u.Port() != ours.Port() {
		return false
	}
	return u.Hostname() == ours.Hostname() || isLoopback(u.Hostname()) && isLoopback(ours.Hostname())
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// plain says that clients must be told to speak HTTP to it.
func (l Listener) plain() bool { return !l.TLS }

func (l Listener) registry() string {
	if l.Registry == "" {
		return oci.DockerHub
	}
	return l.Registry
}

// serves says whether organisation (empty: nobody in particular) can pull here.
func (l Listener) serves(organisation string) bool {
	if organisation == "" {
		return !l.Token || !l.NameNeedsOrganisation
	}
	return l.Token || l.Organisation == organisation
}

// ErrNoListener says that none of the node's ports is for what was asked.
var ErrNoListener = errors.New("no listener for this")

// ListenerFor is the port at which organisation pulls. Without one it is the
// first at which nobody has to log in, if there is such a port.
func ListenerFor(all []Listener, organisation string) (Listener, error) {
	for _, l := range all {
		if l.serves(organisation) && (organisation != "" || !l.Token) {
			return l, nil
		}
	}
	for _, l := range all {
		if l.serves(organisation) {
			return l, nil
		}
	}
	if organisation == "" {
		return Listener{}, fmt.Errorf("%w: names on this node begin with an organisation: say whose with --org", ErrNoListener)
	}
	return Listener{}, fmt.Errorf("%w: organisation %s pulls at none of %s: one of them needs callers: token, or organisation: %s", ErrNoListener, organisation, addresses(all), organisation)
}

func addresses(all []Listener) string {
	var names []string
	for _, l := range all {
		names = append(names, l.Address)
	}
	return strings.Join(names, ", ")
}

// mirror is the port at which names without organisation are answered, which is
// all that a mirror is asked for: one where nobody logs in, else one where the
// client's own login says who it is.
func mirror(all []Listener, organisation string) (Listener, bool) {
	for _, token := range []bool{false, true} {
		for _, l := range all {
			if l.Token == token && !l.NameNeedsOrganisation && l.serves(organisation) {
				return l, true
			}
		}
	}
	return Listener{}, false
}
