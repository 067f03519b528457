package token

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

// wideWeb answers for every host there is: whatever is dialled ends at it. It
// is the registry where the request is for /v2/, else a token endpoint that
// takes whatever it gets.
type wideWeb struct {
	*httptest.Server

	mu        sync.Mutex
	challenge string
	asked     []string // scheme://host/path of every token request
	leaked    []string // those of them that carried credentials
}

func newWideWeb(t *testing.T, secure bool) (*wideWeb, *http.Transport) {
	t.Helper()
	w := &wideWeb{}
	w.Server = httptest.NewUnstartedServer(w)
	if secure {
		w.StartTLS()
	} else {
		w.Start()
	}
	dialled := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, w.Listener.Addr().String())
	}
	tr := &http.Transport{
		DialContext:     dialled,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // every host is this test
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		w.Close()
	})
	return w, tr
}

func (w *wideWeb) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/v2/") && r.URL.RawQuery == "" {
		rw.Header().Set("WWW-Authenticate", w.challenge)
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	at := scheme + "://" + r.Host + r.URL.EscapedPath()
	w.asked = append(w.asked, at)
	if r.Header.Get("Authorization") != "" {
		w.leaked = append(w.leaked, at)
	}
	fmt.Fprint(rw, `{"token":"t"}`)
}

