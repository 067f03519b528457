package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

func TestTagList_NextPage(t *testing.T) {
	from := mustURL(t, "https://registry.test/v2/acme/app/tags/list?n=2")
	for link, want := range map[string]string{
		"": "",
		`</v2/acme/app/tags/list?last=b&n=2>; rel="next"`:                  "last=b&n=2",
		`</v2/acme/app/tags/list?last=b&n=2>; rel=next`:                    "last=b&n=2",
		`</v2/acme/app/tags/list?last=b>;title="a, b"; REL="prev Next"`:    "last=b",
		`<https://registry.test/v2/acme/app/tags/list?last=b>; rel="next"`: "last=b",
		// Nexus behind a proxy names the path inside (nexus-public#1011).
		`<http://host/repository/x/v2/acme/app/tags/list?n=2&last=b>; rel="next"`:          "n=2&last=b",
		`<https://other.test:8443/tags?last=b>; rel="next"`:                                "last=b",
		`<//evil.test/?last=b>; rel="next"`:                                                "last=b",
		`</v2/other/app/tags/list?last=b>; rel="next"`:                                     "last=b",
		`<?last=b>; rel="next"`:                                                            "last=b",
		`</x?y>; rel="prev", </v2/acme/app/tags/list?last=c,d>; rel="next"`:                "last=c,d",
		`/v2/acme/app/tags/list?n=2&last=b; rel="next"`:                                    "n=2&last=b",
		`</v2/acme/app/tags/list?last=b>; rel="prev"`:                                      "",
		`</v2/acme/app/tags/list?last=b`:                                                   "",
		`</v2/acme/app/tags/list?last=b>; rel="next"; rel="prev"`:                          "last=b",
		`</v2/acme/app/tags/list?last=b>; notrel="next"`:                                   "",
		`</v2/acme/app/tags/list?last=a>; x="; rel=next", </v2/acme/app/tags/list?last=b>`: "",
	} {
		if got, err := nextQuery([]string{link}, from); got != want || err != nil {
			t.Errorf("%.90q: %q, %v, want %q", link, got, err, want)
		}
	}
}

// A list whose next page is not understood must not look like one that ends.
func TestTagList_LinkThatIsNotUnderstood(t *testing.T) {
	for _, link := range []string{
		`</v2/acme/app/tags/list>; rel="next"`,
		`</v2/acme/app/tags/list?n=2>; rel="next"`, // the same page for ever
		`rel="next"`, `; rel="next"`, `<>; rel=next`,
		`<%zz?last=b>; rel="next"`,
		`</v2/acme/app/tags/list?last=%zz>; rel="next"`,
		`</v2/acme/app/tags/list?` + strings.Repeat("x", maxNext+1) + `>; rel="next"`,
	} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddRepo("acme/app")
		up.Inject(ocitest.Match{Kind: ocitest.Tags}, 0, ocitest.Header("Link", link))
		page, err := over(t, up).As(Identity{}).List(t.Context(), oci.ListRequest{Kind: oci.Tags, Repo: "acme/app", Query: url.Values{"n": {"2"}}})
		if err == nil {
			t.Errorf("%.90q: a page with next %q", link, page.Next)
			continue
		}
		wantClass(t, err, oci.UpstreamError)
		if n := up.Count(ocitest.Match{Kind: ocitest.Tags}); n != 1 {
			t.Errorf("%.90q: asked %d times", link, n)
		}
	}
}

// What a registry says about a list that it does not give goes to whoever asked.
func TestTagList_RefusedInItsOwnWords(t *testing.T) {
	for _, test := range []struct {
		fault  ocitest.Fault
		status int
		says   string
	}{
		{ocitest.Problem(413, "PAGINATION", "max is 100"), 413, "max is 100"}, // Quay, go-containerregistry#1963
		{ocitest.Problem(400, "PAGINATION_NUMBER_INVALID", "n must be at most 100"), 400, "n must be at most 100"},
		{ocitest.Fault{Status: 405, Body: []byte("lists are off")}, 405, "lists are off"},
		{ocitest.Problem(422, "UNPROCESSABLE", "no"), 422, "no"},
		{ocitest.Problem(501, "UNSUPPORTED", "no lists here"), 404, "no lists here"},
		{ocitest.Problem(414, "X", "?secret=abc http://h/p?signature=1"), 414, "(414)"},
		{ocitest.Problem(404, "NAME_UNKNOWN", "no"), 404, "no repository"},
		{ocitest.Problem(403, "DENIED", "no"), 403, "add one to"},
	} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddRepo("acme/app")
		up.Inject(ocitest.Match{Kind: ocitest.Tags}, 0, test.fault)
		_, err := over(t, up).As(Identity{}).List(t.Context(), oci.ListRequest{Kind: oci.Tags, Repo: "acme/app", Query: url.Values{"n": {"1000"}}})
		e := oci.AsError(err)
		if err == nil || e.HTTPStatus() != test.status || !strings.Contains(e.Message, test.says) || strings.Contains(e.Message, "signature=") {
			t.Errorf("%d: %d %v", test.fault.Status, e.HTTPStatus(), err)
		}
		if n := up.Count(ocitest.Match{Kind: ocitest.Tags}); n != 1 {
			t.Errorf("%d: asked %d times", test.fault.Status, n)
		}
	}
}

