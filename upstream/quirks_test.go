package upstream

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/upstream/classify"
	"berth/upstream/dialect"
)

// What registries do that others do not, a row for each, from the wire to what
// the caller is told. (What each status and text means is package auth's table.)
func TestQuirks(t *testing.T) {
	get, head := http.MethodGet, http.MethodHead
	run, wait := ocitest.Overlap(t, 16)
	defer wait()
	for name, q := range map[string]struct {
		kind  string
		o     ocitest.Options
		match ocitest.Match
		fault ocitest.Fault
		blob  bool // what is opened: a blob, else a manifest by tag

		class  oci.Class // Unclassified: it works
		detail string
		after  time.Duration // the least that Retry-After may be
		says   string
		again  int // requests that a second call costs; -1: any
	}{
		"Quay: a disabled namespace is 405": {
			kind: dialect.Quay, o: ocitest.Options{Auth: ocitest.Bearer}, match: ocitest.Match{Kind: ocitest.Manifest},
			fault: ocitest.Problem(405, "DENIED", "This namespace is disabled."), class: oci.Denied, says: "(405)", again: -1,
		},
		"Quay: an expired tag": {
			kind: dialect.Quay, match: ocitest.Match{Kind: ocitest.Manifest},
			fault: ocitest.Problem(404, "TAG_EXPIRED", "Tag 1 has expired."), class: oci.NotFound, says: "expired", again: -1,
		},
		"Quay: tokens without expires_in": {kind: dialect.Quay, o: ocitest.Options{Auth: ocitest.Bearer, TokenShape: ocitest.TokenOnly}, again: -1},
		"Quay: 429 of its nginx, a page without Retry-After": {
			kind: dialect.Quay, match: ocitest.Match{Kind: ocitest.Blob}, blob: true,
			fault: ocitest.Fault{Status: 429, Body: []byte("<html>429 Too Many Requests</html>")}, class: oci.RateLimited, again: 0,
		},
		"GHCR: a wait inside the message": {
			kind: dialect.GHCR, match: ocitest.Match{Kind: ocitest.Blob}, blob: true,
			fault: ocitest.Problem(429, "TOOMANYREQUESTS", "retry-after: 42.5s, allowed: 44000/minute"), class: oci.RateLimited, after: 41 * time.Second, again: 0,
		},
		"GHCR: microseconds, once": {
			kind: dialect.GHCR, match: ocitest.Match{Kind: ocitest.Blob, Where: once()}, blob: true,
			fault: ocitest.Problem(429, "TOOMANYREQUESTS", "retry-after: 880.092µs, allowed: 44000/minute"), again: -1,
		},
		"GHCR: a dead token is 403 at the token endpoint": {
			kind: dialect.GHCR, o: ocitest.Options{Auth: ocitest.Bearer}, match: ocitest.Match{Kind: ocitest.Token},
			fault: ocitest.Denied(), class: oci.Unauthorized, says: "renew it", again: 0,
		},
		"Docker Hub: the pull limit": {
			kind: dialect.DockerHub, match: ocitest.Match{Kind: ocitest.Manifest, Method: get}, fault: ocitest.Problem(429, "TOOMANYREQUESTS", "You have reached your pull rate limit."),
			class: oci.RateLimited, detail: classify.PullLimit, again: 1, // the HEAD
		},
		"Docker Hub: the pull limit, by HEAD": {
			kind: dialect.DockerHub, match: ocitest.Match{Kind: ocitest.Manifest}, fault: ocitest.Status(429, "Ratelimit-Limit", "100;w=21600", "Ratelimit-Remaining", "0;w=21600"),
			class: oci.RateLimited, detail: classify.PullLimit, again: 1,
		},
		"Docker Hub: the abuse limit": {
			kind: dialect.DockerHub, match: ocitest.Match{Kind: ocitest.Blob}, blob: true, fault: ocitest.Fault{Status: 429, Body: []byte("Too Many Requests\n")},
			class: oci.RateLimited, detail: classify.AbuseLimit, says: "this node's IP address", again: 0,
		},
		"Docker Hub: the abuse limit at the token endpoint": {
			kind: dialect.DockerHub, o: ocitest.Options{Auth: ocitest.Bearer}, match: ocitest.Match{Kind: ocitest.Token}, fault: ocitest.Fault{Status: 429, Body: []byte("Too Many Requests\n")},
			class: oci.RateLimited, detail: classify.AbuseLimit, again: 0,
		},
		"ECR: an expired password is 403": {
			o: ocitest.Options{Auth: ocitest.Basic}, match: ocitest.Match{Where: signedIn}, blob: true,
			fault: expired(), class: oci.Unauthorized, says: "has expired", again: 0,
		},
		"ECR: the same to HEAD, which has no text": {
			o: ocitest.Options{Auth: ocitest.Basic}, match: ocitest.Match{Where: signedIn},
			fault: expired(), class: oci.Unauthorized, again: 0,
		},
		"ECR: no digest in the header":   {match: ocitest.Match{Kind: ocitest.Manifest}, fault: ocitest.NoHeader("Docker-Content-Digest"), again: -1},
		"ECR Public: 401 to a blob HEAD": {match: ocitest.Match{Kind: ocitest.Blob, Method: head}, fault: ocitest.Status(401), blob: true, again: -1},
		"DigitalOcean: an unknown registry is 400 at the token endpoint": {
			kind: dialect.DigitalOcean, o: ocitest.Options{Auth: ocitest.Bearer}, match: ocitest.Match{Kind: ocitest.Token},
			fault: ocitest.Status(400), class: oci.NotFound, again: -1,
		},
		"Harbor: an empty challenge for a missing project": {
			o: ocitest.Options{Auth: ocitest.Bearer}, match: ocitest.Match{Kind: ocitest.Blob}, blob: true,
			fault: ocitest.Status(401, "WWW-Authenticate", ""), class: oci.Denied, again: -1,
		},
		"Harbor: a Basic challenge to whoever sent a token": {
			o: ocitest.Options{Auth: ocitest.Bearer}, match: ocitest.Match{Kind: ocitest.Blob}, blob: true,
			fault: ocitest.Status(401, "WWW-Authenticate", `Basic realm="harbor"`), class: oci.Denied, again: -1,
		},
		"GitLab: manifests at another place":    {o: ocitest.Options{CDN: ocitest.CDNSame, ManifestRedirect: true}, again: -1},
		"Red Hat: gzip that nobody asked for":   {match: ocitest.Match{Kind: ocitest.Blob}, fault: ocitest.Fault{Gzip: true}, blob: true, again: -1},
		"a manifest in gzip":                    {match: ocitest.Match{Kind: ocitest.Manifest}, fault: ocitest.Fault{Gzip: true}, again: -1},
		"no length":                             {match: ocitest.Match{Kind: ocitest.Manifest}, fault: ocitest.Fault{Chunked: true}, again: -1},
		"an air gap's login page":               {match: ocitest.Match{Kind: ocitest.Manifest}, fault: page(200), class: oci.UpstreamError, says: "web page", again: -1},
		"the same once":                         {match: ocitest.Match{Kind: ocitest.Blob, Where: once()}, fault: page(200), blob: true, again: -1},
		"a load balancer's page":                {match: ocitest.Match{Kind: ocitest.Manifest}, fault: page(503), class: oci.UpstreamError, says: "(503)", again: -1},
		"Cloudflare: 522 once":                  {match: ocitest.Match{Where: once()}, fault: ocitest.Status(522), again: -1},
		"a range that is ignored":               {match: ocitest.Match{Kind: ocitest.Blob}, fault: ocitest.Fault{IgnoreRange: true}, blob: true, again: -1},
		"a token endpoint without POST":         {o: ocitest.Options{Auth: ocitest.Bearer}, again: -1},
		"a token server that is somewhere else": {o: ocitest.Options{Auth: ocitest.Bearer, TokenServer: true}, again: -1},
		"access_token instead of token (Azure)": {o: ocitest.Options{Auth: ocitest.Bearer, TokenShape: ocitest.AccessTokenOnly}, again: -1},
		"a registry that wants no sign-in":      {again: -1},
	} {
		run(name, func(t *testing.T) {
			up := ocitest.New(t, q.o)
			up.AddUser("alice", "secret", "acme/app")
			img := up.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{4000}})
			if q.match.Kind != "" || q.match.Where != nil {
				up.Inject(q.match, 0, q.fault)
			}
			typed, _ := dialect.TypeNamed(q.kind)
			r := newRegistry(t, Options{Origin: up.Origin(), Type: typed, TokenEndpoints: []string{up.TokenURL()}})
			r.pause = time.Millisecond
			src := r.As(as("acme", "alice", "secret"))
			call := func() error {
				if q.blob {
					c, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: img.Platforms[0].Layers[0]}, oci.Range{})
					if err == nil && oci.DigestOf(readAll(t, c)) != img.Platforms[0].Layers[0] {
						t.Error("wrong bytes")
					}
					return err
				}
				d, err := src.Resolve(t.Context(), "acme/app", "1")
				if err != nil {
					return err
				}
				_, err = src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: d.Digest}, oci.Range{})
				return err
			}
			err := call()
			if q.class == oci.Unclassified {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			e := classed(t, err, q.class)
			if e.Detail != q.detail && q.detail != "" || e.RetryAfter < q.after || !strings.Contains(e.Message, q.says) {
				t.Errorf("detail %q, after %v, message %q; want %q, %v, %q", e.Detail, e.RetryAfter, e.Message, q.detail, q.after, q.says)
			}
			before := up.Count(ocitest.Match{})
			_ = classed(t, call(), q.class)
			if n := up.Count(ocitest.Match{}) - before; q.again >= 0 && n != q.again {
				t.Errorf("the second call costs %d requests, want %d", n, q.again)
			}
		})
	}
}

// once is the first request alone.
func once() func(ocitest.Request) bool {
	first := make(chan struct{}, 1)
	first <- struct{}{}
	return func(r ocitest.Request) bool {
		if r.Kind == ocitest.Ping {
			return false
		}
		select {
		case <-first:
			return true
		default:
			return false
		}
	}
}

func page(status int) ocitest.Fault {
	return ocitest.Fault{Status: status, Body: []byte("<html>hello</html>"), Header: http.Header{"Content-Type": {"text/html"}}}
}
