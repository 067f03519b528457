package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"berth/oci"
)

// frontend is a registry of one manifest in every repository. ping and guard answer
// for /v2/ and for what needs a credential; tokens is the token endpoint.
type frontend struct {
	ping   http.HandlerFunc
	guard  func(w http.ResponseWriter, r *http.Request) (passed bool)
	tokens http.HandlerFunc
}

const frontManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

func newFrontend(t *testing.T, f frontend) (*Registry, *web) {
	t.Helper()
	srv := newWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
			f.ping(w, r)
		case strings.HasPrefix(r.URL.Path, "/token"):
			f.tokens(w, r)
		case f.guard == nil || f.guard(w, r):
			if strings.HasSuffix(r.URL.Path, ".html") {
				return
			}
			w.Header().Set("Content-Type", "text/plain") // as a server of files calls it
			_, _ = w.Write([]byte(frontManifest))
		}
	}))
	r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: mustURL(t, srv.URL).Host}})
	r.pause = 1
	return r, srv
}

func answering(status int, pairs ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(pairs); i += 2 {
			w.Header().Add(pairs[i], pairs[i+1])
		}
		w.WriteHeader(status)
	}
}

// /v2/ is only one place where a challenge can be learned: a registry of static files
// has no such place (moby#15173, #31318).
func TestPing_OfStaticFiles(t *testing.T) {
	for name, ping := range map[string]http.HandlerFunc{
		"200": answering(200), "204": answering(204), "206": answering(206), "400": answering(400), "403": answering(403), "404": answering(404),
		"405": answering(405), "406": answering(406), "410": answering(410), "501": answering(501),
		"a page":              answering(404, "Content-Type", "text/html"),
		"a redirect here":     answering(302, "Location", "/v2/index.html"),
		"a relative redirect": answering(301, "Location", "index.html"),
	} {
		for who, guard := range map[string]func(http.ResponseWriter, *http.Request) bool{
			"anyone": nil,
			"with a password": func(w http.ResponseWriter, r *http.Request) bool {
				user, password, ok := r.BasicAuth()
				if !ok {
					answering(401, "WWW-Authenticate", `Basic realm="files"`)(w, r)
					return false
				}
				return user == "alice" && password == "secret"
			},
		} {
			r, srv := newFrontend(t, frontend{ping: ping, guard: guard})
			src := r.As(as("acme", "alice", "secret"))
			d, err := src.Resolve(t.Context(), "acme/app", "v1")
			if err != nil || d.Digest != oci.DigestOf([]byte(frontManifest)) {
				t.Errorf("%s, %s: %v", name, who, err)
				continue
			}
			before := srv.count()
			if _, err := src.Resolve(t.Context(), "acme/app", "v1"); err != nil || srv.count()-before > 2 { // HEAD and GET
				t.Errorf("%s, %s: %d more requests, %v", name, who, srv.count()-before, err)
			}
		}
	}
}

