package node

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"time"

	"berth/internal/config"
	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
	"berth/auth/token"
	"berth/upstream/dialect"
)

// registryClient is a registry's connections, its tokens and what is remembered about its
// credentials. It outlives the generation that made it as long as configurations ask
// for the same.
type registryClient struct {
	key       clientKey
	upstream  *upstream.Registry
	authority *token.Client
	mirrors   []*upstream.Registry
	close     func()
}

// clientKey is everything that decides how a registry is reached. What merely names
// it, or says what may be released, is not part of it.
type clientKey struct {
	name           string
	origin         oci.Origin
	kind           dialect.Type
	named, mirrors []string
	allowPrivate   []netip.Prefix
	tokenEndpoints []string
	cas            [sha256.Size]byte // of the file; zero: the system's
}

// registryKey is whose registry of which name it is: two organisations may each bring a registry of
// one name.
type registryKey struct{ owner, name string }

func newClientKey(s *registrySpec, cas []byte) clientKey {
	w := clientKey{
		name: s.name, origin: s.origin, kind: s.kind,
		allowPrivate: s.allowPrivate, tokenEndpoints: s.tokenEndpoints,
	}
	for _, u := range s.named {
		w.named = append(w.named, u.String())
	}
	for _, u := range s.mirrors {
		w.mirrors = append(w.mirrors, u.String())
	}
	if cas != nil {
		w.cas = sha256.Sum256(cas)
	}
	return w
}

func (w *clientKey) equal(other *clientKey) bool { return reflect.DeepEqual(w, other) }

// registryClients are those of one generation.
type registryClients map[registryKey]*registryClient

// closeAllBut closes those that are not in kept.
func (all registryClients) closeAllBut(kept registryClients) {
	for at, l := range all {
		if kept[at] != l {
			l.close()
		}
	}
}

// names are those under which a client's requests are counted.
func (c *registryClient) names() []string {
	all := []string{c.key.name}
	for _, raw := range c.key.mirrors {
		if u, err := url.Parse(raw); err == nil { // it was one before
			all = append(all, u.Host)
		}
	}
	return all
}

// know says whether a registry or a mirror has the name, whoever brought it.
func (all registryClients) know(name string) bool {
	for _, l := range all {
		if slices.Contains(l.names(), name) {
			return true
		}
	}
	return false
}

// forget drops what is known about an account that is gone, and its series.
func (all registryClients) forget(organisation, registry, account string) {
	for at, l := range all {
		if at.name == registry && (at.owner == "" || at.owner == organisation) {
			l.upstream.Forget(organisation, account)
		}
	}
}

// client is the one in force if it will do, and else a new one. It does not go
// upstream.
func (n *node) client(s *registrySpec) (*registryClient, error) {
	pem, err := readCAs(s.caFile)
	if err != nil {
		return nil, err
	}
	w := newClientKey(s, pem)
	if n.current != nil {
		if l := n.current.clients[registryKey{s.owner, s.name}]; l != nil && l.key.equal(&w) {
			return l, nil
		}
	}
	return n.makeClient(s, w, pem)
}

// makeClient makes a new one. What needs a restart is as it was at the start.
func (n *node) makeClient(s *registrySpec, w clientKey, pem []byte) (*registryClient, error) {
	m := clientMaker{version: n.version, limits: n.started.Upstream, log: n.log, upstream: n.upstream, auth: n.auth, now: n.now}
	return m.client(s, w, pem)
}

// clientMaker is what all clients of a node have in common.
type clientMaker struct {
	version  string
	limits   config.Upstream
	log      *slog.Logger
	upstream *upstream.Metrics
	auth     *credential.Metrics
	now      func() time.Time
	// before stands before the transport for challenges and tokens. It may be nil.
	before func(http.RoundTripper) http.RoundTripper
}

func (m clientMaker) client(s *registrySpec, w clientKey, pem []byte) (*registryClient, error) {
	l := &registryClient{key: w}
	var err error
	if l.upstream, l.authority, err = m.registry(s, pem); err != nil {
		return nil, err
	}
	for _, u := range s.mirrors {
		mirror, _, err := m.registry(s.mirror(u), pem)
		if err != nil {
			l.closeAll()
			return nil, fmt.Errorf("mirror %s: %w", u.Host, err)
		}
		l.mirrors = append(l.mirrors, mirror)
	}
	l.close = l.closeAll
	return l, nil
}

// closeAll closes the registry and its mirrors.
func (c *registryClient) closeAll() {
	c.upstream.Close()
	for _, m := range c.mirrors {
		m.Close()
	}
}

// mirrorSources are the mirrors, asked as nobody.
func (c *registryClient) mirrorSources() []oci.Source {
	var all []oci.Source
	for _, m := range c.mirrors {
		all = append(all, m.As(upstream.Identity{}))
	}
	return all
}

// registry makes what asks one origin.
func (m clientMaker) registry(s *registrySpec, pem []byte) (*upstream.Registry, *token.Client, error) {
	cas, err := pool(s.caFile, pem)
	if err != nil {
		return nil, nil, err
	}
	var authority *token.Client
	o := upstream.Options{
		Name: s.name, Origin: s.origin, Type: s.kind,
		AllowPrivate: s.allowPrivate, Named: slices.Clone(s.named),
		CAs: cas, Connections: m.limits.Connections,
		UserAgent: "berth/" + m.version, Logger: m.log, Metrics: m.upstream, Now: m.now,
		CoolDown: func(organisation, account string, until time.Time) {
			m.auth.CoolDownOf(organisation, s.name, account, until)
		},
		Authority: func(t http.RoundTripper) (_ upstream.Authority, err error) {
			if m.before != nil {
				t = m.before(t)
			}
			authority, err = token.New(token.Options{
				Origin: s.origin, Registry: s.name, Type: s.kind, TokenEndpoints: s.tokenEndpoints,
				Transport: t, UserAgent: "berth/" + m.version, Metrics: m.auth, Logger: m.log, Now: m.now,
			})
			return authority, err
		},
	}
	if m.limits.Proxy != "" {
		if o.Proxy, err = url.Parse(m.limits.Proxy); err != nil {
			return nil, nil, err
		}
	}
	r, err := upstream.New(o)
	return r, authority, err
}

// retireFor is how long requests may go on with what they started with after a
// configuration took it away. Until then its connections close when they idle,
// so what is kept is small.
const retireFor = 24 * time.Hour

// retired is a client that no configuration asks for any more.
type retired struct {
	*registryClient

	at time.Time
}

// retire keeps the clients of old that the new generation does not use, and closes those
// that have been kept for long.
func (n *node) retire(old registryClients) {
	now := n.now()
	for at, l := range old {
		if n.current.clients[at] != l {
			n.retired = append(n.retired, retired{l, now})
		}
		for _, name := range l.names() {
			if !n.current.clients.know(name) {
				n.upstream.Forget(name)
			}
		}
	}
	n.retired = slices.DeleteFunc(n.retired, func(r retired) bool {
		if now.Sub(r.at) < retireFor {
			return false
		}
		r.close()
		return true
	})
}
