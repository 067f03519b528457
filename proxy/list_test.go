package proxy

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"berth/oci"
)

func TestTags(t *testing.T) {
	s := newSite(t, nil)
	s.fake.page = &oci.Page{
		MediaType: "application/json; charset=utf-8", Body: []byte(`{"name":"library/nginx","tags":["1"]}`),
		Next: "n=1&last=1%2B&token=a%3Eb", Outcome: oci.Outcome{Result: oci.Pass, Warning: "old"},
	}
	a := s.get("/v2/docker.io/nginx/tags/list?n=1&last=0").wants(t, http.StatusOK).sends(t, s.fake.page.Body)
	a.header(t, "Content-Type", "application/json").header(t, "Warning", `299 - "old"`)
	a.header(t, "Link", `</v2/docker.io/nginx/tags/list?last=1%2B&n=1&token=a%3Eb>; rel="next"`)
	want := oci.ListRequest{Kind: oci.Tags, Repo: "library/nginx", Query: url.Values{"n": {"1"}, "last": {"0"}}}
	if got := s.fake.lists[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("asked for %+v", got)
	}
	if got := s.value("berth_requests_total", "kind", "list", "registry", "docker.io", "result", "pass"); got != 1 {
		t.Errorf("%v counted", got)
	}
	if got := s.value("berth_last_pull_timestamp_seconds"); got != 0 {
		t.Error("a list was taken for a pull")
	}
	s.head("/v2/docker.io/nginx/tags/list").wants(t, http.StatusOK).sends(t, nil)
}

func TestLinkKeepsTheWayHere(t *testing.T) {
	s := newSite(t, nil)
	s.fake.page = &oci.Page{Body: []byte(`{}`), Next: "last=1&ns=evil.example"}
	s.get("/v2/acme/app/tags/list?ns=ghcr.io").wants(t, http.StatusOK).
		header(t, "Link", `</v2/acme/app/tags/list?last=1&ns=ghcr.io>; rel="next"`).header(t, "Oci-Namespace", "ghcr.io")
	s.get("/ghcr.io/v2/acme/app/tags/list").header(t, "Link", `</ghcr.io/v2/acme/app/tags/list?last=1>; rel="next"`)
	s.fake.page = &oci.Page{Body: []byte(`{}`), Next: "last=%zz"}
	s.get("/v2/acme/app/tags/list").refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "failed inside")
	s.fake.page = &oci.Page{Body: []byte(`{}`), Next: "a=x>; rel=\"next\", <http://evil.example/"}
	if link := s.get("/v2/acme/app/tags/list").Header.Get("Link"); strings.Count(link, "<") != 1 || strings.Count(link, ">") != 1 {
		t.Errorf("Link %q", link)
	}
	s.fake.page = &oci.Page{Body: []byte(`{}`)}
	s.get("/v2/acme/app/tags/list").wants(t, http.StatusOK).header(t, "Link", "")
}

func TestReferrers(t *testing.T) {
	s := newSite(t, nil)
	d := oci.DigestOf([]byte("subject"))
	s.fake.page = &oci.Page{MediaType: "text/html", Body: []byte(`{"manifests":[]}`), FiltersApplied: "artifactType"}
	s.get("/v2/nginx/referrers/"+string(d)+"?artifactType=a%2Fb").wants(t, http.StatusOK).sends(t, s.fake.page.Body).
		header(t, "Content-Type", "application/vnd.oci.image.index.v1+json").header(t, "OCI-Filters-Applied", "artifactType")
	want := oci.ListRequest{Kind: oci.Referrers, Repo: "library/nginx", Digest: d, Query: url.Values{"artifactType": {"a/b"}}}
	if got := s.fake.lists[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("asked for %+v", got)
	}
}

func TestReferrersNotSupportedUpstream(t *testing.T) {
	s := newSite(t, nil)
	s.fake.fails["list"] = &oci.Error{Class: oci.NotFound, Message: "docker.io has no referrers"}
	s.get("/v2/nginx/referrers/"+string(oci.DigestOf(nil))).refuses(t, http.StatusNotFound, oci.CodeManifestUnknown, "no referrers")
	s.get("/v2/nginx/tags/list").refuses(t, http.StatusNotFound, oci.CodeNameUnknown, "no referrers")
	if got := s.value("berth_pull_failures_total"); got != 0 {
		t.Errorf("%v failed pulls: a client looks for the tag instead", got)
	}
}
