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

	"golang.org/x/sys/unix"

	"berth/auth/token"
)

const (
	// dialTimeout bounds a look-up and the connection attempts that follow it.
	dialTimeout = 5 * time.Second
	// keepAliveAfter and keepAliveEvery are when the kernel asks whether the other
	// end is still there: an idle connection that lost it is closed before a request
	// is put on it, and one in the middle of a body before the body's own limit.
	keepAliveAfter = 10 * time.Second
	keepAliveEvery = 5 * time.Second
	// unackedLimit is how long the other end may acknowledge nothing of what was
	// sent. Without it the kernel tries for a quarter of an hour.
	unackedLimit = 15 * time.Second
)

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
		d.named[token.HostPort(u)] = true
	}
	return d
}

// DialContext connects to addr. The check runs in Control, on the address that
// is really dialled and after all look-ups: a name that answered with a public
// address a moment ago (DNS rebinding) gets no second chance.
func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	named := d.named[strings.ToLower(addr)]
	dial := net.Dialer{
		Timeout: dialTimeout, Resolver: d.resolver,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveAfter, Interval: keepAliveEvery, Count: 3},
		Control: func(_, address string, raw syscall.RawConn) error {
			limitUnacked(raw)
			if named {
				return nil
			}
			return d.check(address)
		},
	}
	return dial.DialContext(ctx, network, addr)
}

// limitUnacked asks the kernel not to wait for acknowledgements for ever. A kernel
// that cannot do that has other limits, only later ones.
func limitUnacked(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedLimit.Milliseconds())) // see above
	})
}

// isUnacknowledged says whether the kernel cannot send, or sends again and again, since
// the other end acknowledges nothing. A short request that has had some time to leave
// has not come in then.
func (c *conn) isUnacknowledged() bool {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false // it is closed
	}
	dead := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		dead = err == nil && (info.Unacked > 0 && info.Retransmits > 0 || info.Notsent_bytes > 0)
	})
	return err == nil && dead
}

func (d *dialer) check(address string) error {
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
	if err != nil || d.named[token.HostPort(u)] {
		return nil //nolint:nilerr // a host that is no address is a name
	}
	return d.policy.check(addr)
}

// canonicalHost is what registries at the same host share, however it is spelt.
func canonicalHost(u *url.URL) string {
	host := *u
	host.Host = strings.TrimSuffix(u.Hostname(), ".")
	if p := strings.TrimLeft(u.Port(), "0"); p != "" { // 0443 is dialled as 443 is
		host.Host = net.JoinHostPort(host.Host, p)
	} else if strings.Contains(host.Host, ":") {
		host.Host = "[" + host.Host + "]"
	}
	return token.HostPort(&host)
}
