package caller

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestIdentity_Forms: every form in which somebody can say who they are goes through one
// check, and all that is said has to agree.
func TestIdentity_Forms(t *testing.T) {
	login, header, ended, other, otherHeader := NewToken().Reveal(), NewToken().Reveal(), NewToken().Reveal(), NewToken().Reveal(), NewToken().Reveal()
	hash := func(token string) string { return HashToken(secretText(token)) }
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	callers, err := NewTable([]Organisation{
		{Name: "acme", Tokens: []Token{
			{Name: "in", SHA256: hash(login)},
			{Name: "file", SHA256: hash(header), ForHeader: true},
			{Name: "old", SHA256: hash(ended), ForHeader: true, NotAfter: now.Add(-time.Hour)},
		}},
		{Name: "other", Tokens: []Token{{Name: "in", SHA256: hash(other)}, {Name: "file", SHA256: hash(otherHeader), ForHeader: true}}},
	}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	type headers = map[string][]string
	basic := func(user, token string) []string { return []string{basicHeader(user, token)} }
	meta := func(s ...string) []string { return s }
	for name, tc := range map[string]struct {
		headers headers
		from    string // 127.0.0.1:1 if empty
		want    Caller
		says    string // the refusal, if there is one
		status  int
	}{
		"a login":                     {headers: headers{"Authorization": basic("acme+ci", login)}, want: Caller{"acme", "ci", "in", Login}},
		"a login from elsewhere":      {headers: headers{"Authorization": basic("acme", login)}, from: "10.0.0.9:4711", want: Caller{"acme", "", "in", Login}},
		"hosts.toml":                  {headers: headers{"Authorization": basic("acme", header)}, want: Caller{"acme", "", "file", HostsTOML}},
		"hosts.toml over ::1":         {headers: headers{"Authorization": basic("acme", header)}, from: "[::1]:4711", want: Caller{"acme", "", "file", HostsTOML}},
		"hosts.toml over mapped IPv4": {headers: headers{"Authorization": basic("acme", header)}, from: "[::ffff:127.0.0.1]:4711", want: Caller{"acme", "", "file", HostsTOML}},
		"X-Meta-Berth":                {headers: headers{"X-Meta-Berth": meta("acme:" + header)}, want: Caller{"acme", "", "file", MetaBerth}},
		"X-Meta-Berth, an account":    {headers: headers{"X-Meta-Berth": meta("acme+ci:" + header)}, want: Caller{"acme", "ci", "file", MetaBerth}},
		"beside podman's nothing":     {headers: headers{"Authorization": meta(emptyBasic), "X-Meta-Berth": meta("acme:" + header)}, want: Caller{"acme", "", "file", MetaBerth}},
		"two that agree":              {headers: headers{"Authorization": basic("acme", login), "X-Meta-Berth": meta("acme:" + header)}, want: Caller{"acme", "", "in", LoginMeta}},
		"two of one kind that agree":  {headers: headers{"Authorization": basic("acme", header), "X-Meta-Berth": meta("acme:" + header)}, want: Caller{"acme", "", "file", HostsMeta}},

		"a header's token over the network": {headers: headers{"Authorization": basic("acme", header)}, from: "10.0.0.9:4711", says: "on the node itself only", status: 401},
		"X-Meta-Berth over the network":     {headers: headers{"X-Meta-Berth": meta("acme:" + header)}, from: "10.0.0.9:4711", says: "on the node itself only", status: 401},
		"from nowhere":                      {headers: headers{"X-Meta-Berth": meta("acme:" + header)}, from: "@", says: "on the node itself only", status: 401},
		"a login's token in X-Meta-Berth":   {headers: headers{"X-Meta-Berth": meta("acme:" + login)}, says: "for: header", status: 401},
		"one that ended":                    {headers: headers{"X-Meta-Berth": meta("acme:" + ended)}, says: "ended on 2026-03-01", status: 401},
		"another's token":                   {headers: headers{"X-Meta-Berth": meta("acme:" + otherHeader)}, says: "wrong token", status: 401},
		"nobody's organisation":             {headers: headers{"X-Meta-Berth": meta("nobody:" + header)}, says: "wrong token", status: 401},
		"no colon":                          {headers: headers{"X-Meta-Berth": meta(header)}, says: "X-Meta-Berth cannot be read", status: 401},
		"empty":                             {headers: headers{"X-Meta-Berth": meta("")}, says: "X-Meta-Berth cannot be read", status: 401},
		"too long":                          {headers: headers{"X-Meta-Berth": meta("acme:" + header + strings.Repeat(" ", maxBasic))}, says: "X-Meta-Berth cannot be read", status: 401},
		"twice":                             {headers: headers{"X-Meta-Berth": meta("acme:"+header, "acme:"+header)}, says: "came twice", status: 401},
		"a login twice":                     {headers: headers{"Authorization": append(basic("acme", login), basic("other", other)...)}, says: "came twice", status: 401},
		"two organisations":                 {headers: headers{"Authorization": basic("acme", login), "X-Meta-Berth": meta("other:" + otherHeader)}, says: "disagree", status: 401},
		"two accounts":                      {headers: headers{"Authorization": basic("acme", login), "X-Meta-Berth": meta("acme+ci:" + header)}, says: "disagree", status: 401},
		"a good login, a wrong header":      {headers: headers{"Authorization": basic("acme", login), "X-Meta-Berth": meta("acme:x")}, says: "wrong token", status: 401},
		"a wrong login, a good header":      {headers: headers{"Authorization": basic("acme", "x"), "X-Meta-Berth": meta("acme:" + header)}, says: "wrong token", status: 401},
		"a bearer token, a good header":     {headers: headers{"Authorization": meta("Bearer x"), "X-Meta-Berth": meta("acme:" + header)}, says: "cannot be read", status: 401},
	} {
		r := &http.Request{Header: http.Header(tc.headers), RemoteAddr: "127.0.0.1:1", URL: &url.URL{Path: "/v2/"}}
		if tc.from != "" {
			r.RemoteAddr = tc.from
		}
		got, err := callers.Identify(r)
		if tc.says == "" {
			if err != nil || got != tc.want {
				t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tc.want)
			}
			continue
		}
		e := refusal(t, err)
		if got != (Caller{}) || e.HTTPStatus() != tc.status || !strings.Contains(e.Message, tc.says) {
			t.Errorf("%s: got %+v, %d %s; want %d with %q", name, got, e.HTTPStatus(), e, tc.status, tc.says)
		}
		for _, token := range []string{login, header, ended, other, otherHeader} {
			if strings.Contains(e.Error(), token) {
				t.Errorf("%s: a token is in the message", name)
			}
		}
	}
}

