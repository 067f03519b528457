package ocitest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"berth/oci"
)

// Server is one of the registry's servers.
type Server string

// The servers.
const (
	RegistryServer Server = "registry"
	TokenServer    Server = "token"
	CDNServer      Server = "cdn"
)

// Kind is what a request asks for.
type Kind string

// The kinds. A blob fetched through the CDN is two requests of kind Blob at
// two servers.
const (
	Ping      Kind = "ping"
	Manifest  Kind = "manifest"
	Blob      Kind = "blob"
	Tags      Kind = "tags"
	Referrers Kind = "referrers"
	Token     Kind = "token"
	Other     Kind = "other"
)

// Anonymous matches requests without a user in Match.User.
const Anonymous = "-"

// Request is one request as the registry saw it. What it is passed to may keep
// it: nothing in it changes.
type Request struct {
	// ID grows in order of arrival, over all servers.
	ID     int
	Server Server
	Kind   Kind
	Method string
	// Path is decoded, Query is raw.
	Path, Query string
	Repo        string
	// Tag or Digest is what was asked for.
	Tag    string
	Digest oci.Digest
	// Scopes are what a token request asked for.
	Scopes []string
	// User is as whom the request was authorised; empty for nobody.
	User string
	// Range is the header as it came.
	Range string
	// Proto is HTTP/1.1 or HTTP/2.0.
	Proto      string
	Header     http.Header
	RemoteAddr string
	Start      time.Time

	// Status is zero until the answer's headers were sent. A connection that
	// was dropped instead has none.
	Status int
	// Sent is how many body bytes were handed to the connection.
	Sent int64
	// Done says that the handler has returned, at End.
	Done bool
	End  time.Time

	endID int // of the handler's end, in the same order as ID
}

// Match selects requests. Empty fields match everything.
type Match struct {
	Server Server
	Kind   Kind
	Method string
	Repo   string
	Tag    string
	Digest oci.Digest
	// User, or Anonymous.
	User   string
	Status int
	// Where is asked last.
	Where func(Request) bool
}

func (m Match) matches(r Request) bool {
	switch {
	case m.Server != "" && m.Server != r.Server,
		m.Kind != "" && m.Kind != r.Kind,
		m.Method != "" && m.Method != r.Method,
		m.Repo != "" && m.Repo != r.Repo,
		m.Tag != "" && m.Tag != r.Tag,
		m.Digest != "" && m.Digest != r.Digest,
		m.User == Anonymous && r.User != "",
		m.User != "" && m.User != Anonymous && m.User != r.User,
		m.Status != 0 && m.Status != r.Status:
		return false
	}
	return m.Where == nil || m.Where(r)
}

// parse reads what a request asks for. It is deliberately not oci.ParseRequest.
func parse(s Server, hr *http.Request) Request {
	r := Request{
		Server: s, Kind: Other, Method: hr.Method, Path: hr.URL.Path, Query: hr.URL.RawQuery,
		Range: hr.Header.Get("Range"), Proto: hr.Proto, Header: hr.Header.Clone(), RemoteAddr: hr.RemoteAddr,
	}
	if s == CDNServer {
		parts := strings.Split(strings.Trim(r.Path, "/"), "/")
		if len(parts) == 2 {
			r.Kind, r.Repo, r.Digest = Kind(parts[0]), hr.URL.Query().Get("repo"), oci.Digest(parts[1])
		}
		return r
	}
	if r.Path == tokenPath {
		r.Kind, r.Scopes = Token, hr.URL.Query()["scope"]
		return r
	}
	rest, ok := strings.CutPrefix(r.Path, "/v2/")
	if !ok {
		return r
	}
	if rest == "" {
		r.Kind = Ping
		return r
	}
	parts := strings.Split(rest, "/")
	n := len(parts)
	if n < 3 {
		return r
	}
	ref := parts[n-1]
	r.Repo = strings.Join(parts[:n-2], "/")
	switch parts[n-2] {
	case "manifests":
		r.Kind = Manifest
		if strings.Contains(ref, ":") {
			r.Digest = oci.Digest(ref)
		} else {
			r.Tag = ref
		}
	case "blobs":
		r.Kind, r.Digest = Blob, oci.Digest(ref)
	case "referrers":
		r.Kind, r.Digest = Referrers, oci.Digest(ref)
	case "tags":
		r.Kind = Tags
	}
	return r
}