func TestTagList_AllInOneAnswer(t *testing.T) {
	tags := make([]string, 110_000) // oras#1762
	for i := range tags {
		tags[i] = fmt.Sprintf("%s-%06d", strings.Repeat("x", 121), i)
	}
	body, err := json.Marshal(map[string]any{"name": "acme/app", "tags": tags})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		body   []byte
		status int
	}{
		"110,000 tags of the longest kind": {body, 0},
		"just under 4 MiB":                 {append(bytes.Repeat([]byte(" "), maxSmall-10), `{"tags":[]}`[:10]...), 503},
		"4 MiB of spaces before it":        {append(bytes.Repeat([]byte(" "), maxSmall), `{"tags":[]}`...), 0},
		"without an end":                   {bytes.Repeat([]byte(" "), maxList+1), 413},
	} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddRepo("acme/app")
		up.Inject(ocitest.Match{Kind: ocitest.Tags}, 0, ocitest.Fault{Status: 200, Body: test.body})
		page, err := over(t, up).As(Identity{}).List(t.Context(), oci.ListRequest{Kind: oci.Tags, Repo: "acme/app"})
		switch {
		case test.status == 0 && (err != nil || !bytes.Equal(page.Body, test.body)):
			t.Errorf("%s: %v", name, err)
		case test.status != 0 && (err == nil || oci.AsError(err).HTTPStatus() != test.status):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What somebody in between says is no list of tags.
func TestTagList_SomethingElse(t *testing.T) {
	for _, body := range []string{"<html>sign in</html>", `{"status":"ok"}`, "[]", "null", `{"tags":`} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddRepo("acme/app")
		up.Inject(ocitest.Match{Kind: ocitest.Tags}, 0, ocitest.Fault{Status: 200, Body: []byte(body)})
		_, err := over(t, up).As(Identity{}).List(t.Context(), oci.ListRequest{Kind: oci.Tags, Repo: "acme/app"})
		wantClass(t, err, oci.UpstreamError)
		if !errors.Is(err, errUnusable) {
			t.Errorf("%s: %v is not tried again", body, err)
		}
	}
}

func listReferrers(t *testing.T, up *ocitest.Registry) (*oci.Page, error) {
	t.Helper()
	return over(t, up).As(Identity{}).List(t.Context(), oci.ListRequest{Kind: oci.Referrers, Repo: "acme/app", Digest: oci.DigestOf([]byte("subject"))})
}