func TestRealmMatrix(t *testing.T) {
	hub, ghcr := "https://registry-1.docker.io", "https://ghcr.io"
	private := "https://reg.acme.com:5443"
	for name, tc := range map[string]struct {
		origin, kind string
		endpoints    []string
		realm        string
		allowed      bool
	}{
		"Docker Hub":                     {hub, dialect.DockerHub, nil, "https://auth.docker.io/token", true},
		"Docker Hub, default port":       {hub, dialect.DockerHub, nil, "https://auth.docker.io:443/token", true},
		"Docker Hub, upper case":         {hub, dialect.DockerHub, nil, "https://AUTH.docker.io/token", true},
		"Docker Hub, other path":         {hub, dialect.DockerHub, nil, "https://auth.docker.io/token2", false},
		"Docker Hub, path below":         {hub, dialect.DockerHub, nil, "https://auth.docker.io/token/x", false},
		"Docker Hub, dotted path":        {hub, dialect.DockerHub, nil, "https://auth.docker.io/x/../token", false},
		"Docker Hub, other port":         {hub, dialect.DockerHub, nil, "https://auth.docker.io:8443/token", false},
		"Docker Hub, plain http":         {hub, dialect.DockerHub, nil, "http://auth.docker.io/token", false},
		"Docker Hub, http on 443":        {hub, dialect.DockerHub, nil, "http://auth.docker.io:443/token", false},
		"Docker Hub's realm elsewhere":   {ghcr, dialect.GHCR, nil, "https://auth.docker.io/token", false},
		"own host":                       {ghcr, dialect.GHCR, nil, "https://ghcr.io/token", true},
		"own host, any path":             {ghcr, dialect.GHCR, nil, "https://ghcr.io/some/where", true},
		"own host, other port":           {ghcr, dialect.GHCR, nil, "https://ghcr.io:444/token", false},
		"own host, plain http":           {ghcr, dialect.GHCR, nil, "http://ghcr.io/token", false},
		"own host with port":             {private, dialect.Generic, nil, "https://reg.acme.com:5443/token", true},
		"own host without its port":      {private, dialect.Generic, nil, "https://reg.acme.com/token", false},
		"sub-domain":                     {ghcr, dialect.GHCR, nil, "https://auth.ghcr.io/token", false},
		"parent domain":                  {"https://reg.acme.com", dialect.Generic, nil, "https://acme.com/token", false},
		"sibling":                        {"https://reg.acme.com", dialect.Generic, nil, "https://auth.acme.com/token", false},
		"neighbour on a shared domain":   {"https://acme.azurecr.io", dialect.Generic, nil, "https://evil.azurecr.io/oauth2/token", false},
		"attacker":                       {ghcr, dialect.GHCR, nil, "https://evil.test/token", false},
		"attacker with our name inside":  {ghcr, dialect.GHCR, nil, "https://ghcr.io.evil.test/token", false},
		"attacker with our name in path": {ghcr, dialect.GHCR, nil, "https://evil.test/ghcr.io/token", false},
		"userinfo trick":                 {ghcr, dialect.GHCR, nil, "https://ghcr.io@evil.test/token", false},
		"userinfo at the own host":       {ghcr, dialect.GHCR, nil, "https://user:pw@ghcr.io/token", false},
		"empty userinfo":                 {ghcr, dialect.GHCR, nil, "https://@ghcr.io/token", false},
		"backslash":                      {ghcr, dialect.GHCR, nil, `https://evil.test\\@ghcr.io/token`, false},
		"backslash in the path":          {ghcr, dialect.GHCR, nil, `https://ghcr.io/\\evil.test/token`, false},
		"escaped slash in host":          {ghcr, dialect.GHCR, nil, "https://ghcr.io%2f@evil.test/token", false},
		"trailing dot":                   {ghcr, dialect.GHCR, nil, "https://ghcr.io./token", false},
		"look-alike letter":              {ghcr, dialect.GHCR, nil, "https://ghcr.іo/token", false},
		"punycode":                       {ghcr, dialect.GHCR, nil, "https://xn--ghcr-0za.io/token", false},
		"full-width dot":                 {ghcr, dialect.GHCR, nil, "https://ghcr。io/token", false},
		"loopback":                       {ghcr, dialect.GHCR, nil, "https://127.0.0.1/token", false},
		"metadata service":               {ghcr, dialect.GHCR, nil, "http://169.254.169.254/latest", false},
		"IPv6 loopback":                  {ghcr, dialect.GHCR, nil, "https://[::1]/token", false},
		"address in decimal":             {ghcr, dialect.GHCR, nil, "https://2130706433/token", false},
		"no host":                        {ghcr, dialect.GHCR, nil, "https:///token", false},
		"relative":                       {ghcr, dialect.GHCR, nil, "/token", false},
		"without scheme":                 {ghcr, dialect.GHCR, nil, "//ghcr.io/token", false},
		"opaque":                         {ghcr, dialect.GHCR, nil, "https:ghcr.io/token", false},
		"other scheme":                   {ghcr, dialect.GHCR, nil, "ftp://ghcr.io/token", false},
		"fragment":                       {ghcr, dialect.GHCR, nil, "https://ghcr.io/token#x", false},
		"too long":                       {ghcr, dialect.GHCR, nil, "https://ghcr.io/" + strings.Repeat("x", 3000), false},
		"DigitalOcean":                   {"https://registry.digitalocean.com", dialect.DigitalOcean, nil, "https://api.digitalocean.com/v2/registry/auth", true},
		"DigitalOcean, other API":        {"https://registry.digitalocean.com", dialect.DigitalOcean, nil, "https://api.digitalocean.com/v2/account", false},
		"Quay":                           {"https://quay.io", dialect.Quay, nil, "https://quay.io/v2/auth", true},
		"GitLab":                         {"https://registry.gitlab.com", dialect.Generic, []string{"https://gitlab.com/jwt/auth"}, "https://gitlab.com/jwt/auth", true},
		"GitLab, not configured":         {"https://registry.gitlab.com", dialect.Generic, nil, "https://gitlab.com/jwt/auth", false},
		"configured":                     {private, dialect.Generic, []string{"https://sso.example.com/token"}, "https://sso.example.com/token", true},
		"configured at a private place":  {private, dialect.Generic, []string{"https://10.0.0.5:8443/t"}, "https://10.0.0.5:8443/t", true},
		"configured, other port":         {private, dialect.Generic, []string{"https://sso.example.com/token"}, "https://sso.example.com:8443/token", false},
		"configured, other path":         {private, dialect.Generic, []string{"https://sso.example.com/token"}, "https://sso.example.com/", false},
		"configured, with a query":       {private, dialect.Generic, []string{"https://sso.example.com/token"}, "https://sso.example.com/token?a=b", true},
		"plain origin, own host":         {"http://reg.lan:5000", dialect.Generic, nil, "http://reg.lan:5000/token", true},
		"plain origin, other host":       {"http://reg.lan:5000", dialect.Generic, nil, "http://sso.lan/token", false},
		"plain origin, configured":       {"http://reg.lan:5000", dialect.Generic, []string{"http://sso.lan/token"}, "http://sso.lan/token", true},
		"plain origin, https elsewhere":  {"http://reg.lan:5000", dialect.Generic, nil, "https://sso.lan/token", false},
		"plain origin, https at 443":     {"http://reg.lan", dialect.Generic, nil, "https://reg.lan/token", false},
	} {
		t.Run(name, func(t *testing.T) {
			// A realm over http is dialled in the clear, so that a leak there shows as well.
			secure := strings.HasPrefix(tc.origin, "https")
			web, tr := newWideWeb(t, secure)
			web.challenge = fmt.Sprintf(`Bearer realm="%s",service="s"`, tc.realm)
			scheme, host, _ := strings.Cut(tc.origin, "://")
			logs := &ocitest.Log{}
			a, err := New(Options{
				Origin: oci.Origin{Scheme: scheme, Host: host}, Registry: "registry.test", Type: typeNamed(t, tc.kind),
				TokenEndpoints: tc.endpoints, Transport: tr, Logger: logs.Logger(),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			for _, cred := range []*credential.Credential{testAccount("acme", "ci", "bot", canary), nil} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tc.origin+"/v2/acme/app/manifests/latest", nil)
				if err != nil {
					t.Fatal(err)
				}
				err = a.Authorize(t.Context(), req, cred, "acme/app")
				if tc.allowed {
					if err != nil || req.Header.Get("Authorization") != "Bearer t" {
						t.Errorf("%v: %q, %v", cred, req.Header.Get("Authorization"), err)
					}
					continue
				}
				e := ocitest.AsClass(t, err, oci.UpstreamError)
				if req.Header.Get("Authorization") != "" {
					t.Errorf("%v: it is authorised all the same", cred)
				}
				if strings.Contains(e.Error(), "user:pw") || strings.Contains(e.Error(), canary) {
					t.Errorf("a secret in %q", e)
				}
			}
			web.mu.Lock()
			defer web.mu.Unlock()
			if !tc.allowed && (len(web.asked) > 0 || len(web.leaked) > 0) {
				t.Errorf("asked %v, with credentials %v", web.asked, web.leaked)
			}
			if tc.allowed && (len(web.asked) != 2 || len(web.leaked) != 1) {
				t.Errorf("asked %v, with credentials %v; want one with and one without", web.asked, web.leaked)
			}
			if n := strings.Count(logs.String(), "a token endpoint was not asked"); !tc.allowed && n != 1 {
				t.Errorf("logged %d times, want once: %s", n, logs)
			}
		})
	}
}

