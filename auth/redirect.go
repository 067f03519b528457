package auth

import (
	"errors"
	"net"
	"net/url"
	"strings"
)

// Refusals of MayFollow. They name no URL: one in a Location header is a secret
// as long as its signature is good.
var (
	errScheme    = errors.New("the redirect is neither to https nor to http")
	errDowngrade = errors.New("the redirect leads from https to http")
	errUserinfo  = errors.New("the redirect carries a user name")
	errHost      = errors.New("the redirect names no host")
)

// MayFollow says whether a redirect from one URL to another (already made
// absolute) may be followed at all: to https, or from http to http, to a host,
// without user information. Whether credentials go along is for SameOrigin to
// say, and which addresses may be dialled for the dialer.
func MayFollow(from, to *url.URL) error {
	switch {
	case to.Scheme != "https" && to.Scheme != "http" || to.Opaque != "":
		return errScheme
	case to.User != nil:
		return errUserinfo
	case to.Hostname() == "":
		return errHost
	case to.Scheme == "http" && from.Scheme != "http":
		return errDowngrade
	}
	return nil
}

// SameOrigin says whether a and b have scheme, host and port in common. Only
// then may an Authorization header for a be sent to b. net/http is more
// generous: it takes sub-domains, other ports and http for the same place.
func SameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && a.Opaque == "" && b.Opaque == "" && a.User == nil && b.User == nil &&
		a.Hostname() != "" && hostPort(a) == hostPort(b)
}

// hostPort is host and port in lower case, with the port that the scheme
// implies. Names are compared as they are: a dot at the end or another spelling
// of an address makes another host.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "https":
			port = "443"
		case "http":
			port = "80"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