// Whoever is told 404 looks for the fallback tag; whoever is told anything else
// does not see a signature that is there.
func TestReferrers_WhereThereAreNone(t *testing.T) {
	web := http.NewServeMux()
	for path, status := range map[string]int{"/page": 200, "/limited": 429, "/denied": 403, "/gone": 410, "/busy": 503} {
		web.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(status)
			_, _ = w.Write([]byte("<html>a web page</html>"))
		})
	}
	web.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
	site := newWeb(t, web)
	json200 := func(body string) ocitest.Fault { return ocitest.Fault{Status: 200, Body: []byte(body)} }
	for name, fault := range map[string]ocitest.Fault{
		"GHCR: 303 to a web page": ocitest.Status(303, "Location", site.URL+"/page"), // artifacthub/hub#4785
		"303 to a limit":          ocitest.Status(303, "Location", site.URL+"/limited"),
		"303 to nowhere":          ocitest.Status(303),
		"302 to a page":           ocitest.Status(302, "Location", site.URL+"/page"),
		"307 to a limit":          ocitest.Status(307, "Location", site.URL+"/limited"),
		"302 to a plain 429":      ocitest.Status(302, "Location", site.URL+"/plain"),
		"302 to a refusal":        ocitest.Status(302, "Location", site.URL+"/denied"),
		"308 to what is gone":     ocitest.Status(308, "Location", site.URL+"/gone"),
		"302 to a busy page":      ocitest.Status(302, "Location", site.URL+"/busy"),
		"302 without a place":     ocitest.Status(302),
		"302 to inside":           ocitest.Status(302, "Location", "http://10.1.2.3/"),
		"302 in a circle":         ocitest.Status(302, "Location", "?again"),
		"200, a page":             page(200),
		"200, an empty document":  json200(`{}`), // go-containerregistry#1962
		"200, an error":           json200(`{"errors":[{"code":"UNSUPPORTED"}]}`),
		"200, another document":   json200(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`),
		"200, a list":             json200(`[]`),
		"200, nothing":            json200(""),
		"400":                     ocitest.Status(400), "404": ocitest.Status(404), "405": ocitest.Status(405), "406": ocitest.Status(406),
		"410": ocitest.Status(410), "415": ocitest.Status(415), "501": ocitest.Status(501), "400, a page": page(400),
		"204": ocitest.Status(204), "206": ocitest.Status(206), "409": ocitest.Status(409), "418": ocitest.Status(418), "422": ocitest.Status(422),
		"426": ocitest.Status(426), "300": ocitest.Status(300), "304": ocitest.Status(304), "505": ocitest.Status(505),
	} {
		t.Run(name, func(t *testing.T) {
			up := ocitest.New(t, ocitest.Options{})
			up.AddRepo("acme/app")
			up.Inject(ocitest.Match{Kind: ocitest.Referrers}, 0, fault)
			before := site.count()
			_, err := listReferrers(t, up)
			if e := classed(t, err, oci.NotFound); e.HTTPStatus() != http.StatusNotFound {
				t.Errorf("status %d", e.HTTPStatus())
			}
			if n := up.Count(ocitest.Match{Kind: ocitest.Referrers}); n != 1 && fault.Header.Get("Location") != "?again" {
				t.Errorf("the registry was asked %d times", n)
			}
			if n := site.count() - before; n > 2 {
				t.Errorf("the web site was asked %d times", n)
			}
		})
	}
}

// A refusal, a limit and trouble of the registry itself are no missing referrers.
func TestReferrers_RefusedAndInTrouble(t *testing.T) {
	for status, want := range map[int]oci.Class{401: oci.NoCredential, 403: oci.NoCredential, 429: oci.RateLimited, 500: oci.UpstreamError, 503: oci.UpstreamError} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddRepo("acme/app")
		up.Inject(ocitest.Match{Kind: ocitest.Referrers}, 0, ocitest.Status(status))
		_, err := listReferrers(t, up)
		wantClass(t, err, want)
	}
}

// registry.k8s.io sends everyone to the nearest registry, with lists too.
func TestReferrers_AtAnotherRegistry(t *testing.T) {
	behind := ocitest.New(t, ocitest.Options{})
	behind.AddRepo("acme/app")
	sig := behind.AddArtifact("acme/app", oci.DigestOf([]byte("subject")), "application/x.signature", 1)
	up := ocitest.New(t, ocitest.Options{})
	up.AddRepo("acme/app")
	up.Inject(ocitest.Match{Kind: ocitest.Referrers}, 0, ocitest.Status(307, "Location", behind.URL()+"/v2/acme/app/referrers/"+oci.DigestOf([]byte("subject")).String()))
	page, err := listReferrers(t, up)
	if err != nil || !strings.Contains(string(page.Body), sig.String()) {
		t.Errorf("%v, want %s", err, sig)
	}
}

// A redirect to a registry that wants a sign-in of its own leads nowhere: no credential
// goes along, and there is no other. That is final, and says what helps.
func TestRedirect_ToARegistryWithASignInOfItsOwn(t *testing.T) {
	behind := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true})
	img := behind.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2000}})
	up := ocitest.New(t, ocitest.Options{})
	up.AddRepo("acme/app")
	for _, q := range []struct {
		kind ocitest.Kind
		path string
	}{{ocitest.Manifest, "manifests/" + img.Digest.String()}, {ocitest.Blob, "blobs/" + img.Platforms[0].Layers[0].String()}} {
		up.Inject(ocitest.Match{Kind: q.kind, Method: http.MethodGet}, 0, ocitest.Status(307, "Location", behind.URL()+"/v2/acme/app/"+q.path))
	}
	src := over(t, up).As(Identity{})
	for _, o := range []oci.Object{{Repo: "acme/app", Kind: oci.Manifest, Digest: img.Digest}, {Repo: "acme/app", Kind: oci.Blob, Digest: img.Platforms[0].Layers[0]}} {
		before := behind.Count(ocitest.Match{})
		_, err := src.Open(t.Context(), o, oci.Range{})
		if e := classed(t, err, oci.UpstreamError); e.HTTPStatus() != http.StatusForbidden || !strings.Contains(e.Message, "add it under registries") {
			t.Errorf("%s: %d %s", o.Kind, e.HTTPStatus(), e.Message)
		}
		if n := behind.Count(ocitest.Match{}) - before; n != 1 {
			t.Errorf("%s: it was asked %d times", o.Kind, n)
		}
	}
}

// A list is passed on as it came: to look whether it is one takes no memory, whatever
// it is made of.
func TestList_MemoryOfManyEntries(t *testing.T) {
	tiny := strings.Repeat("{},", maxList/3-100) + "{}"
	for name, c := range map[string]struct {
		is  func([]byte) (bool, error)
		doc string
	}{
		"referrers": {isReferrers, `{"manifests":[` + tiny + `]}`},
		"tags":      {isTags, `{"tags":[` + tiny + `]}`},
	} {
		data := []byte(c.doc)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ok, err := c.is(data)
		runtime.ReadMemStats(&after)
		if !ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("%s: %d bytes of list took %d of memory", name, len(data), got)
		}
	}
}
