package isolation_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/upstream/dialect"
)

var servedRow = regexp.MustCompile("(?m)^\\| (.+) \\| (account.*|nobody) \\| `(.+)` \\| `(\\w+)` \\| `(.+)` \\| `(\\w+)` \\|$")

// TestServed_WhatThePageSays runs each row of the table in doc/security.md against a
// node: an image is pulled, the registry begins to answer what the row says, and what
// is kept goes out for as long as it says and no longer.
func TestServed_WhatThePageSays(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../doc/security.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := servedRow.FindAllStringSubmatch(string(page), -1)
	if len(rows) < 18 {
		t.Fatalf("only %d rows of the table are understood", len(rows))
	}
	run, wait := ocitest.Overlap(t, 8)
	defer wait()
	for _, row := range rows {
		for _, c := range [][2]string{{row[3], row[4]}, {row[5], row[6]}} {
			run(row[1]+", "+row[2]+": "+c[0], func(t *testing.T) { newServing(t, row[1], row[2]).answers(c[0], c[1]) })
		}
	}
}

// serving is a node whose cache has an image, and who pulled it.
type serving struct {
	*world

	t   *testing.T
	p   *place
	img ocitest.Pushed
	as  *client
}

func newServing(t *testing.T, where, as string) *serving {
	t.Helper()
	w := newWorld(t)
	o := ocitest.Options{Auth: ocitest.Bearer, Private: strings.HasPrefix(as, "account") && !strings.Contains(where, "public"), LiveRights: true}
	if strings.Contains(as, "Basic") {
		o.Auth = ocitest.Basic
	}
	if strings.Contains(where, "CDN") {
		o.CDN = ocitest.CDNSame
	}
	s := &serving{world: w, t: t}
	s.p = w.registry("reg.example", "", o, func(p *place) {
		for prefix, kind := range map[string]string{"Docker Hub": dialect.DockerHub, "GHCR": dialect.GHCR} {
			if strings.HasPrefix(where, prefix) {
				p.kind = kind
			}
		}
		p.uniform = strings.Contains(where, "public")
		p.object = strings.Contains(where, "access: object")
		p.keep = strings.Contains(where, "on_not_found: keep")
	})
	s.img = s.p.reg.AddImage(acmeRepo, "v1", ocitest.Image{Layers: []int64{9000}})
	for _, name := range []string{"acme", "bolt"} {
		w.organisation(name)
	}
	if strings.HasPrefix(as, "account") {
		w.account("acme", "main", s.p, acmeRepo)
	}
	everyone := strings.Contains(as, "everyone")
	if everyone {
		w.cache.PublicAfter = time.Millisecond
	}
	w.start()
	s.as = w.as("acme")
	clients := []*client{w.as("bolt"), s.as}
	if everyone {
		clients = clients[1:]
	}
	for _, c := range clients {
		if a := c.pull("reg.example/"+acmeRepo, s.img, 0); !a.ok() && (c == s.as || strings.Contains(as, "others")) {
			t.Fatal(a)
		}
	}
	if everyone {
		s.waitsForAnonymousHEAD()
	}
	return s
}

// waitsForAnonymousHEAD waits until the node has asked whether the image is public.
func (s *serving) waitsForAnonymousHEAD() {
	s.t.Helper()
	asked := ocitest.Match{Kind: ocitest.Manifest, Where: func(q ocitest.Request) bool {
		return q.Method == http.MethodHead && q.User == "" && q.Status == http.StatusOK
	}}
	for begun := time.Now(); s.p.reg.Count(asked) == 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > time.Minute {
			s.t.Fatal("the node did not ask whether the image is public")
		}
	}
}

// answers makes the registry answer so, and holds what goes out against word.
func (s *serving) answers(answer, word string) {
	s.t.Helper()
	s.p.reg.ExpireTokens()
	s.weather(answer)
	const ttl, margin = 5 * time.Minute, 10 * time.Minute
	limits := map[string]time.Duration{"refused": 0, "doubt": time.Hour, "grace": 24 * time.Hour, "always": 100 * time.Hour}
	limit, known := limits[word]
	if !known {
		s.t.Fatalf("what is %q?", word)
	}
	s.clock.forward(ttl + time.Minute)
	if limit == 0 {
		s.goesOut(false, "after the access TTL")
		return
	}
	s.goesOut(true, "after the access TTL")
	s.clock.forward(limit - margin - ttl)
	s.goesOut(true, "shortly before "+word+" is over")
	if word != "always" {
		s.clock.forward(2 * margin)
		s.goesOut(false, "shortly after "+word+" is over")
	}
}

func (s *serving) goesOut(want bool, when string) {
	s.t.Helper()
	p := s.img.Platforms[0]
	for _, path := range []string{"/manifests/" + p.Manifest.String(), "/blobs/" + p.Layers[0].String()} {
		if a := s.as.get("/v2/reg.example/" + acmeRepo + path); (a.status == http.StatusOK) != want {
			s.t.Errorf("%s, %s: %s", when, path, a)
		}
	}
}

// weather is what the registry, or whatever is there in its place, answers from now on.
func (s *serving) weather(answer string) {
	s.t.Helper()
	rest, atTokens := strings.CutPrefix(answer, "token ")
	rest, atCDN := strings.CutPrefix(rest, "CDN ")
	rest, gets := strings.CutSuffix(rest, " to GETs")
	fields := strings.Fields(strings.TrimPrefix(rest, "page "))
	status, err := strconv.Atoi(fields[0])
	if err != nil {
		s.t.Fatalf("what is the answer %q?", answer)
	}
	var fault ocitest.Fault
	switch {
	case strings.HasPrefix(rest, "page "):
		fault = page(status)
	case status == http.StatusFound:
		login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write(page(200).Body) // whoever reads it
		}))
		s.t.Cleanup(login.Close)
		fault = ocitest.Status(status, "Location", login.URL)
	case status == http.StatusTooManyRequests:
		fault = ocitest.Problem(status, "TOOMANYREQUESTS", "you have reached your pull rate limit", "Retry-After", "30")
	case status >= 500:
		fault = ocitest.Status(status, "Retry-After", "30")
	default:
		code := map[int]string{401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 400: "UNSUPPORTED"}[status]
		if len(fields) > 1 {
			code = fields[1]
		}
		fault = ocitest.Problem(status, code, "no")
	}
	s.p.reg.Inject(ocitest.Match{Where: func(q ocitest.Request) bool {
		switch {
		case atCDN:
			return q.Server == ocitest.CDNServer
		case atTokens: // whoever asks for one as nobody gets it
			return q.Kind == ocitest.Token && q.Header.Get("Authorization") != ""
		case gets:
			return q.Kind == ocitest.Manifest && q.Method == http.MethodGet
		case status == http.StatusUnauthorized && q.Header.Get("Authorization") == "":
			return false // it says how to sign in, as before
		}
		return q.Kind != ocitest.Token && q.Kind != ocitest.Ping
	}}, 0, fault)
}
