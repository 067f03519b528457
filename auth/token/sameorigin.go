package token

import (
	"net"
	"net/url"
	"strings"
)

// SameOrigin says whether a and b have scheme, host and port in common. Only
// then may an Authorization header for a be sent to b. net/http is more
// generous: it takes sub-domains, other ports and http for the same place.
func SameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && a.Opaque == "" && b.Opaque == "" && a.User == nil && b.User == nil &&
		a.Hostname() != "" && HostPort(a) == HostPort(b)
}

// HostPort is the host and port of u in lower case, with the port that the scheme
// implies: the form in which net/http asks for a connection. Names are compared as they
// are: a dot at the end or another spelling of an address makes another host.
func HostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "https":
			port = "443"
		case "http":
			port = "80"
		case "socks5", "socks5h":
			port = "1080"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