func TestPing_SentElsewhereOrInTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		ping http.HandlerFunc
		want oci.Class
	}{
		"another host": {answering(302, "Location", "https://login.test/"), oci.UpstreamError},
		"503":          {answering(503), oci.UpstreamError},
		"429":          {answering(429, "Retry-After", "60"), oci.RateLimited},
	} {
		r, _ := newFrontend(t, frontend{ping: test.ping})
		_, err := r.As(Identity{}).Resolve(t.Context(), "acme/app", "v1")
		if oci.ClassOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// One host may be a front for several registries, each with a token service of its
// own (nexus-public#873): what a repository asks for counts there.
func TestTokenService_OfEachRepository(t *testing.T) {
	var asked [2]atomic.Int64
	f := frontend{}
	challenge := func(w http.ResponseWriter, r *http.Request, service string) {
		answering(401, "WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token/%s",service=%q`, r.Host, service, service))(w, r)
	}
	f.ping = func(w http.ResponseWriter, r *http.Request) { challenge(w, r, "a") }
	f.tokens = func(w http.ResponseWriter, r *http.Request) {
		service := strings.TrimPrefix(r.URL.Path, "/token/")
		asked[service[0]-'a'].Add(1)
		if r.URL.Query().Get("service") != service {
			answering(400)(w, r)
			return
		}
		_, _ = fmt.Fprintf(w, `{"token":"for-%s","expires_in":300}`, service)
	}
	f.guard = func(w http.ResponseWriter, r *http.Request) bool {
		want := "a"
		if strings.HasPrefix(r.URL.Path, "/v2/gcr/") {
			want = "b"
		}
		if strings.HasPrefix(r.URL.Path, "/v2/basic/") {
			if _, _, ok := r.BasicAuth(); !ok {
				answering(401, "WWW-Authenticate", `Basic realm="x"`)(w, r)
				return false
			}
			return true
		}
		if r.Header.Get("Authorization") != "Bearer for-"+want {
			challenge(w, r, want)
			return false
		}
		return true
	}
	for _, order := range [][]string{{"team/app", "gcr/app", "team/app", "gcr/other"}, {"gcr/app", "team/app", "gcr/app"}} {
		asked[0].Store(0)
		asked[1].Store(0)
		r, _ := newFrontend(t, f)
		src := r.As(as("acme", "alice", "secret"))
		for _, repo := range order {
			for range 3 {
				if _, err := src.Resolve(t.Context(), repo, "v1"); err != nil {
					t.Errorf("%v: %s: %v", order, repo, err)
				}
			}
		}
		if a, b := asked[0].Load(), asked[1].Load(); a > 3 || b > 2 {
			t.Errorf("%v: %d tokens of a, %d of b", order, a, b)
		}
	}
	r, _ := newFrontend(t, f)
	_, err := r.As(as("acme", "alice", "secret")).Resolve(t.Context(), "basic/app", "v1")
	wantClass(t, err, oci.Denied) // Basic for a token only says no
}

// A realm that may not be asked gets nothing, wherever it is named.
func TestTokenService_OfAnotherHost(t *testing.T) {
	stranger := newWeb(t, answering(200))
	f := frontend{ping: answering(200), guard: func(w http.ResponseWriter, r *http.Request) bool {
		answering(401, "WWW-Authenticate", `Bearer realm="`+stranger.URL+`/token",service="x"`)(w, r)
		return false
	}}
	r, _ := newFrontend(t, f)
	src := r.As(as("acme", "alice", "secret"))
	for range 2 {
		if _, err := src.Resolve(t.Context(), "acme/app", "v1"); err == nil {
			t.Error("no error")
		}
	}
	if stranger.count() > 0 {
		t.Errorf("a stranger was asked %d times", stranger.count())
	}
}

// Several challenges may stand in one header or in several: what can be done is done.
func TestChallenge_OneOfSeveral(t *testing.T) {
	bearer := func(host string) string {
		return `Bearer realm="http://` + host + `/token",service="s, or b",scope="a,b"`
	}
	for name, offers := range map[string]func(host string) []string{
		"Negotiate before Basic": func(string) []string { return []string{`Negotiate, Basic realm="x"`} },
		"Negotiate with data":    func(string) []string { return []string{`Negotiate YWJj==, NTLM, Basic realm="a, b"`} },
		"Basic before Negotiate": func(string) []string { return []string{`BASIC realm="x", Negotiate`} },
		"in two headers":         func(string) []string { return []string{`Negotiate`, `Basic realm="x", charset="UTF-8"`} },
		"Digest before Basic": func(string) []string {
			return []string{`Digest realm="x", qop="auth,auth-int", nonce="n", Basic realm="x"`}
		},
		"Bearer and Basic": func(h string) []string { return []string{bearer(h) + `, Basic realm="x"`} },
		"Basic and Bearer": func(h string) []string { return []string{`Basic realm="x", ` + bearer(h)} },
		"Bearer of a stranger, Basic": func(string) []string {
			return []string{`Bearer realm="https://stranger.test/t",service="x", Basic realm="x"`}
		},
		"empty items":                  func(h string) []string { return []string{`, ,` + bearer(h) + `,`} },
		"a space around the equals":    func(string) []string { return []string{`Basic realm = "x"`} },
		"Bearer of a stranger, Bearer": func(h string) []string { return []string{`Bearer realm="https://stranger.test/t"`, bearer(h)} },
	} {
		f := frontend{tokens: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token":"t"}`)) }}
		ask := func(w http.ResponseWriter, r *http.Request) bool {
			user, _, ok := r.BasicAuth()
			if ok && user == "alice" || r.Header.Get("Authorization") == "Bearer t" {
				return true
			}
			for _, o := range offers(r.Host) {
				w.Header().Add("WWW-Authenticate", o)
			}
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
		f.guard = ask
		for _, where := range []string{"at /v2/", "at the manifest"} {
			f.ping = answering(200)
			if where == "at /v2/" {
				f.ping = func(w http.ResponseWriter, r *http.Request) { ask(w, r) }
			}
			r, _ := newFrontend(t, f)
			if _, err := r.As(as("acme", "alice", "secret")).Resolve(t.Context(), "acme/app", "v1"); err != nil {
				t.Errorf("%s, %s: %v", name, where, err)
			}
		}
	}
}

// A token is used whatever is said about its life.
func TestToken_LifeInAnyForm(t *testing.T) {
	for _, answer := range []string{
		`{"token":"t","expires_in":"300"}`, `{"token":"t","expires_in":300.5}`, `{"token":"t","expires_in":1e300}`, `{"token":"t","expires_in":null}`,
		`{"token":"t","expires_in":"soon"}`, `{"token":"t","expires_in":{"s":1}}`, `{"token":"t","expires_in":-1}`, `{"token":"t","expires_in":99999999999999999999999}`,
		`{"token":"t","issued_at":1700000000}`, `{"token":"t","issued_at":{}}`, `{"token":"t","refresh_token":7}`, `{"access_token":"t","token_type":["x"]}`,
		"\xef\xbb\xbf" + `{"token":"t"}`, "  {\"token\":\"t\"}\r\n",
	} {
		var tokens atomic.Int64
		f := frontend{
			tokens: func(w http.ResponseWriter, _ *http.Request) { tokens.Add(1); _, _ = w.Write([]byte(answer)) },
			ping: func(w http.ResponseWriter, r *http.Request) {
				answering(401, "WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s"`)(w, r)
			},
			guard: func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Authorization") != "Bearer t" {
					w.WriteHeader(http.StatusForbidden)
					return false
				}
				return true
			},
		}
		r, _ := newFrontend(t, f)
		for range 3 {
			if _, err := r.As(Identity{}).Resolve(t.Context(), "acme/app", "v1"); err != nil {
				t.Errorf("%s: %v", answer, err)
			}
		}
		if n := tokens.Load(); n != 1 {
			t.Errorf("%s: %d tokens", answer, n)
		}
	}
}