// begin records a request. The returned pointer is guarded by mu.
func (r *Registry) begin(req Request) *Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	req.ID = r.tick()
	req.Start = r.opts.Now()
	r.records = append(r.records, &req)
	r.changed.Broadcast()
	return &req
}

func (r *Registry) tick() int {
	r.ticks++
	return r.ticks
}

func (r *Registry) end(rec *Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.Done, rec.End = true, r.opts.Now()
	if rec.endID == 0 {
		rec.endID = r.tick()
	}
	r.changed.Broadcast()
}

// update changes a record.
func (r *Registry) update(rec *Request, change func(*Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(rec)
	r.changed.Broadcast()
}

func (r *Registry) snapshot(rec *Request) Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *rec
}

// Requests are the matching requests so far, in order of arrival.
func (r *Registry) Requests(m Match) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests(m)
}

func (r *Registry) requests(m Match) []Request {
	var out []Request
	for _, rec := range r.records {
		if m.matches(*rec) {
			out = append(out, *rec)
		}
	}
	return out
}

// Count is how many requests match.
func (r *Registry) Count(m Match) int { return len(r.Requests(m)) }

// ManifestGETs is how many manifests were fetched: what a pull limit counts.
func (r *Registry) ManifestGETs() int {
	return r.Count(Match{Kind: Manifest, Method: http.MethodGet})
}

// ManifestHEADs is how many manifests were asked for by HEAD.
func (r *Registry) ManifestHEADs() int {
	return r.Count(Match{Kind: Manifest, Method: http.MethodHead})
}

// BlobGETs is how many blobs were asked for at the registry itself.
func (r *Registry) BlobGETs() int {
	return r.Count(Match{Server: RegistryServer, Kind: Blob, Method: http.MethodGet})
}

// TokenRequests is how many tokens were asked for.
func (r *Registry) TokenRequests() int { return r.Count(Match{Kind: Token}) }

// BlobBytes is how many bytes of a blob were sent, by the registry and the CDN.
func (r *Registry) BlobBytes(d oci.Digest) int64 {
	var sum int64
	for _, q := range r.Requests(Match{Kind: Blob, Digest: d}) {
		if q.Status == http.StatusOK || q.Status == http.StatusPartialContent {
			sum += q.Sent
		}
	}
	return sum
}

// MaxInFlight is how many of the matching requests ran at once.
func (r *Registry) MaxInFlight(m Match) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	steps := make([]int8, r.ticks+1)
	for _, q := range r.requests(m) {
		steps[q.ID]++
		if q.endID != 0 {
			steps[q.endID]--
		}
	}
	now, most := 0, 0
	for _, s := range steps {
		now += int(s)
		most = max(most, now)
	}
	return most
}

// Connections is how many connections the matching requests came over.
func (r *Registry) Connections(m Match) int {
	seen := map[string]bool{}
	for _, q := range r.Requests(m) {
		seen[string(q.Server)+" "+q.RemoteAddr] = true
	}
	return len(seen)
}

// Forget drops the records of the past, so that counts start at zero. Requests
// that still run are forgotten too; violations are not.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = append(r.broken, r.tooManyCopies()...)
	r.records = nil
}

// WaitFor blocks until at least n matching requests have arrived.
func (r *Registry) WaitFor(ctx context.Context, m Match, n int) error {
	return r.await(ctx, func() bool { return len(r.requests(m)) >= n })
}

// WaitInFlight blocks until n matching requests are running at once: exactly
// n, so 0 waits for the end of all.
func (r *Registry) WaitInFlight(ctx context.Context, m Match, n int) error {
	return r.await(ctx, func() bool {
		running := 0
		for _, q := range r.requests(m) {
			if !q.Done {
				running++
			}
		}
		return running == n
	})
}

// WaitSent blocks until at least n body bytes were sent to matching requests.
func (r *Registry) WaitSent(ctx context.Context, m Match, n int64) error {
	return r.await(ctx, func() bool {
		var sum int64
		for _, q := range r.requests(m) {
			sum += q.Sent
		}
		return sum >= n
	})
}

// String is a line for failure messages: it holds no header.
func (q Request) String() string {
	u := url.URL{Path: q.Path, RawQuery: q.Query}
	s := fmt.Sprintf("%d %s %s %s", q.ID, q.Server, q.Method, u.RequestURI())
	if q.Range != "" {
		s += " " + q.Range
	}
	if q.User != "" {
		s += " as " + q.User
	}
	return fmt.Sprintf("%s -> %d, %d bytes", s, q.Status, q.Sent)
}
