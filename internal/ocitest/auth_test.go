package ocitest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tokenFor asks the token endpoint as a client does.
func tokenFor(t *testing.T, r *Registry, repo string, header ...string) (string, reply) {
	t.Helper()
	q := url.Values{"service": {service}, "scope": {"repository:" + repo + ":pull"}}
	got := get(t, r, r.TokenURL()+"?"+q.Encode(), header...)
	var doc struct {
		Token       string
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(got.body, &doc); err != nil {
		t.Fatalf("the token answer is %q: %v", got.body, err)
	}
	if doc.Token == "" {
		return doc.AccessToken, got
	}
	return doc.Token, got
}

func TestBasicAuth(t *testing.T) {
	r := New(t, Options{Auth: Basic, Private: true, Refusal: RefuseForbidden})
	r.AddUser("bot", "pw", "acme/**")
	r.AddUser("other", "pw", "other/app")
	addManifest(r, "v1")
	for _, path := range []string{"/v2/", manifestPath("v1"), manifestPath("none")} {
		for _, h := range [][]string{nil, basic("bot", "no"), basic("none", "pw"), bearer("pw")} {
			got := get(t, r, path, h...).want(t, 401)
			if got.header.Get("Www-Authenticate") != `Basic realm="registry.test"` || got.code(t) != "UNAUTHORIZED" {
				t.Errorf("%s %v: %v %q", path, h, got.header, got.body)
			}
		}
	}
	get(t, r, "/v2/", basic("other", "pw")...).want(t, 200)
	get(t, r, manifestPath("v1"), basic("bot", "pw")...).want(t, 200)
	get(t, r, manifestPath("none"), basic("bot", "pw")...).want(t, 404)
	get(t, r, manifestPath("v1"), basic("other", "pw")...).want(t, 403)
	get(t, r, "/v2/none/manifests/v1", basic("bot", "pw")...).want(t, 403)
	r.SetPassword("bot", "new")
	get(t, r, manifestPath("v1"), basic("bot", "pw")...).want(t, 401)
	get(t, r, manifestPath("v1"), basic("bot", "new")...).want(t, 200)
	r.SetRights("bot", "acme/other")
	get(t, r, manifestPath("v1"), basic("bot", "new")...).want(t, 403)
	r.RemoveUser("bot")
	get(t, r, "/v2/", basic("bot", "new")...).want(t, 401)
}

func TestBearerAuth(t *testing.T) {
	for name, o := range map[string]Options{"one server": {}, "two": {TokenServer: true}, "tls": {TLS: true, TokenServer: true}} {
		t.Run(name, func(t *testing.T) {
			o.Auth = Bearer
			r := New(t, o)
			r.AddUser("bot", "pw", "acme/**")
			addManifest(r, "v1")
			r.AddRepo("acme/secret")
			r.SetPrivate("acme/secret", true)

			got := get(t, r, "/v2/").want(t, 401)
			if c := got.header.Get("Www-Authenticate"); c != `Bearer realm="`+r.TokenURL()+`",service="registry.test"` {
				t.Errorf("the challenge of /v2/ is %s", c)
			}
			got = get(t, r, manifestPath("v1")).want(t, 401)
			if c := got.header.Get("Www-Authenticate"); c != `Bearer realm="`+r.TokenURL()+`",service="registry.test",scope="repository:acme/app:pull"` {
				t.Errorf("the challenge is %s", c)
			}
			got = get(t, r, manifestPath("v1"), bearer("bad")...).want(t, 401)
			if c := got.header.Get("Www-Authenticate"); !strings.Contains(c, `error="invalid_token"`) {
				t.Errorf("the challenge to a bad token is %s", c)
			}

			// Nobody's token is good for what is public, and only there.
			token, _ := tokenFor(t, r, "acme/app")
			get(t, r, "/v2/", bearer(token)...).want(t, 200)
			get(t, r, manifestPath("v1"), bearer(token)...).want(t, 200)
			refusedScope(t, r, "/v2/acme/secret/manifests/v1", token)
			token, _ = tokenFor(t, r, "acme/secret")
			refusedScope(t, r, "/v2/acme/secret/manifests/v1", token)
			refusedScope(t, r, manifestPath("v1"), token)
			token, _ = tokenFor(t, r, "acme/none")
			refusedScope(t, r, "/v2/acme/none/manifests/v1", token)

			// Somebody's where they have rights.
			token, _ = tokenFor(t, r, "acme/secret", basic("bot", "pw")...)
			get(t, r, "/v2/acme/secret/manifests/v1", bearer(token)...).want(t, 404)
			token, _ = tokenFor(t, r, "acme/none", basic("bot", "pw")...)
			if c := get(t, r, "/v2/acme/none/manifests/v1", bearer(token)...).want(t, 404).code(t); c != "NAME_UNKNOWN" {
				t.Error(c)
			}
			token, _ = tokenFor(t, r, "other/none", basic("bot", "pw")...)
			refusedScope(t, r, "/v2/other/none/manifests/v1", token)

			_, got = tokenFor(t, r, "acme/app", basic("bot", "no")...)
			if got.status != 401 || !strings.Contains(string(got.body), "incorrect username or password") {
				t.Errorf("a wrong password: %d %s", got.status, got.body)
			}
			get(t, r, r.TokenURL()+"?service=other").want(t, 400)

			last := r.Requests(Match{Server: RegistryServer, User: "bot"})
			if len(last) == 0 || r.Count(Match{Kind: Token, User: "bot"}) != 3 || r.Count(Match{Kind: Token, User: Anonymous}) != 5 {
				t.Errorf("%d requests as bot, %d tokens for bot, %d for nobody", len(last), r.Count(Match{Kind: Token, User: "bot"}), r.Count(Match{Kind: Token, User: Anonymous}))
			}
		})
	}
}

func refusedScope(t *testing.T, r *Registry, path, token string) {
	t.Helper()
	got := get(t, r, path, bearer(token)...).want(t, 401)
	if c := got.header.Get("Www-Authenticate"); !strings.Contains(c, `error="insufficient_scope"`) {
		t.Errorf("%s: the challenge is %s", path, c)
	}
}

func TestRefusals(t *testing.T) {
	r := New(t, Options{Auth: Bearer, Private: true, BadPassword: 403})
	r.AddUser("bot", "pw")
	addManifest(r, "v1")
	token, _ := tokenFor(t, r, "acme/app", basic("bot", "pw")...)
	for how, want := range map[Refusal]int{RefuseScope: 401, RefuseForbidden: 403, RefuseNotFound: 404, RefuseAtToken: 403} {
		r.SetRefusal(how)
		get(t, r, manifestPath("v1"), bearer(token)...).want(t, want)
	}
	r.SetRefusal(RefuseAtToken)
	if _, got := tokenFor(t, r, "acme/app"); got.status != 401 {
		t.Errorf("nobody at the token endpoint: %d", got.status)
	}
	if _, got := tokenFor(t, r, "acme/app", basic("bot", "pw")...); got.status != 403 {
		t.Errorf("somebody at the token endpoint: %d", got.status)
	}
	if _, got := tokenFor(t, r, "acme/app", basic("bot", "no")...); got.status != 403 {
		t.Errorf("a wrong password at the token endpoint: %d", got.status)
	}
	r.SetRights("bot", "acme/app")
	token, _ = tokenFor(t, r, "acme/app", basic("bot", "pw")...)
	get(t, r, manifestPath("v1"), bearer(token)...).want(t, 200)
}

func TestTokensExpire(t *testing.T) {
	var ahead atomic.Int64
	r := New(t, Options{Auth: Bearer, TokenTTL: time.Minute, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	addManifest(r, "v1")
	token, _ := tokenFor(t, r, "acme/app")
	ahead.Store(int64(50 * time.Second))
	get(t, r, manifestPath("v1"), bearer(token)...).want(t, 200)
	ahead.Store(int64(60 * time.Second))
	get(t, r, manifestPath("v1"), bearer(token)...).want(t, 401)
	token, _ = tokenFor(t, r, "acme/app")
	get(t, r, manifestPath("v1"), bearer(token)...).want(t, 200)
	r.ExpireTokens()
	get(t, r, manifestPath("v1"), bearer(token)...).want(t, 401)
}

// Rights are frozen in a token, unless the registry looks at every request.
func TestTokensKeepRights(t *testing.T) {
	for live, want := range map[bool]int{false: 200, true: 401} {
		r := New(t, Options{Auth: Bearer, Private: true, LiveRights: live})
		r.AddUser("bot", "pw", "**")
		addManifest(r, "v1")
		token, _ := tokenFor(t, r, "acme/app", basic("bot", "pw")...)
		get(t, r, manifestPath("v1"), bearer(token)...).want(t, 200)
		r.RemoveUser("bot")
		get(t, r, manifestPath("v1"), bearer(token)...).want(t, want)
	}
}

func TestTokenShapes(t *testing.T) {
	for shape, want := range map[TokenShape]string{
		TokenFull: "expires_in issued_at token", TokenOnly: "token", AccessTokenOnly: "access_token", TokenBoth: "access_token expires_in issued_at token",
	} {
		r := New(t, Options{Auth: Bearer, TokenShape: shape, TokenTTL: 90 * time.Second})
		_, got := tokenFor(t, r, "acme/app")
		doc := map[string]any{}
		if err := json.Unmarshal(got.body, &doc); err != nil {
			t.Fatal(err)
		}
		if keys := strings.Join(sortedKeys(doc), " "); keys != want {
			t.Errorf("shape %d has %s", shape, keys)
		}
		if s, ok := doc["expires_in"]; ok && s != 90.0 {
			t.Errorf("expires_in is %v", s)
		}
	}
}

func TestOAuthToken(t *testing.T) {
	ask := func(r *Registry, form url.Values) reply {
		form.Set("service", service)
		form.Set("scope", "repository:acme/app:pull")
		hr, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.TokenURL(), strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		hr.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		got, err := do(clientOf(t, r), hr)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	r := New(t, Options{Auth: Bearer, Private: true, OAuth: true})
	r.AddUser("bot", "pw", "**")
	r.SetIdentityToken("bot", "identity")
	r.AddUser("another", "pw", "**") // without an identity token
	addManifest(r, "v1")
	for name, form := range map[string]url.Values{
		"password": {"grant_type": {"password"}, "username": {"bot"}, "password": {"pw"}},
		"identity": {"grant_type": {"refresh_token"}, "refresh_token": {"identity"}},
	} {
		var doc struct{ Token string }
		if err := json.Unmarshal(ask(r, form).want(t, 200).body, &doc); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		get(t, r, manifestPath("v1"), bearer(doc.Token)...).want(t, 200)
	}
	for name, form := range map[string]url.Values{
		"password": {"grant_type": {"password"}, "username": {"bot"}, "password": {"no"}},
		"identity": {"grant_type": {"refresh_token"}, "refresh_token": {""}},
		"nothing":  {},
	} {
		t.Log(name)
		ask(r, form).want(t, 401)
	}
	ask(New(t, Options{Auth: Bearer}), url.Values{}).want(t, 405)
}
