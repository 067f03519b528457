package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/auth/caller"
	"berth/internal/registry"
	"berth/internal/secret"
	"berth/oci"
)

// tokenSite has organisations acme and globex, and others.
func tokenSite(t *testing.T, change func(*Options), others ...caller.Organisation) *site {
	t.Helper()
	callers, err := caller.NewTable(append([]caller.Organisation{
		{Name: "acme", Tokens: []caller.Token{{Name: "node", SHA256: caller.HashToken(secret.New("acme-canary-secret"))}}},
		{Name: "globex", Tokens: []caller.Token{{Name: "node", SHA256: caller.HashToken(secret.New("globex-canary-secret"))}}},
	}, others...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return newSite(t, func(o *Options) {
		o.Callers = callers
		if change != nil {
			change(o)
		}
	})
}

func basicHeader(user, password string) []string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return []string{"Authorization", r.Header.Get("Authorization")}
}

var everywhere = []string{
	"/v2/", "/v2", "/ghcr.io/v2/", "/v2/nginx/manifests/1", "/v2/ghcr.io/acme/app/tags/list",
	"/v2/nginx/blobs/" + string(oci.DigestOf(nil)), "/v2/q.example/app/manifests/1", "/v2/nginx/referrers/" + string(oci.DigestOf(nil)),
}

func TestUnprovenCallersGetOneChallengeAndNothingElse(t *testing.T) {
	s := tokenSite(t, nil)
	withManifest(s, manifestThing())
	for name, headers := range map[string][]string{
		"nothing":              nil,
		"wrong token":          basicHeader("acme", "globex-canary-secret"),
		"no token":             basicHeader("acme", ""),
		"unknown organisation": basicHeader("initech", "acme-canary-secret"),
		"no organisation":      basicHeader("", "acme-canary-secret"),
		"nobody at all":        basicHeader("", ""),
		"another scheme":       {"Authorization", "Bearer acme-canary-secret"},
		"rubbish":              {"Authorization", "Basic %%%"},
	} {
		for _, path := range everywhere {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				a := s.ask(method, path, headers...)
				if method == http.MethodHead {
					a.wants(t, http.StatusUnauthorized).sends(t, nil)
				} else {
					a.refuses(t, http.StatusUnauthorized, oci.CodeUnauthorized, "")
				}
				if got := a.Header.Values("WWW-Authenticate"); len(got) != 1 || got[0] != `Basic realm="berth"` {
					t.Errorf("%s: %s %s: challenges %q", name, method, path, got)
				}
			}
		}
	}
	if len(s.routed) != 0 || len(s.fake.calls) != 0 {
		t.Errorf("somebody unknown got as far as %v, %v", s.routed, s.fake.calls)
	}
}

func TestProvenCallers(t *testing.T) {
	s := tokenSite(t, nil)
	th := manifestThing()
	d := withManifest(s, th)
	login := basicHeader("acme+ci", "acme-canary-secret")
	s.get("/v2/", login...).wants(t, http.StatusOK).sends(t, []byte("{}"))
	checkManifest(t, s.get("/v2/nginx/manifests/1", login...), d, th)
	if want := (caller.Caller{Organisation: "acme", Account: "ci", TokenName: "node", Identity: caller.Login}); len(s.callers) != 1 || s.callers[0] != want {
		t.Errorf("the source was asked for %v", s.callers)
	}
	s.get("/v2/private.acme.com/app/manifests/1", login...).refuses(t, http.StatusNotFound, oci.CodeManifestUnknown, "app has no tag 1")
	s.get("/v2/private.acme.com/app/manifests/1", basicHeader("globex", "globex-canary-secret")...).
		refuses(t, http.StatusForbidden, oci.CodeDenied, `registry "private.acme.com" is not configured`)
	s.get("/v2/globex/ghcr.io/app/manifests/1", login...).refuses(t, http.StatusForbidden, oci.CodeDenied, "belongs to organisation globex")
}

// Where an organisation's file is bad its callers are told to try again, and so is whoever
// else proves nobody: the answer does not say which organisations there are.
func TestBrokenOrganisation(t *testing.T) {
	s := tokenSite(t, nil, caller.Organisation{Name: "broken", Broken: true})
	for _, user := range []string{"broken", "acme", "nobody-knows"} {
		a := s.get("/v2/nginx/manifests/1", basicHeader(user, "x")...)
		a.refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "cannot be read")
		a.header(t, "Retry-After", "10").header(t, "WWW-Authenticate", "")
	}
	s.get("/v2/").wants(t, http.StatusUnauthorized)
	s.get("/v2/", basicHeader("acme", "acme-canary-secret")...).wants(t, http.StatusOK)
}

