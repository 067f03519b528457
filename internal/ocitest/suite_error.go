package ocitest

import (
	"net/http"
	"testing"
	"time"

	"berth/oci"
)

// errorCases: failures have the class that says what happened and whose it is.
func errorCases() []suiteCase {
	return []suiteCase{
		{"not found", testNotFound},
		{"denied", testDenied},
		{"no credential", testNoCredential},
		{"a refused credential", testUnauthorized},
		{"rate limited", testRateLimited},
		{"the pull limit", testPullLimit},
		{"upstream trouble", testUpstreamError},
		{"unreachable", testUnreachable},
	}
}

func testNotFound(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	addManifest(r, "v1")
	missing := oci.DigestOf([]byte("missing"))
	for name, call := range anyCall("missing", missing, missing) {
		if name == "List" {
			continue
		}
		if e := failed(t, call(within(t), src), oci.NotFound); e.HTTPStatus() != http.StatusNotFound {
			t.Errorf("%s: status %d", name, e.HTTPStatus())
		}
	}
	for name, err := range map[string]error{
		"manifest": stat(within(t), src, oci.Object{Repo: "acme/none", Kind: oci.Manifest, Digest: missing}),
		"blob":     drain(within(t), src, oci.Object{Repo: "acme/none", Kind: oci.Blob, Digest: missing}),
	} {
		t.Log(name)
		failed(t, err, oci.NotFound)
	}
}

// refused tries every call in a repository that may not be read.
func refused(t *testing.T, s Suite, o Options, c Caller, classes ...oci.Class) {
	t.Helper()
	o.Private = true
	r := New(t, o)
	if c.User != "" {
		r.AddUser(c.User, c.Password) // it exists, and may read nothing
	}
	d, _ := addManifest(r, "v1")
	b := r.AddNoise("acme/app", 1, 10_000)
	for name, call := range anyCall("v1", d, b) {
		t.Log(name)
		failed(t, call(within(t), s.New(t, r, c)), classes...)
	}
	for _, q := range r.Requests(Match{Kind: Blob, Status: http.StatusOK}) {
		t.Errorf("a private blob left the registry: %s", q)
	}
}

func testDenied(t *testing.T, s Suite) {
	for name, o := range map[string]Options{
		"401 insufficient_scope": {Auth: Bearer, Refusal: RefuseScope},
		"403":                    {Auth: Bearer, Refusal: RefuseForbidden},
		"403 to basic":           {Auth: Basic, Refusal: RefuseForbidden},
	} {
		t.Run(name, func(t *testing.T) { refused(t, s, o, acme(), oci.Denied) })
	}
	t.Run("403 at the token endpoint", func(t *testing.T) {
		refused(t, s, Options{Auth: Bearer, Refusal: RefuseAtToken}, acme(), oci.Denied, oci.Unauthorized)
	})
	t.Run("404", func(t *testing.T) {
		refused(t, s, Options{Auth: Bearer, Refusal: RefuseNotFound}, acme(), oci.NotFound)
	})
}

func testNoCredential(t *testing.T, s Suite) {
	for name, o := range map[string]Options{
		"401 insufficient_scope":    {Auth: Bearer, Refusal: RefuseScope},
		"403":                       {Auth: Bearer, Refusal: RefuseForbidden},
		"401 at the token endpoint": {Auth: Bearer, Refusal: RefuseAtToken},
		"basic":                     {Auth: Basic},
	} {
		t.Run(name, func(t *testing.T) { refused(t, s, o, nobody(), oci.NoCredential) })
	}
}