func TestNewRealmsRefuses(t *testing.T) {
	for _, o := range []oci.Origin{{}, {Scheme: "ftp", Host: "x"}, {Scheme: "https"}, {Scheme: "https", Host: "a b"}, {Scheme: "https", Host: "u@h"}} {
		if _, err := NewRealms(o); err == nil {
			t.Errorf("origin %+v was taken", o)
		}
	}
	o := oci.Origin{Scheme: "https", Host: "ghcr.io"}
	for _, e := range []string{"", "sso", "http://sso.example/token", "https://u:" + canary + "@sso/token", "https://sso/t#x", "https:///x"} {
		if _, err := NewRealms(o, e); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("endpoint %q: %v", e, err)
		}
	}
}

// FuzzChallenge feeds a registry's challenge through parser, guard and request:
// whatever it says, a token request goes to the origin or not at all.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://ghcr.io/token",service="ghcr.io"`, `Basic realm="x"`, `Bearer`, ``, `Bearer realm="`, `Bearer realm="https://evil.test/"`,
		`Negotiate, Bearer realm="https://ghcr.io:443/t?x=y"`, `Bearer realm=https://ghcr.io/token`, `BeArer reAlm="https://ghCr.io"000`, `Bearer realm="https://ghcr.io\@evil.test"`, "Bearer realm=\"https://ghcr.io\x00\"",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, challenge string) {
		var went []*url.URL
		a, err := New(Options{
			Origin: oci.Origin{Scheme: "https", Host: "ghcr.io"}, Registry: "ghcr.io",
			Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
				resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Body: http.NoBody, Request: req}
				if req.URL.Path == "/v2/" && req.Header.Get("Authorization") == "" {
					resp.Header.Set("WWW-Authenticate", challenge)
					return resp, nil
				}
				went = append(went, req.URL)
				return resp, nil
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		req := &http.Request{URL: &url.URL{Scheme: "https", Host: "ghcr.io", Path: "/v2/a/manifests/b"}, Header: http.Header{}}
		if err := a.Authorize(t.Context(), req, testAccount("acme", "ci", "u", canary), "a"); err != nil && strings.Contains(err.Error(), canary) {
			t.Fatalf("the secret is in %v", err)
		}
		for _, u := range went {
			if u.Scheme != "https" || !strings.EqualFold(u.Hostname(), "ghcr.io") || u.Port() != "" && u.Port() != "443" || u.User != nil {
				t.Fatalf("challenge %q sent credentials to %s", challenge, u)
			}
		}
	})
}
