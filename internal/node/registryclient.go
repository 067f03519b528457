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

// line is a registry's connections, its tokens and what is remembered about its
// credentials. It outlives the desk that made it as long as configurations ask
// for the same.
type line struct {
	wire      wire
	upstream  *upstream.Registry
	authority *token.Client
	mirrors   []*upstream.Registry
	close     func()
}

// wire is everything that decides how a registry is reached. What merely names
// it, or says what may be released, is not part of it.
type wire struct {
	name           string
	origin         oci.Origin
	kind           dialect.Type
	named, mirrors []string
	allowPrivate   []netip.Prefix
	tokenEndpoints []string
	cas            [sha256.Size]byte // of the file; zero: the system's
}

// place is where a line lies: two organisations may each bring a registry of
// one name.
type place struct{ owner, name string }

func newWire(s *spec, cas []byte) wire {
	w := wire{
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

func (w *wire) equal(other *wire) bool { return reflect.DeepEqual(w, other) }

// lines are the lines of one desk.
type lines map[place]*line

// closeBut closes those that are not in kept.
func (all lines) closeBut(kept lines) {
	for at, l := range all {
		if kept[at] != l {
			l.close()
		}
	}
}

// names are those under which a line's requests are counted.
func (l *line) names() []string {
	all := []string{l.wire.name}
	for _, raw := range l.wire.mirrors {
		if u, err := url.Parse(raw); err == nil { // it was one before
			all = append(all, u.Host)
		}
	}
	return all
}

// know says whether a registry or a mirror has the name, whoever brought it.
func (all lines) know(name string) bool {
	for _, l := range all {
		if slices.Contains(l.names(), name) {
			return true
		}
	}
	return false
}

// forget drops what is known about an account that is gone, and its series.
func (all lines) forget(organisation, registry, account string) {
	for at, l := range all {
		if at.name == registry && (at.owner == "" || at.owner == organisation) {
			l.upstream.Forget(organisation, account)
		}
	}
}

// line is the one in force if it will do, and else a new one. It does not go
// upstream.
func (n *node) line(s *spec) (*line, error) {
	pem, err := readCAs(s.caFile)
	if err != nil {
		return nil, err
	}
	w := newWire(s, pem)
	if n.desk != nil {
		if l := n.desk.lines[place{s.owner, s.name}]; l != nil && l.wire.equal(&w) {
			return l, nil
		}
	}
	return n.newLine(s, w, pem)
}

// newLine makes a line. What needs a restart is as it was at the start.
func (n *node) newLine(s *spec, w wire, pem []byte) (*line, error) {
	m := lineMaker{version: n.version, limits: n.started.Upstream, log: n.log, upstream: n.upstream, auth: n.auth, now: n.now}
	return m.line(s, w, pem)
}

// lineMaker is what all lines of a node have in common.
type lineMaker struct {
	version  string
	limits   config.Upstream
	log      *slog.Logger
	upstream *upstream.Metrics
	auth     *credential.Metrics
	now      func() time.Time
	// before stands before the transport for challenges and tokens. It may be nil.
	before func(http.RoundTripper) http.RoundTripper
}

func (m lineMaker) line(s *spec, w wire, pem []byte) (*line, error) {
	l := &line{wire: w}
	var err error
	if l.upstream, l.authority, err = m.registry(s, pem); err != nil {
		return nil, err
	}
	for _, u := range s.mirrors {
		mirror, _, err := m.registry(s.mirror(u), pem)
		if err != nil {
			l.end()
			return nil, fmt.Errorf("mirror %s: %w", u.Host, err)
		}
		l.mirrors = append(l.mirrors, mirror)
	}
	l.close = l.end
	return l, nil
}

// end closes the registry and its mirrors.
func (l *line) end() {
	l.upstream.Close()
	for _, m := range l.mirrors {
		m.Close()
	}
}

// mirrorSources are the mirrors, asked as nobody.
func (l *line) mirrorSources() []oci.Source {
	var all []oci.Source
	for _, m := range l.mirrors {
		all = append(all, m.As(upstream.Identity{}))
	}
	return all
}

// registry makes what asks one place.
func (m lineMaker) registry(s *spec, pem []byte) (*upstream.Registry, *token.Client, error) {
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

// retired is a line that no configuration asks for any more.
type retired struct {
	*line

	at time.Time
}

// retire keeps the lines of old that the new desk does not use, and closes those
// that have been kept for long.
func (n *node) retire(old lines) {
	now := n.now()
	for at, l := range old {
		if n.desk.lines[at] != l {
			n.retired = append(n.retired, retired{l, now})
		}
		for _, name := range l.names() {
			if !n.desk.lines.know(name) {
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