// TestIdentity_PullSecrets: what containerd hands on from Kubernetes is told from a
// wrong token of ours, whatever organisations there are, and never repeated.
func TestIdentity_PullSecrets(t *testing.T) {
	jwt := "eyJhbGciOiJSUzI1NiJ9." // of a token that a control plane made by itself
	callers, err := NewTable([]Organisation{{Name: "acme", Tokens: []Token{{Name: "own", SHA256: HashToken(secretText(jwt))}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := func(user, password, query string) (Caller, error) {
		r := request("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
		r.URL = &url.URL{Path: "/v2/acme/app/manifests/1", RawQuery: query}
		return callers.Identify(r)
	}
	if got, err := at("acme", jwt, "ns=ghcr.io"); err != nil || got.Organisation != "acme" {
		t.Errorf("a token of ours that looks like a registry's: %+v, %v", got, err)
	}
	for name, login := range map[string][2]string{
		"GitHub":            {"acme-bot", "ghp_canary0123456789"},
		"GitHub, new":       {"acme", "github_pat_canary0123456789"},
		"Docker Hub":        {"acme", "dckr_pat_canary0123456789"},
		"DigitalOcean":      {"dop_v1_x", "dop_v1_canary0123456789"},
		"GitLab":            {"gitlab-ci-token", "glpat-canary0123456789"},
		"ECR":               {"AWS", "eyJcanary0123456789" + strings.Repeat("A", 3000)},
		"ACR":               {"00000000-0000-0000-0000-000000000000", "eyJcanary0123456789"},
		"Google":            {"_json_key", `{"type": "canary0123456789` + strings.Repeat("x", 3000)},
		"Google, token":     {"oauth2accesstoken", "canary0123456789"},
		"Harbor's robot":    {"robot$acme+ci", "canary0123456789"},
		"an e-mail address": {"ci@acme.example", "canary0123456789"},
	} {
		for query, says := range map[string]string{"ns=ghcr.io": "pull secret", "": "its tokens for this node"} {
			got, err := at(login[0], login[1], query)
			e := refusal(t, err)
			if got != (Caller{}) || e.HTTPStatus() != http.StatusForbidden || !strings.Contains(e.Message, says) || strings.Contains(e.Error(), "canary") {
				t.Errorf("%s: %+v, %d %s", name, got, e.HTTPStatus(), e)
			}
		}
	}
	// What cannot be told apart says both, alike for who is there and who is not.
	_, there := at("acme", "hunter2", "ns=quay.io")
	_, not := at("nobody", "hunter2", "ns=quay.io")
	e := refusal(t, there)
	if e.HTTPStatus() != http.StatusUnauthorized || !strings.Contains(e.Message, "wrong token") || !strings.Contains(e.Message, "pull secret") || there.Error() != not.Error() {
		t.Errorf("%v, %v", there, not)
	}
}
