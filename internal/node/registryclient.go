package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"berth/internal/config"
	"berth/internal/hung"
	"berth/internal/limit"
	"berth/internal/registry"
	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
	"berth/auth/token"
	"berth/upstream/dialect"
)

// registryClient is a registry's connections, its tokens and what is remembered about its
// credentials. It outlives the generation that made it as long as configurations reach
// the registry in the same way.
type registryClient struct {
	spec     *registry.Spec
	cas      [sha256.Size]byte // of the ca_file's content; zero: the system's
	upstream *upstream.Registry
	mirrors  []*upstream.Registry
	close    func()
}

// registryKey is whose registry of which name it is: two organisations may each bring
// a registry of one name.
type registryKey struct{ organisation, name string }

func keyOf(s *registry.Spec) registryKey { return registryKey{s.Organisation, s.Name} }

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
	all := []string{c.spec.Name}
	for _, m := range c.spec.Mirrors {
		if u, err := url.Parse(m.URL); err == nil { // it was one before
			all = append(all, u.Host)
		}
	}
	return all
}

// names are those of all registries and mirrors, of whatever organisation.
func (all registryClients) names() map[string]bool {
	names := make(map[string]bool, len(all))
	for _, c := range all {
		for _, name := range c.names() {
			names[name] = true
		}
	}
	return names
}

// forget drops what is known about an account that is gone, and its series.
func (all registryClients) forget(organisation, name, account string) {
	for at, l := range all {
		if at.name == name && (at.organisation == "" || at.organisation == organisation) {
			l.upstream.Forget(organisation, account)
		}
	}
}

// client is the one in force if that reaches the registry in the same way, and else a
// new one. It does not go upstream. A ca_file that hangs is what it was: nobody else's
// change waits for it.
func (n *node) client(s *registry.Spec) (*registryClient, error) {
	var inForce *registryClient
	if n.current != nil {
		if c := n.current.clients[keyOf(s)]; c != nil && c.spec.SameReach(s) {
			inForce = c
		}
	}
	pem, err := n.readCAs(s.CAFile)
	_, hangs := errors.AsType[*hung.Error](err)
	switch {
	case inForce != nil && (hangs || err == nil && inForce.cas == sumOf(pem)):
		return inForce, nil
	case err != nil:
		return nil, fmt.Errorf("registry %s: %w", s.Name, err)
	}
	return n.newClient(s, pem)
}

func (n *node) newClient(s *registry.Spec, pem []byte) (*registryClient, error) {
	// What needs a restart is as it was at the start.
	m := clientMaker{version: n.version, limits: n.started.Upstream, log: n.log, upstream: n.upstream, auth: n.auth, hosts: n.hosts, memory: n.memory, dialled: n.dialled, sessions: n.sessions, tokens: n.tokens, now: n.now}
	return m.client(s, pem)
}

// sumOf tells whether a ca_file has changed.
func sumOf(pem []byte) (sum [sha256.Size]byte) {
	if pem != nil {
		sum = sha256.Sum256(pem)
	}
	return sum
}

// clientMaker is what all clients of a node have in common.
type clientMaker struct {
	version  string
	limits   config.Upstream
	log      *slog.Logger
	upstream *upstream.Metrics
	auth     *credential.Metrics
	hosts    *limit.Hosts
	memory   *limit.Pool
	dialled  *upstream.Connections
	sessions *upstream.Sessions
	tokens   *token.Kept
	now      func() time.Time
	// before stands before the transport for challenges and tokens. It may be nil.
	before func(http.RoundTripper) http.RoundTripper
}

func (m clientMaker) client(s *registry.Spec, pem []byte) (*registryClient, error) {
	c := &registryClient{spec: s, cas: sumOf(pem)}
	var err error
	if c.upstream, err = m.open(s, pem); err != nil {
		return nil, fmt.Errorf("registry %s: %w", s.Name, err)
	}
	for _, one := range s.Mirrors {
		mirror, err := m.openMirror(s, one, pem)
		if err != nil {
			c.closeAll()
			return nil, fmt.Errorf("registry %s: mirror %s: %w", s.Name, one.URL, err)
		}
		c.mirrors = append(c.mirrors, mirror)
	}
	c.close = c.closeAll
	return c, nil
}

func (m clientMaker) openMirror(s *registry.Spec, one registry.Mirror, pem []byte) (*upstream.Registry, error) {
	spec, err := s.MirrorSpec(one)
	if err != nil {
		return nil, err
	}
	return m.open(spec, pem)
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

// open makes what asks one origin.
func (m clientMaker) open(s *registry.Spec, pem []byte) (*upstream.Registry, error) {
	cas, err := pool(s.CAFile, pem)
	if err != nil {
		return nil, err
	}
	kind, _ := dialect.TypeNamed(string(s.Type)) // the configuration was checked
	if s.Organisation != "" {
		kind.TokenEndpoints = nil // they are the platform's place, whatever an organisation calls its own
	}
	o := upstream.Options{
		Name: s.Name, Label: s.Label(), Origin: s.Origin, Type: kind,
		AllowPrivate: s.AllowPrivate, Named: s.Named,
		CAs: cas, Hosts: m.hosts, Memory: m.memory, Open: m.dialled, Sessions: m.sessions, Tokens: m.tokens,
		UserAgent: "berth/" + m.version, Logger: m.log, Metrics: m.upstream, Now: m.now,
		CoolDown: func(organisation, account string, until time.Time) {
			m.auth.CoolDownOf(organisation, s.Label(), account, until)
		},
		TokenEndpoints: s.TokenEndpoints, Auth: m.auth, Before: m.before,
	}
	if m.limits.Proxy != "" {
		if o.Proxy, err = url.Parse(m.limits.Proxy); err != nil {
			return nil, err
		}
	}
	return upstream.New(o)
}

// retireFor is how long requests may go on with what they started with after a
// configuration took it away. Until then its connections close when they idle,
// so what is kept is small.
const retireFor = 24 * time.Hour

// mostRetired is how many of an organisation's own registries and mirrors are kept so: it may
// change its file as often as it likes.
const mostRetired = 1000

// retired is a client that no configuration asks for any more.
type retired struct {
	*registryClient

	at time.Time
}

// retire keeps the clients of old that the new generation does not use, and closes those
// that have been kept for long.
func (n *node) retire(old registryClients) {
	now := n.now()
	names := n.current.clients.names()
	for at, l := range old {
		if n.current.clients[at] == l {
			continue
		}
		n.retired = append(n.retired, retired{l, now})
		for _, name := range l.names() {
			if !names[name] {
				n.upstream.Forget(name)
			}
		}
	}
	kept := map[string]int{} // by organisation, the newest first
	slices.Reverse(n.retired)
	n.retired = slices.DeleteFunc(n.retired, func(r retired) bool {
		whose := r.spec.Organisation
		kept[whose] += 1 + len(r.mirrors)
		if now.Sub(r.at) < retireFor && (whose == "" || kept[whose] <= mostRetired) {
			return false
		}
		r.close()
		return true
	})
	slices.Reverse(n.retired)
}