func TestPing(t *testing.T) {
	s := newSite(t, func(o *Options) {
		o.Sources = func(caller.Caller, *registry.Spec) (oci.Source, error) {
			t.Error("a ping asked for a source")
			return nil, errors.New("no")
		}
	})
	for _, path := range []string{"/v2/", "/v2", "/ghcr.io/v2/", "/v2/?ns=docker.io"} {
		a := s.get(path).wants(t, http.StatusOK).sends(t, []byte("{}"))
		a.header(t, "Docker-Distribution-Api-Version", "registry/2.0").header(t, "Content-Type", "application/json").header(t, "Content-Length", "2")
		s.head(path).wants(t, http.StatusOK).sends(t, nil)
	}
	s.get("/q.example/v2/").refuses(t, http.StatusForbidden, oci.CodeDenied, `registry "q.example"`)
	if got := s.value("berth_requests_total"); got != 0 {
		t.Errorf("%v pings counted as requests for content", got)
	}
}

func TestOpenListenerIgnoresAuthorization(t *testing.T) {
	for _, organisation := range []string{"", "acme"} {
		s := newSite(t, func(o *Options) { o.Organisation = organisation })
		th := manifestThing()
		d := withManifest(s, th)
		for _, headers := range [][]string{nil, basicHeader("globex+ci", "x"), {"Authorization", "Bearer x"}} {
			s.get("/v2/", headers...).wants(t, http.StatusOK)
			a := s.get("/v2/nginx/manifests/1", headers...)
			checkManifest(t, a, d, th)
			a.header(t, "WWW-Authenticate", "")
		}
		for _, who := range s.callers {
			if who != (caller.Caller{Organisation: organisation}) {
				t.Errorf("an open listener of %q took somebody for %v", organisation, who)
			}
		}
	}
}

type callersFunc func(*http.Request) (caller.Caller, error)

func (f callersFunc) Identify(r *http.Request) (caller.Caller, error) { return f(r) }

func TestIdentifyFailsClosed(t *testing.T) {
	for name, c := range map[string]struct {
		identify callersFunc
		status   int
	}{
		"an error of another kind": {func(*http.Request) (caller.Caller, error) {
			return caller.Caller{Organisation: "acme"}, errors.New("boom")
		}, 401},
		"a cancelled look-up": {func(*http.Request) (caller.Caller, error) { return caller.Caller{}, context.Canceled }, 401},
		"another class": {func(*http.Request) (caller.Caller, error) {
			return caller.Caller{}, &oci.Error{Class: oci.Disk, Message: "x"}
		}, 401},
		"nobody without an error": {func(*http.Request) (caller.Caller, error) { return caller.Caller{}, nil }, 401},
		"refused": {func(*http.Request) (caller.Caller, error) {
			return caller.Caller{}, &oci.Error{Class: oci.Caller, Status: 403, Message: "x"}
		}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, func(o *Options) { o.Callers = c.identify })
			s.get("/v2/nginx/manifests/1", "Authorization", "x").wants(t, c.status)
			s.get("/v2/").wants(t, c.status)
			if len(s.routed) != 0 {
				t.Error("it got through")
			}
		})
	}
}

// A 401 behind the door would make a client throw its good login away.
func TestOnlyTheDoorAnswers401(t *testing.T) {
	for name, login := range map[string][]string{"open": nil, "token": basicHeader("acme", "acme-canary-secret")} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			if login != nil {
				s = tokenSite(t, nil)
			}
			withManifest(s, manifestThing())
			for _, fails := range []error{
				&oci.Error{Class: oci.Caller, Message: "account nope is not there"},
				&oci.Error{Class: oci.Unauthorized, Status: 401, Code: oci.CodeDenied, Message: "account nope is not there"},
				&oci.Error{Class: oci.Caller, Status: 401, Message: "account nope is not there"},
			} {
				s.fake.fails["resolve"] = fails
				a := s.get("/v2/nginx/manifests/1", login...)
				a.refuses(t, http.StatusForbidden, oci.CodeDenied, "account nope is not there")
				a.header(t, "WWW-Authenticate", "")
			}
		})
	}
}

func TestChallengesAreNoFailures(t *testing.T) {
	s := tokenSite(t, nil)
	s.get("/v2/nginx/manifests/1").wants(t, http.StatusUnauthorized)
	s.get("/v2/").wants(t, http.StatusUnauthorized)
	if got := s.value("berth_pull_failures_total"); got != 0 {
		t.Errorf("%v failures for the first step of a pull", got)
	}
	if got := s.value("berth_challenges_total"); got != 2 {
		t.Errorf("%v challenges", got)
	}
	s.get("/v2/", basicHeader("acme", "wrong")...).wants(t, http.StatusUnauthorized)
	s.get("/v2/", basicHeader("acme", "wrong")...).wants(t, http.StatusUnauthorized)
	s.get("/v2/nginx/manifests/1", basicHeader("acme", "wrong")...).wants(t, http.StatusUnauthorized)
	if got := s.value("berth_pull_failures_total", "organisation", "-", "registry", "-", "reason", "caller"); got != 2 {
		t.Errorf("%v failures for a refused login and a refused pull", got)
	}
	if got := s.value("berth_requests_total", "organisation", "-", "registry", "-", "kind", "manifest", "result", "failed"); got != 1 {
		t.Errorf("%v requests", got)
	}
}

