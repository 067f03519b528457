package main

import (
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"time"

	"berth/auth"
	"berth/internal/config"
	"berth/oci"
	"berth/upstream"
)

// line is a registry's connections, its tokens and what is remembered about its
// credentials. It outlives the desk that made it as long as configurations ask
// for the same.
type line struct {
	wire      wire
	upstream  *upstream.Registry
	authority *auth.Authority
	close     func()
}

// wire is everything that decides how a registry is reached. What merely names
// it, or says what may be released, is not part of it.
type wire struct {
	name           string
	origin         oci.Origin
	kind           auth.Type
	named          []string
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

// know says whether a registry has the name, whoever brought it.
func (all lines) know(registry string) bool {
	for at := range all {
		if at.name == registry {
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
	m := lineMaker{limits: n.started.Upstream, log: n.log, upstream: n.upstream, auth: n.auth, now: n.now}
	return m.line(s, w, pem)
}

// lineMaker is what all lines of a node have in common.
type lineMaker struct {
	limits   config.Upstream
	log      *slog.Logger
	upstream *upstream.Metrics
	auth     *auth.Metrics
	now      func() time.Time
	// before stands before the transport for challenges and tokens. It may be nil.
	before func(http.RoundTripper) http.RoundTripper
}

func (m lineMaker) line(s *spec, w wire, pem []byte) (*line, error) {
	l := &line{wire: w}
	cas, err := pool(s.caFile, pem)
	if err != nil {
		return nil, err
	}
	o := upstream.Options{
		Name: s.name, Origin: s.origin, Type: s.kind,
		AllowPrivate: s.allowPrivate, Named: slices.Clone(s.named),
		CAs: cas, Connections: m.limits.Connections,
		UserAgent: "berth/" + version(), Logger: m.log, Metrics: m.upstream, Now: m.now,
		CoolDown: func(organisation, account string, until time.Time) {
			m.auth.CoolDownOf(organisation, s.name, account, until)
		},
		Authority: func(t http.RoundTripper) (_ upstream.Authority, err error) {
			if m.before != nil {
				t = m.before(t)
			}
			l.authority, err = auth.NewAuthority(auth.AuthorityOptions{
				Origin: s.origin, Registry: s.name, Type: s.kind, TokenEndpoints: s.tokenEndpoints,
				Transport: t, UserAgent: "berth/" + version(), Metrics: m.auth, Logger: m.log, Now: m.now,
			})
			return l.authority, err
		},
	}
	if m.limits.Proxy != "" {
		if o.Proxy, err = url.Parse(m.limits.Proxy); err != nil {
			return nil, err
		}
	}
	if l.upstream, err = upstream.New(o); err != nil {
		return nil, err
	}
	l.close = l.upstream.Close
	return l, nil
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
		if !n.desk.lines.know(at.name) {
			n.upstream.Forget(at.name)
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
