package ocitest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// listCases: tags and referrers.
func listCases() []suiteCase {
	return []suiteCase{
		{"list tags", testTags},
		{"list pages of tags", testTagPages},
		{"list referrers", testReferrers},
		{"list what is not there", testListNothing},
	}
}

func listTags(t *testing.T, src oci.Source, q url.Values) (tags []string, next string) {
	t.Helper()
	page, err := src.List(within(t), oci.ListRequest{Kind: oci.Tags, Repo: "acme/app", Query: q})
	if err != nil {
		t.Fatalf("listing tags: %v", err)
	}
	var body struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal(page.Body, &body); err != nil || body.Name != "acme/app" {
		t.Fatalf("the list is %.200q, %v", page.Body, err)
	}
	return body.Tags, page.Next
}

func testTags(t *testing.T, s Suite) {
	_, src := s.open(t, Options{}, nobody())
	if tags, next := listTags(t, src, nil); len(tags) != 0 || next != "" {
		t.Errorf("no tags are %v, next %q", tags, next)
	}
	r, src := s.open(t, Options{}, nobody())
	want := []string{"a", "b", "v1"}
	for _, tag := range want {
		addManifest(r, tag)
	}
	if tags, next := listTags(t, src, nil); !slices.Equal(tags, want) || next != "" {
		t.Errorf("tags are %v, next %q; want %v", tags, next, want)
	}
}

func testTagPages(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	var want, got []string
	for i := range 7 {
		want = append(want, fmt.Sprintf("v%d", i))
		addManifest(r, want[i])
	}
	q, pages := url.Values{"n": {"3"}}, 0
	for q != nil {
		tags, next := listTags(t, src, q)
		got = append(got, tags...)
		if pages++; next == "" || pages > 7 {
			break
		}
		var err error
		if q, err = url.ParseQuery(next); err != nil {
			t.Fatalf("next is %q: %v", next, err)
		}
	}
	if !slices.Equal(got, want) || pages != 3 {
		t.Errorf("%d pages of %v, want 3 of %v", pages, got, want)
	}
	if tags, _ := listTags(t, src, url.Values{"last": {"v4"}}); !slices.Equal(tags, want[5:]) {
		t.Errorf("after v4: %v", tags)
	}
}

func testReferrers(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	subject, _ := addManifest(r, "v1")
	sig := r.AddArtifact("acme/app", subject, "application/x.signature", 1)
	sbom := r.AddArtifact("acme/app", subject, "application/x.sbom", 2)
	for wanted, want := range map[string][]oci.Digest{"": {sig, sbom}, "application/x.sbom": {sbom}, "application/x.none": {}} {
		req := oci.ListRequest{Kind: oci.Referrers, Repo: "acme/app", Digest: subject}
		if wanted != "" {
			req.Query = url.Values{"artifactType": {wanted}}
		}
		page, err := src.List(within(t), req)
		if err != nil {
			t.Errorf("listing referrers: %v", err)
			continue
		}
		var index v1.Index
		if err := json.Unmarshal(page.Body, &index); err != nil || page.MediaType != v1.MediaTypeImageIndex {
			t.Errorf("the referrers are %s %.200q, %v", page.MediaType, page.Body, err)
		}
		var got []oci.Digest
		for _, m := range index.Manifests {
			got = append(got, m.Digest)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("referrers of type %q: %v, want %v", wanted, got, want)
		}
		if applied := page.FiltersApplied; (applied == "artifactType") != (wanted != "") {
			t.Errorf("filters applied for type %q: %q", wanted, applied)
		}
	}
}

func testListNothing(t *testing.T, s Suite) {
	r, src := s.open(t, Options{NoReferrers: true}, nobody())
	subject, _ := addManifest(r, "v1")
	_, err := src.List(within(t), oci.ListRequest{Kind: oci.Tags, Repo: "acme/none"})
	failed(t, err, oci.NotFound)
	// It must stay a 404: clients then try the tag sha256-<hex>.
	_, err = src.List(within(t), oci.ListRequest{Kind: oci.Referrers, Repo: "acme/app", Digest: subject})
	failed(t, err, oci.NotFound)
}
