package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// tlsServer sends tickets of so many bytes, where that is not 0, and certificates of about
// so many more than it needs.
func tlsServer(t *testing.T, ticket, more int) (host string, cas *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(names []string) []byte {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	own := tls.Certificate{Certificate: [][]byte{certificate(nil)}, PrivateKey: key}
	var names []string
	for size := 0; size < more; size += 64 {
		names = append(names, fmt.Sprintf("%d.%s.example", size, strings.Repeat("a", 50)))
	}
	if more > 0 {
		own.Certificate = append(own.Certificate, certificate(names))
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Connection", "close") // the next request has a connection of its own
		if !req.TLS.DidResume {
			w.Header().Set("Retry-After", "1") // read by the test
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	if ticket > 0 {
		srv.TLS.WrapSession = func(tls.ConnectionState, *tls.SessionState) ([]byte, error) { return make([]byte, ticket), nil }
		srv.TLS.UnwrapSession = func([]byte, tls.ConnectionState) (*tls.SessionState, error) { return nil, nil }
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	cas = x509.NewCertPool()
	cas.AddCert(leaf)
	return srv.Listener.Addr().String(), cas
}

// resumes asks r, and says whether a session was resumed for it.
func resumes(t *testing.T, r *Registry) (bool, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.blob.RoundTrip(req)
	if err != nil {
		return false, err
	}
	_ = resp.Body.Close()
	return resp.Header.Get("Retry-After") == "", nil
}

// A usual session is kept for as long as the registry is, and one is not that a server has
// made large, with its ticket or with its certificates.
func TestSessions_OnlySmallOnesAreKept(t *testing.T) {
	for name, c := range map[string]struct {
		ticket, more, kept int
	}{
		"usual":                     {kept: 1},
		"a large ticket":            {ticket: 40 << 10},
		"a long chain":              {more: 40 << 10},
		"a ticket that still fits":  {ticket: 20 << 10, kept: 1},
		"a chain that is still one": {more: 10 << 10, kept: 1},
	} {
		t.Run(name, func(t *testing.T) {
			host, cas := tlsServer(t, c.ticket, c.more)
			sessions := NewSessions()
			r := newRegistry(t, Options{Origin: oci.Origin{Owner: "acme", Scheme: "https", Host: host}, CAs: cas, Sessions: sessions})
			for i := range 2 {
				resumed, err := resumes(t, r)
				if err != nil {
					t.Fatal(err)
				}
				if want := i == 1 && c.kept == 1 && c.ticket == 0; resumed != want {
					t.Errorf("request %d: resumed: %v, want %v", i, resumed, want)
				}
			}
			if n := len(sessions.kept.All()); n != c.kept {
				t.Errorf("%d sessions are kept, want %d", n, c.kept)
			}
			r.Close()
			if n := len(sessions.kept.All()); n != 0 {
				t.Errorf("%d sessions are kept of a registry that is gone", n)
			}
		})
	}
}

// Sessions are shared out by bytes: whoever has a great many pushes out his own.
func TestSessions_OthersStay(t *testing.T) {
	host, cas := tlsServer(t, 20<<10, 0)
	sessions := NewSessions()
	open := func(owner string) *Registry {
		r := newRegistry(t, Options{Origin: oci.Origin{Owner: owner, Scheme: "https", Host: host}, CAs: cas, Sessions: sessions})
		if _, err := resumes(t, r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	acme := open("acme")
	from := open("globex").sessions
	session, ok := from.Get("127.0.0.1")
	if !ok {
		t.Fatal("nothing was kept")
	}
	for i := range 1000 {
		from.Put(fmt.Sprint("host", i), session)
	}
	var size int64
	for _, s := range sessions.kept.All() {
		size += s.size
	}
	if size > keptSessions {
		t.Errorf("%d bytes of sessions are kept", size)
	}
	if _, ok := acme.sessions.Get("127.0.0.1"); !ok {
		t.Error("another's session was pushed out")
	}
}

// A server that sends more certificates than any real one is not spoken to, and the error
// says why.
func TestSessions_LongChainIsRefused(t *testing.T) {
	host, cas := tlsServer(t, 0, 70<<10)
	r := newRegistry(t, Options{Origin: oci.Origin{Owner: "acme", Scheme: "https", Host: host}, CAs: cas, Before: withoutAuth})
	_, err := r.As(Identity{Organisation: "acme"}).Resolve(t.Context(), "acme/app", "1")
	if err == nil || !strings.Contains(err.Error(), "more than 10 TLS certificates, or 64 KiB of them") {
		t.Errorf("a chain of 70 KiB: %v", err)
	}
}

func TestSessions_ManyCertificatesAreRefused(t *testing.T) {
	for n, want := range map[int]error{1: nil, 10: nil, 11: errLongChain, 100: errLongChain} {
		state := tls.ConnectionState{}
		for range n {
			state.PeerCertificates = append(state.PeerCertificates, &x509.Certificate{Raw: make([]byte, 100)})
		}
		if err := boundChain(state); !errors.Is(err, want) {
			t.Errorf("%d certificates: %v", n, err)
		}
	}
}
