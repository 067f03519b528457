package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// dialTimeout bounds a look-up and the connection attempts that follow it.
const dialTimeout = 5 * time.Second

// dialer opens connections to whatever host is asked for, but only to
// addresses that the policy lets through.
type dialer struct {
	policy   policy
	resolver *net.Resolver
	// named holds the host:port pairs that the operator wrote down: those may
	// lie anywhere.
	named map[string]bool
}

func newDialer(allow []netip.Prefix, named []*url.URL, resolver *net.Resolver) *dialer {
	d := &dialer{policy: policy{allow: allow}, resolver: resolver, named: make(map[string]bool, len(named))}
	for _, u := range named {
		d.named[hostPort(u)] = true
	}
	return d
}

// DialContext connects to addr. The check runs in Control, on the address that
// is really dialled and after all look-ups: a name that answered with a public
// address a moment ago (DNS rebinding) gets no second chance.
func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := net.Dialer{Timeout: dialTimeout, Resolver: d.resolver}
	if !d.named[strings.ToLower(addr)] {
		dial.Control = d.control
	}
	return dial.DialContext(ctx, network, addr)
}

func (d *dialer) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("checking an address before dialling: %w", err)
	}
	return d.policy.check(ap.Addr())
}

// literal applies the policy to a URL whose host is an address. It is for
// requests through a proxy, which dials in our place; names are its business.
func (d *dialer) literal(u *url.URL) error {
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil || d.named[hostPort(u)] {
		return nil //nolint:nilerr // a host that is no address is a name
	}
	return d.policy.check(addr)
}

var defaultPorts = map[string]string{"https": "443", "http": "80", "socks5": "1080", "socks5h": "1080"}

// hostPort is the host and port of u in lower case, with the scheme's default
// port where u has none: the form in which net/http asks for a connection.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
