package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"berth/auth/caller"
	"berth/internal/audit"
	"berth/internal/registry"
	"berth/oci"
)

// audited are the lines so far.
func audited(t *testing.T, file string) []audit.Entry {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []audit.Entry
	for line := range strings.Lines(string(text)) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// newAudit is an audit, and the file that it writes.
func newAudit(t *testing.T) (l *audit.Log, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "audit")
	l = audit.New(audit.Options{})
	t.Cleanup(l.Close)
	if err := l.Use(file); err != nil {
		t.Fatal(err)
	}
	return l, file
}

// Each request for a manifest has one line, and each refusal; other requests have none.
func TestAudit_WhichRequestsHaveALine(t *testing.T) {
	l, file := newAudit(t)
	s := tokenSite(t, func(o *Options) { o.Audit = l })
	th := manifestThing()
	d := withManifest(s, th)
	blob := s.fake.put("library/nginx", oci.Blob, &thing{data: []byte("layer")})
	s.fake.page = &oci.Page{Body: []byte("{}"), MediaType: jsonType}
	s.fake.outcome["resolve"] = oci.Outcome{Result: oci.Revalidated}
	s.fake.outcome["open"] = oci.Outcome{Result: oci.Hit}
	login := basicHeader("acme+ci", "acme-canary-secret")
	const manifests = "/v2/nginx/manifests/"
	size := int64(len(th.data))
	acme := audit.Entry{Organisation: "acme", Token: "node", Account: "ci", Method: http.MethodGet, Kind: "manifest", Image: "docker.io/library/nginx:1", Status: 200}
	with := func(change func(*audit.Entry)) *audit.Entry {
		e := acme
		change(&e)
		return &e
	}
	for _, c := range []struct {
		name, method, path string
		header             []string
		before             func()
		want               *audit.Entry // nil: no line
	}{
		{"by tag", "GET", manifests + "1", login, nil, with(func(e *audit.Entry) {
			e.Verdict, e.Digest, e.Source, e.Bytes = audit.Allowed, string(d), "cache", size
		})},
		{"HEAD", "HEAD", manifests + "1", login, nil, with(func(e *audit.Entry) {
			e.Verdict, e.Method, e.Digest, e.Source = audit.Allowed, "HEAD", string(d), "cache"
		})},
		{"by digest", "GET", manifests + string(d), login, nil, with(func(e *audit.Entry) {
			e.Verdict, e.Image, e.Digest, e.Source, e.Bytes = audit.Allowed, "docker.io/library/nginx", string(d), "cache", size
		})},
		{"a part", "GET", manifests + "1", append([]string{"Range", "bytes=0-9"}, login...), nil, with(func(e *audit.Entry) {
			e.Verdict, e.Digest, e.Source, e.Bytes, e.Status = audit.Allowed, string(d), "cache", 10, 206
		})},
		{"unchanged", "GET", manifests + "1", append([]string{"If-None-Match", etag(d)}, login...), nil, with(func(e *audit.Entry) {
			e.Verdict, e.Digest, e.Source, e.Status = audit.Allowed, string(d), "cache", 304
		})},
		{"stale", "GET", manifests + "1", login, func() { s.fake.outcome["resolve"] = oci.Outcome{Result: oci.Stale} }, with(func(e *audit.Entry) {
			e.Verdict, e.Digest, e.Source, e.Bytes = audit.Stale, string(d), "cache", size
		})},
		{"past the disk", "GET", manifests + "1", login, func() { s.fake.outcome["resolve"] = oci.Outcome{Result: oci.Pass} }, with(func(e *audit.Entry) {
			e.Verdict, e.Digest, e.Source, e.Bytes = audit.Bypassed, string(d), "upstream", size
		})},
		{"not there", "GET", manifests + "2", login, nil, with(func(e *audit.Entry) {
			e.Verdict, e.Image, e.Class, e.Status = audit.Failed, "docker.io/library/nginx:2", "not_found", 404
		})},
		{"no such registry", "GET", "/v2/q.example/app/manifests/1", login, nil, with(func(e *audit.Entry) {
			e.Verdict, e.Image, e.Class, e.Rule, e.Status = audit.Refused, "q.example/app:1", "policy", "unlisted_registries: refuse", 403
		})},
		{"another's name", "GET", "/v2/globex/ghcr.io/app/manifests/1", login, nil, with(func(e *audit.Entry) {
			e.Verdict, e.Image, e.Class, e.Status = audit.Refused, "globex/ghcr.io/app:1", "policy", 403
		})},
		{"denied", "GET", manifests + "1", login, func() {
			s.fake.fails["resolve"] = &oci.Error{Class: oci.Denied, Message: "no", Rule: "main.yaml:7: deny"}
		}, with(func(e *audit.Entry) {
			e.Verdict, e.Class, e.Rule, e.Status = audit.Refused, "denied", "main.yaml:7: deny", 403
		})},
		{"a blob", "GET", "/v2/nginx/blobs/" + string(blob), login, nil, nil},
		{"a denied blob", "HEAD", "/v2/nginx/blobs/" + string(blob), login, func() { s.fake.fails["stat"] = &oci.Error{Class: oci.Unauthorized, Message: "no"} }, with(func(e *audit.Entry) {
			e.Verdict, e.Method, e.Kind, e.Image, e.Digest, e.Class, e.Status = audit.Refused, "HEAD", "blob", "docker.io/library/nginx", string(blob), "unauthorized", 403
		})},
		{"a list", "GET", "/v2/nginx/tags/list", login, nil, nil},
		{"a ping", "GET", "/v2/", login, nil, nil},
		{"a challenge", "GET", manifests + "1", nil, nil, nil},
		{"a wrong token", "GET", "/v2/", basicHeader("acme", "wrong"), nil, &audit.Entry{
			Verdict: audit.Refused, Method: "GET", Kind: "-", Class: "caller", Status: 401,
		}},
		{"no request of ours", "GET", "/favicon.ico", login, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			clear(s.fake.fails)
			if c.before != nil {
				c.before()
			}
			before := len(audited(t, file))
			a := s.ask(c.method, c.path, append(slices.Clone(c.header), "User-Agent", "docker/29.0.1 go/go1.26")...)
			lines := audited(t, file)[before:]
			if c.want == nil {
				if len(lines) != 0 {
					t.Errorf("%+v", lines)
				}
				return
			}
			if len(lines) != 1 {
				t.Fatalf("%d lines: %+v", len(lines), lines)
			}
			got := lines[0]
			if got.RequestID != a.Header.Get("X-Request-Id") || got.Time.IsZero() || got.Client != "docker" || got.Address != "127.0.0.1" {
				t.Errorf("%+v", got)
			}
			if (got.Message == "") != (got.Class == "") || strings.Contains(fmt.Sprint(got), "canary") {
				t.Errorf("%+v", got)
			}
			want := *c.want
			want.Time, want.RequestID, want.Client, want.Address, want.Message = got.Time, got.RequestID, got.Client, got.Address, got.Message
			if got != want {
				t.Errorf("\n%+v, want\n%+v", got, want)
			}
		})
	}
}

