package token

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"berth/oci"
)

// maxRealm bounds a realm, in bytes.
const maxRealm = 2048

// Realms says which token endpoints may learn the credentials of an origin. A
// registry names its token endpoint in a challenge, so a broken or malicious
// one (or whoever answers in its name) could name any; sharing a registrable
// domain is no proof either, as on azurecr.io or amazonaws.com, where the
// neighbour is somebody else.
type Realms struct {
	origin  *url.URL
	allowed []*url.URL
}

// NewRealms allows origin's own host and port, and exactly these endpoints. Errors:
// an origin or an endpoint that cannot be one.
func NewRealms(origin oci.Origin, endpoints ...string) (*Realms, error) {
	base, err := url.Parse(origin.URL())
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.User != nil {
		return nil, fmt.Errorf("%.200q is not an origin: https or http, and a host", origin.URL())
	}
	r := &Realms{origin: base}
	for _, e := range endpoints {
		u, err := r.parse(e)
		if err != nil {
			return nil, fmt.Errorf("token endpoint %w", err)
		}
		r.allowed = append(r.allowed, u)
	}
	return r, nil
}

// Check returns the realm as a URL, or says why it must not be asked.
func (r *Realms) Check(realm string) (*url.URL, error) {
	u, err := r.parse(realm)
	if err != nil {
		return nil, err
	}
	if SameOrigin(r.origin, u) {
		return u, nil
	}
	for _, a := range r.allowed {
		if SameOrigin(a, u) && a.EscapedPath() == u.EscapedPath() {
			return u, nil
		}
	}
	return nil, fmt.Errorf("%s is neither on %s nor among its known token endpoints", shown(u), r.origin.Host)
}

// allows says whether the realm may be asked.
func (r *Realms) allows(realm string) bool {
	_, err := r.Check(realm)
	return err == nil
}

// parse takes only what has one meaning: every reader of the URL, whichever
// library, must see the same host in it.
func (r *Realms) parse(realm string) (*url.URL, error) {
	switch {
	case realm == "":
		return nil, errors.New("is missing")
	case len(realm) > maxRealm:
		return nil, fmt.Errorf("is longer than %d bytes", maxRealm)
	case strings.ContainsFunc(realm, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '\\' }):
		return nil, errors.New("has characters that no URL has")
	}
	u, err := url.Parse(realm)
	if err != nil {
		return nil, errors.New("is not a URL") // the parser's error would quote it
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("%s carries a user name", shown(u))
	case u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("names no host")
	case u.Fragment != "":
		return nil, fmt.Errorf("%s has a fragment", shown(u))
	case u.Scheme == "http" && r.origin.Scheme == "http":
	case u.Scheme != "https":
		return nil, fmt.Errorf("%s is not https", shown(u))
	}
	return u, nil
}

// shown is a URL fit to be shown: scheme, host and path, bounded.
func shown(u *url.URL) string {
	return oci.OneLine((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), 200)
}