func testUnauthorized(t *testing.T, s Suite) {
	for name, o := range map[string]Options{
		"401 at the token endpoint": {Auth: Bearer},
		"401 to basic":              {Auth: Basic},
	} {
		t.Run(name, func(t *testing.T) {
			o.Private = true
			r, _ := s.open(t, o, acme())
			d, _ := addManifest(r, "v1")
			b := r.AddNoise("acme/app", 1, 10_000)
			c := acme()
			c.Password = passwordMark + "-old"
			for name, call := range anyCall("v1", d, b) {
				r.Forget()
				failed(t, call(within(t), s.New(t, r, c)), oci.Unauthorized)
				if n := r.Count(Match{Where: func(q Request) bool { _, _, ok := (&http.Request{Header: q.Header}).BasicAuth(); return ok }}); n > 2 {
					t.Errorf("%s: a refused password was sent %d times, which locks accounts", name, n)
				}
			}
		})
	}
}

func testRateLimited(t *testing.T, s Suite) {
	for name, f := range map[string]Fault{
		"seconds": Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many", "Retry-After", "120"),
		"a date":  Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many", "Retry-After", time.Now().Add(2*time.Minute).UTC().Format(http.TimeFormat)),
	} {
		t.Run(name, func(t *testing.T) {
			r, src := s.open(t, Options{}, nobody())
			d, _ := addManifest(r, "v1")
			r.Inject(Match{}, 0, f)
			e := failed(t, drain(within(t), src, manifestOf(d)), oci.RateLimited)
			if e.RetryAfter < 90*time.Second || e.RetryAfter > 4*time.Minute {
				t.Errorf("Retry-After of two minutes became %s", e.RetryAfter)
			}
			if n := r.Count(Match{}); n > 2 {
				t.Errorf("%d requests to a registry that wants none for two minutes", n)
			}
		})
	}
}

func testPullLimit(t *testing.T, s Suite) {
	r, src := s.open(t, Options{Auth: Bearer, PullLimit: 1}, nobody())
	d1, data := addManifest(r, "v1")
	d2, _ := addManifest(r, "v2")
	b := r.AddNoise("acme/app", 1, 10_000)
	mustRead(t, src, manifestOf(d1), oci.Range{}, data)
	failed(t, drain(within(t), src, manifestOf(d2)), oci.RateLimited)
	// Only manifest GETs are limited.
	if _, err := src.Resolve(within(t), "acme/app", "v2"); err != nil {
		t.Errorf("resolving beyond the pull limit: %v", err)
	}
	mustRead(t, src, blobOf(b), oci.Range{}, r.Bytes("acme/app", b))
}

func testUpstreamError(t *testing.T, s Suite) {
	for name, f := range map[string]Fault{
		"500":        Status(http.StatusInternalServerError),
		"503 html":   {Status: http.StatusServiceUnavailable, Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html>down</html>")},
		"teapot":     Status(http.StatusTeapot),
		"no content": Status(http.StatusNoContent),
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := s.open(t, Options{}, nobody())
			d, _ := addManifest(r, "v1")
			b := r.AddNoise("acme/app", 1, 10_000)
			r.Inject(Match{}, 0, f)
			for name, call := range anyCall("v1", d, b) {
				t.Log(name)
				failed(t, call(within(t), s.New(t, r, nobody())), oci.UpstreamError)
			}
		})
	}
	t.Run("at the token endpoint", func(t *testing.T) {
		r, src := s.open(t, Options{Auth: Bearer, Private: true}, acme())
		d, _ := addManifest(r, "v1")
		r.Inject(Match{Kind: Token}, 0, Status(http.StatusInternalServerError))
		failed(t, drain(within(t), src, manifestOf(d)), oci.UpstreamError)
	})
}

func testUnreachable(t *testing.T, s Suite) {
	r, _ := s.open(t, Options{}, nobody())
	d, _ := addManifest(r, "v1")
	b := r.AddNoise("acme/app", 1, 10_000)
	var sources []oci.Source
	calls := anyCall("v1", d, b)
	for range calls {
		sources = append(sources, s.New(t, r, nobody()))
	}
	r.Close()
	for name, call := range calls {
		t.Log(name)
		if e := failed(t, call(within(t), sources[0]), oci.Unreachable); !e.Class.Indeterminate() {
			t.Errorf("%s: a closed port says something about rights", name)
		}
		sources = sources[1:]
	}
}