// The rule of a listener that wants names to begin with the organisation.
func TestAudit_RuleOfAListener(t *testing.T) {
	l, file := newAudit(t)
	s := tokenSite(t, func(o *Options) {
		o.Audit, o.Naming.OrganisationRequired = l, true
	})
	s.ask(http.MethodGet, "/v2/nginx/manifests/1", basicHeader("acme", "acme-canary-secret")...)
	if lines := audited(t, file); len(lines) != 1 || lines[0].Rule != organisationRule || lines[0].Verdict != audit.Refused {
		t.Errorf("%+v", lines)
	}
}

// Whoever cannot prove who he is fills no audit: others' lines are there.
func TestAudit_StrangersHaveAShare(t *testing.T) {
	l, file := newAudit(t)
	s := tokenSite(t, func(o *Options) { o.Audit = l })
	const asked = 400
	for range asked {
		s.ask(http.MethodGet, "/v2/", basicHeader("acme", "wrong")...)
	}
	s.ask(http.MethodGet, "/v2/nginx/manifests/1", basicHeader("acme", "acme-canary-secret")...)
	lines := audited(t, file)
	if n := len(lines); n < 2 || n > asked*3/4 || lines[n-1].Organisation != "acme" {
		t.Errorf("%d lines, the last one is %+v", n, lines[n-1])
	}
}

// slowReader takes a line only when it is let go, and says when one has come.
type slowReader struct {
	come func()
	free chan struct{}
}

func (s *slowReader) Write(p []byte) (int, error) {
	s.come()
	<-s.free
	return len(p), nil
}

// quietly is a client that notes when its answer begins.
type quietly struct {
	header http.Header
	status atomic.Int32
}

func (q *quietly) Header() http.Header         { return q.header }
func (q *quietly) WriteHeader(status int)      { q.status.Store(int32(status)) }
func (q *quietly) Write(p []byte) (int, error) { return len(p), nil }

// A client that closes its half of the connection has left, as far as net/http can tell,
// and still reads: its manifest waits for its line like any other's.
func TestAudit_HalfClosedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		reader := &slowReader{come: leave, free: make(chan struct{})}
		l := audit.New(audit.Options{Stdout: reader})
		t.Cleanup(l.Close)
		if err := l.Use("-"); err != nil {
			t.Fatal(err)
		}
		s := &site{t: t, fake: newFake(t)}
		withManifest(s, manifestThing())
		h := New(Options{
			Router: testRouter(t), Audit: l,
			Sources: func(caller.Caller, *registry.Spec) (oci.Source, error) { return s.fake, nil },
		})
		client := &quietly{header: http.Header{}}
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/nginx/manifests/1", http.NoBody)
		r.Host = "localhost"
		go h.ServeHTTP(client, r)
		synctest.Wait()
		if ctx.Err() == nil || client.status.Load() != 0 {
			t.Errorf("the answer is %d before its line is there", client.status.Load())
		}
		close(reader.free)
		synctest.Wait()
		if client.status.Load() != http.StatusOK {
			t.Errorf("the answer is %d", client.status.Load())
		}
	})
}
