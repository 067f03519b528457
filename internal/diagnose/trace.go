package diagnose

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/upstream/classify"
)

// What a person can take in.
const (
	maxHosts     = 10
	maxAddresses = 4
)

// phase is one part of getting a connection.
type phase struct {
	begun, ended time.Time
	err          error
	found        string // what came of it
}

func (p *phase) took() time.Duration {
	if p.ended.IsZero() || p.begun.IsZero() {
		return 0
	}
	return p.ended.Sub(p.begun)
}

// trace watches how requests get their connections, the last one counts.
type trace struct {
	mu                sync.Mutex // dials go on in goroutines of their own
	dns, connect, tls phase
	hosts             []string // that were asked, without repetition
}

// with makes requests under ctx seen.
func (t *trace) with(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:           t.asks,
		DNSStart:          func(httptrace.DNSStartInfo) { t.begin(&t.dns) },
		DNSDone:           t.resolved,
		ConnectStart:      func(string, string) { t.begin(&t.connect) },
		ConnectDone:       func(_, address string, err error) { t.end(&t.connect, address, err) },
		TLSHandshakeStart: func() { t.begin(&t.tls) },
		TLSHandshakeDone:  func(s tls.ConnectionState, err error) { t.end(&t.tls, tls.VersionName(s.Version), err) },
	})
}

func (t *trace) asks(hostPort string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.hosts) < maxHosts && !slices.Contains(t.hosts, hostPort) {
		t.hosts = append(t.hosts, hostPort)
	}
}

func (t *trace) resolved(i httptrace.DNSDoneInfo) {
	var found []string
	for _, a := range i.Addrs[:min(len(i.Addrs), maxAddresses)] {
		found = append(found, a.String())
	}
	t.end(&t.dns, strings.Join(found, ", "), i.Err)
}

func (t *trace) begin(p *phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*p = phase{begun: time.Now()}
}

// end keeps a success: of two addresses that are tried at once (RFC 8305) one
// may fail and the other be used.
func (t *trace) end(p *phase, found string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && !p.ended.IsZero() && p.err == nil {
		return
	}
	p.ended, p.err, p.found = time.Now(), err, found
}

// phases are dns, connect and tls as they are now.
func (t *trace) phases() (dns, connect, handshake phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dns, t.connect, t.tls
}

// lastHost is whom the last request went to.
func (t *trace) lastHost() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.hosts) == 0 {
		return ""
	}
	return t.hosts[len(t.hosts)-1]
}

// Tap stands before the transport of challenges and tokens, whose requests do
// not carry the context of whoever waits for them.
type Tap struct {
	trace

	next http.RoundTripper
	last struct {
		sync.Mutex

		status int
		page   bool
		took   time.Duration
	}
}

// Before makes t stand before next.
func (t *Tap) Before(next http.RoundTripper) http.RoundTripper {
	t.next = next
	return t
}

// RoundTrip sends req and remembers how that went.
func (t *Tap) RoundTrip(req *http.Request) (*http.Response, error) {
	begun := time.Now()
	resp, err := t.next.RoundTrip(req.WithContext(t.with(req.Context())))
	t.last.Lock()
	defer t.last.Unlock()
	t.last.status, t.last.page, t.last.took = 0, false, time.Since(begun)
	if err == nil {
		t.last.status, t.last.page = resp.StatusCode, classify.IsPage(resp.Header)
	}
	return resp, err
}

// answered is the status of the last answer, 0: none, whether that was a web page, and how
// long it took.
func (t *Tap) answered() (status int, page bool, took time.Duration) {
	t.last.Lock()
	defer t.last.Unlock()
	return t.last.status, t.last.page, t.last.took
}