func TestCanariesStayOutOfTheLog(t *testing.T) {
	s := tokenSite(t, nil)
	withManifest(s, manifestThing())
	s.fake.fails["list"] = &oci.Error{Class: oci.Unreachable, Message: "down", Err: errors.New(`Get "https://bucket.example/x?X-Sig=canary-signature": dial tcp: refused; also https://u.example/?canary=1 and more`)}
	for _, login := range [][]string{basicHeader("acme", "acme-canary-secret"), basicHeader("acme", "canary-wrong"), {"Authorization", "Bearer canary"}, nil} {
		for _, path := range []string{
			"/v2/", "/v2/nginx/manifests/1?canary=1", "/v2/nginx/tags/list?last=canary", "/v2/NGINX/manifests/1?token=canary",
			"/elsewhere?canary", "/v2/nginx/manifests/1?ns=q.example&canary=1",
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
				s.ask(method, path, append([]string{"Cookie", "canary=1", "X-Canary", "canary", "User-Agent", "canary/1", "Referer", "http://canary"}, login...)...)
			}
		}
	}
	s.server.Close()
	log := s.log.String()
	if strings.Contains(log, "canary") {
		for line := range strings.Lines(log) {
			if strings.Contains(line, "canary") {
				t.Errorf("in the log: %s", line)
			}
		}
	}
	if !strings.Contains(log, "dial tcp: refused; also https://u.example/? and more") {
		t.Error("causes are not logged")
	}
	if n := len(s.log.lines(t)); n != 4*6*3 {
		t.Errorf("%d lines for %d requests", n, 4*6*3)
	}
}

// Whoever has no token does not fill the log: of his lines some are at Info, and those of
// others all are.
func TestLog_StrangersHaveAShare(t *testing.T) {
	s := tokenSite(t, nil)
	const asked = 1000
	begun := time.Now()
	for range asked {
		s.ask(http.MethodGet, "/v2/", basicHeader("acme", "wrong")...)
	}
	most := 10*strangerLines + strangerLines*int(time.Since(begun).Seconds()+1)
	for range asked {
		s.ask(http.MethodGet, "/v2/", basicHeader("acme", "acme-canary-secret")...)
	}
	s.server.Close()
	told := map[string]int{}
	for _, line := range s.log.lines(t) {
		told[fmt.Sprint(line["level"], " ", line["status"])]++
	}
	if n := told["INFO 401"]; n == 0 || n > most || n+told["DEBUG 401"] != asked || told["INFO 200"] != asked {
		t.Errorf("%v, want %d refusals at Info at most", told, most)
	}
}

// TestIdentity_InTheLog: one field says in which form the caller proved itself, and no
// form leaves its token in the log.
func TestIdentity_InTheLog(t *testing.T) {
	table, err := caller.NewTable([]caller.Organisation{{Name: "acme", Tokens: []caller.Token{
		{Name: "in", SHA256: caller.HashToken(secret.New("acme-canary-login"))},
		{Name: "file", SHA256: caller.HashToken(secret.New("acme-canary-header")), ForHeader: true},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for want, headers := range map[string][]string{
		`"identity":"login"`:                   basicHeader("acme", "acme-canary-login"),
		`"identity":"hosts.toml"`:              basicHeader("acme", "acme-canary-header"),
		`"identity":"x-meta-berth"`:            {"X-Meta-Berth", "acme:acme-canary-header"},
		`"identity":"login+x-meta-berth"`:      append(basicHeader("acme", "acme-canary-login"), "X-Meta-Berth", "acme:acme-canary-header"),
		`"identity":"hosts.toml+x-meta-berth"`: append(basicHeader("acme", "acme-canary-header"), "X-Meta-Berth", "acme:acme-canary-header"),
		"X-Meta-Berth cannot be read":          {"X-Meta-Berth", "acme-canary-header"},
		"this is a login for a registry":       basicHeader("acme-bot", "ghp_canary"),
		"unknown organisation or wrong tok":    {"X-Meta-Berth", "acme:canary"},
		"disagree about who is pulling: tak":   append(basicHeader("acme", "acme-canary-login"), "X-Meta-Berth", "acme+ci:acme-canary-header"),
	} {
		s := newSite(t, func(o *Options) { o.Callers = table })
		s.get("/v2/nginx/manifests/1", headers...)
		log := s.log.String()
		if !strings.Contains(log+" ", want) || strings.Contains(log, "canary") {
			t.Errorf("%v: %s", headers, log)
		}
	}
}
