package ocitest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

func TestRecord(t *testing.T) {
	r := New(t, Options{TLS: true, HTTP2: true, Auth: Bearer, TokenServer: true, CDN: CDNSame})
	r.AddUser("bot", "pw", "**")
	m, data := addManifest(r, "v1")
	b := r.AddNoise("acme/app", 1, 1000)
	client := clientOf(t, r)
	ask := func(method, target string, header ...string) reply {
		if strings.HasPrefix(target, "/") {
			target = r.URL() + target
		}
		got, err := do(client, polite(t, method, target, header...))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	before := time.Now()
	token, _ := tokenFor(t, r, "acme/app", basic("bot", "pw")...)
	ask("GET", "/v2/", bearer(token)...)
	ask("HEAD", manifestPath("v1"), bearer(token)...)
	ask("GET", manifestPath(m.String()), bearer(token)...)
	target := ask("GET", blobPath(b), bearer(token)...).header.Get("Location")
	ask("GET", target, "Range", "bytes=0-9")
	ask("GET", "/v2/acme/app/tags/list?n=5")

	want := []Request{
		{ID: 1, Server: TokenServer, Kind: Token, Method: "GET", User: "bot", Status: 200, Scopes: []string{"repository:acme/app:pull"}},
		{ID: 2, Server: RegistryServer, Kind: Ping, Method: "GET", User: "bot", Status: 200},
		{ID: 3, Server: RegistryServer, Kind: Manifest, Method: "HEAD", Repo: "acme/app", Tag: "v1", User: "bot", Status: 200},
		{ID: 4, Server: RegistryServer, Kind: Manifest, Method: "GET", Repo: "acme/app", Digest: m, User: "bot", Status: 200, Sent: int64(len(data))},
		{ID: 5, Server: RegistryServer, Kind: Blob, Method: "GET", Repo: "acme/app", Digest: b, User: "bot", Status: 307},
		{ID: 6, Server: CDNServer, Kind: Blob, Method: "GET", Repo: "acme/app", Digest: b, Status: 206, Sent: 10, Range: "bytes=0-9"},
		{ID: 7, Server: RegistryServer, Kind: Tags, Method: "GET", Repo: "acme/app", Status: 401, Query: "n=5"},
	}
	ends(t, r)
	got := r.Requests(Match{})
	if len(got) != len(want) {
		t.Fatalf("%d requests: %v", len(got), got)
	}
	id := 0
	for i, w := range want {
		g := got[i]
		if g.Server != w.Server || g.Kind != w.Kind || g.Method != w.Method || g.Repo != w.Repo || g.Tag != w.Tag || g.Digest != w.Digest ||
			g.User != w.User || g.Status != w.Status || g.Range != w.Range || w.Sent > 0 && g.Sent != w.Sent || len(g.Scopes) != len(w.Scopes) {
			t.Errorf("request %d is %+v", i, g)
		}
		if w.Query != "" && g.Query != w.Query || g.Proto != "HTTP/2.0" || !g.Done || g.Start.Before(before) || g.End.Before(g.Start) || g.ID <= id {
			t.Errorf("request %d: %s %s %v %v %v", i, g.Proto, g.Query, g.Done, g.Start, g.End)
		}
		id = g.ID
		if s := g.String(); strings.Contains(s, token) || !strings.Contains(s, g.Path) {
			t.Errorf("request %d is written as %s", i, s)
		}
	}
	for name, c := range map[string][2]int{
		"manifest GETs":        {r.ManifestGETs(), 1},
		"manifest HEADs":       {r.ManifestHEADs(), 1},
		"blob GETs":            {r.BlobGETs(), 1},
		"tokens":               {r.TokenRequests(), 1},
		"blob bytes":           {int(r.BlobBytes(b)), 10},
		"all":                  {r.Count(Match{}), 7},
		"at the CDN":           {r.Count(Match{Server: CDNServer}), 1},
		"by tag":               {r.Count(Match{Tag: "v1"}), 1},
		"by digest":            {r.Count(Match{Digest: b}), 2},
		"by repository":        {r.Count(Match{Repo: "acme/app"}), 5},
		"by user":              {r.Count(Match{User: "bot"}), 5},
		"by nobody":            {r.Count(Match{User: Anonymous}), 2},
		"by status":            {r.Count(Match{Status: 401}), 1},
		"where":                {r.Count(Match{Where: func(q Request) bool { return q.Range != "" }}), 1},
		"registry connections": {r.Connections(Match{Server: RegistryServer}), 1},
		"connections":          {r.Connections(Match{}), 3},
		"at once":              {r.MaxInFlight(Match{}), 1},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, want %d", name, c[0], c[1])
		}
	}
	r.Forget()
	if r.Count(Match{}) != 0 || r.BlobBytes(b) != 0 || r.MaxInFlight(Match{}) != 0 {
		t.Error("what is forgotten is counted")
	}
}

