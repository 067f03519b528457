package upstream

import (
	"crypto/tls"
	"errors"

	"berth/internal/share"
)

// What a server says that is kept for later is as long as it likes: a ticket of TLS may
// have 64 KiB, and the certificates 256 KiB, which are several times that when parsed.
const (
	// maxChain bounds the certificates of a server, in bytes, and maxCertificates their
	// number: crypto/x509 tries the signature of one with the keys of up to a hundred others,
	// which takes half a second. Those of registries are four at most, with less than 10 KiB.
	maxChain        = 64 << 10
	maxCertificates = 10
	// maxSession bounds one session that is kept, and keptSessions all of them: some
	// 500 of the usual kind.
	maxSession   = 32 << 10
	keptSessions = 4 << 20
)

var errLongChain = errors.New("the server sends more than 10 certificates, or 64 KiB of them")

// boundChain refuses certificates that nobody needs, before a connection holds on to them.
// They have been verified by then: a host that goes on sending such ones is taken for one in
// trouble, and left alone for longer and longer.
func boundChain(s tls.ConnectionState) error {
	size := 0
	for _, c := range s.PeerCertificates {
		size += len(c.Raw)
	}
	if size > maxChain || len(s.PeerCertificates) > maxCertificates {
		return &tls.CertificateVerificationError{Err: errLongChain} // without the certificates: errors are remembered
	}
	return nil
}

// Sessions keeps the sessions of TLS with all registries, so that a connection that takes
// the place of another one begins sooner. Whoever brings registries chooses how many
// hosts they name and how much those send: it is bounded in bytes, and shared out by whose
// the registries are.
type Sessions struct {
	kept *share.LRU[sessionKey, keptSession]
}

// NewSessions keeps none yet.
func NewSessions() *Sessions {
	return &Sessions{share.New(keptSessions, func(k sessionKey, s keptSession) int64 { return s.size + int64(len(k.server)) })}
}

type keptSession struct {
	*tls.ClientSessionState

	size int64
}

// sessionKey tells registries apart: each trusts authorities of its own.
type sessionKey struct {
	of     *sessionsOf
	server string
}

// sessionsOf are those of one registry, for its TLS.
type sessionsOf struct {
	all   *Sessions
	owner string
}

// Get finds the session with a server.
func (s *sessionsOf) Get(server string) (*tls.ClientSessionState, bool) {
	k, ok := s.all.kept.Get(sessionKey{s, server})
	return k.ClientSessionState, ok
}

// Put keeps a session with a server, unless it is larger than any real one.
func (s *sessionsOf) Put(server string, session *tls.ClientSessionState) {
	key := sessionKey{s, server}
	size := sizeOf(session)
	if size == 0 || size > maxSession {
		s.all.kept.Remove(key)
		return
	}
	s.all.kept.Add(s.owner, key, keptSession{session, size})
}

// sizeOf is how much a session would be on the wire; 0: it is none.
func sizeOf(session *tls.ClientSessionState) int64 {
	ticket, state, err := session.ResumptionState()
	if err != nil || state == nil {
		return 0
	}
	rest, err := state.Bytes()
	if err != nil {
		return 0
	}
	return int64(len(ticket) + len(rest))
}

// forget drops what is kept of this registry.
func (s *sessionsOf) forget() {
	s.all.kept.RemoveIf(func(k sessionKey, _ keptSession) bool { return k.of == s })
}
