package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// stage is a small internet on loopback: a name server, and web servers that
// answer for every name.
type stage struct {
	dns *nameServer
	ca  *authority

	mu   sync.Mutex
	seen []seen
}

// seen is one request that reached a server.
type seen struct {
	url    string // scheme, host and path
	auth   string
	method string
	header http.Header
}

func newStage(t testing.TB) *stage {
	t.Helper()
	return &stage{dns: newNameServer(t), ca: newAuthorityCA(t)}
}

// serve starts a server and returns its port. Its certificate is good for names.
func (s *stage) serve(t testing.TB, secure bool, h http.HandlerFunc, names ...string) string {
	t.Helper()
	scheme := "http"
	if secure {
		scheme = "https"
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, seen{scheme + "://" + r.Host + r.URL.Path, r.Header.Get("Authorization"), r.Method, r.Header.Clone()})
		s.mu.Unlock()
		h(w, r)
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes that fail on purpose
	if secure {
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.ca.issue(t, names...)}}
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return mustURL(t, srv.URL).Port()
}

func (s *stage) take() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.seen
	s.seen = nil
	return all
}

// authority signs certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthorityCA(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	return a.issueUntil(t, time.Now().Add(time.Hour), names...)
}

func (a *authority) issueUntil(t testing.TB, until time.Time, names ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// nameServer answers for every name below .test, with 127.0.0.1 unless it was
// told otherwise.
type nameServer struct {
	conn net.PacketConn
	done chan struct{}

	mu      sync.Mutex
	answers map[string][][]netip.Addr // one list for each query, the last for all others
	asked   int                       // counts A questions
}

func newNameServer(t testing.TB) *nameServer {
	t.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{conn: conn, done: make(chan struct{}), answers: map[string][][]netip.Addr{}}
	go n.run()
	t.Cleanup(func() {
		_ = conn.Close()
		<-n.done
	})
	return n
}

// set says what a name resolves to: a list of addresses for each look-up.
func (n *nameServer) set(name string, lists ...[]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name+"."] = lists
}

func (n *nameServer) lookups() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *nameServer) run() {
	defer close(n.done)
	buf := make([]byte, 2048)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		n.answer(&m)
		if out, err := m.Pack(); err == nil {
			_, _ = n.conn.WriteTo(out, from)
		}
	}
}

// answer turns a question into its answer.
func (n *nameServer) answer(m *dnsmessage.Message) {
	q := m.Questions[0]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	addrs, ok := n.lookup(q)
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
}

// lookup counts a look-up by its A question: the AAAA one comes along with it.
func (n *nameServer) lookup(q dnsmessage.Question) ([]netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := q.Name.String()
	if q.Type == dnsmessage.TypeA {
		n.asked++
	}
	lists, ok := n.answers[name]
	if !ok {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, len(name) > 6 && name[len(name)-6:] == ".test."
	}
	if len(lists) == 0 {
		return nil, false
	}
	list := lists[0]
	if q.Type == dnsmessage.TypeA && len(lists) > 1 {
		n.answers[name] = lists[1:]
	}
	return list, true
}

func urls(t testing.TB, all ...string) []*url.URL {
	t.Helper()
	out := make([]*url.URL, 0, len(all))
	for _, s := range all {
		out = append(out, mustURL(t, s))
	}
	return out
}