func TestMaxInFlight(t *testing.T) {
	r := New(t, Options{})
	d := r.AddNoise("acme/app", 1, 1000)
	client := clientOf(t, r)
	gate := r.Hold(Match{Kind: Blob})
	var wg sync.WaitGroup
	for range 3 {
		hr := polite(t, http.MethodGet, r.URL()+blobPath(d))
		wg.Go(func() {
			if got, err := do(client, hr); err != nil || got.status != 200 {
				t.Errorf("%d, %v", got.status, err)
			}
		})
	}
	if err := r.WaitInFlight(t.Context(), Match{Kind: Blob}, 3); err != nil {
		t.Fatal(err)
	}
	get(t, r, "/v2/").want(t, 200)
	if n := r.MaxInFlight(Match{}); n != 4 {
		t.Errorf("%d at once, with three held and one answered", n)
	}
	gate.Pass(2)
	if err := r.WaitInFlight(t.Context(), Match{Kind: Blob}, 1); err != nil {
		t.Fatal(err)
	}
	gate.Open()
	wg.Wait()
	ends(t, r)
	get(t, r, blobPath(d)).want(t, 200)
	if n, k := r.MaxInFlight(Match{Kind: Blob}), r.MaxInFlight(Match{Kind: Ping}); n != 3 || k != 1 {
		t.Errorf("%d blobs and %d pings at once", n, k)
	}
}

// A client that has the last byte may send its next request before the handler
// of this one has returned: they are not at once.
func TestRequestEndsWithItsLastByte(t *testing.T) {
	r := New(t, Options{})
	w := httptest.NewRecorder()
	w.Header().Set("Content-Length", "10")
	a := &answer{ResponseWriter: w, reg: r, rec: r.begin(Request{Kind: Blob})}
	a.count(9)
	if n := r.MaxInFlight(Match{}); n != 1 || a.rec.endID != 0 {
		t.Errorf("it ended after 9 bytes of 10")
	}
	a.count(1)
	b := r.begin(Request{Kind: Blob})
	if n := r.MaxInFlight(Match{}); n != 1 {
		t.Errorf("%d at once, one after the other", n)
	}
	r.end(a.rec)
	r.end(b)
	if n := r.MaxInFlight(Match{}); n != 1 {
		t.Errorf("%d at once, one after the other", n)
	}
}

func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(t, Options{Net: NewMemoryNet()})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for name, wait := range map[string]func() error{
			"for a request":  func() error { return r.WaitFor(ctx, Match{}, 1) },
			"for bytes":      func() error { return r.WaitSent(ctx, Match{}, 1) },
			"for one to run": func() error { return r.WaitInFlight(ctx, Match{}, 1) },
		} {
			if err := wait(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("waiting %s: %v", name, err)
			}
		}
		d := r.AddNoise("acme/app", 1, 1000)
		waited := make(chan error, 2)
		go func() { waited <- r.WaitSent(t.Context(), Match{Digest: d}, 2000) }()
		go func() { waited <- r.WaitFor(t.Context(), Match{Kind: Blob}, 2) }()
		get(t, r, blobPath(d)).want(t, 200)
		synctest.Wait()
		if len(waited) != 0 {
			t.Error("they did not wait")
		}
		get(t, r, blobPath(d)).want(t, 200)
		for range 2 {
			if err := <-waited; err != nil {
				t.Error(err)
			}
		}
		go func() { waited <- r.WaitFor(t.Context(), Match{}, 100) }()
		synctest.Wait()
		r.Close()
		if err := <-waited; !errors.Is(err, errClosed) {
			t.Errorf("waiting at a closed registry: %v", err)
		}
	})
}

func TestMatchesOfAParsedPath(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for path, want := range map[string]Request{
		"/v2/":                                {Kind: Ping},
		"/v2":                                 {Kind: Other},
		"/":                                   {Kind: Other},
		"/v2/a":                               {Kind: Other},
		"/v2/a/b/manifests/x":                 {Kind: Manifest, Repo: "a/b", Tag: "x"},
		"/v2/a/manifests/sha256:" + hex:       {Kind: Manifest, Repo: "a", Digest: oci.Digest("sha256:" + hex)},
		"/v2/a/blobs/sha256:" + hex:           {Kind: Blob, Repo: "a", Digest: oci.Digest("sha256:" + hex)},
		"/v2/a/referrers/sha256:" + hex:       {Kind: Referrers, Repo: "a", Digest: oci.Digest("sha256:" + hex)},
		"/v2/a/tags/list":                     {Kind: Tags, Repo: "a"},
		"/v2/manifests/blobs/manifests/blobs": {Kind: Manifest, Repo: "manifests/blobs", Tag: "blobs"},
		"/token":                              {Kind: Token},
	} {
		hr := polite(t, http.MethodGet, "http://127.0.0.1"+path)
		got := parse(RegistryServer, hr)
		if got.Kind != want.Kind || got.Repo != want.Repo || got.Tag != want.Tag || got.Digest != want.Digest {
			t.Errorf("%s: %+v", path, got)
		}
	}
}
