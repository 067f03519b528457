package upstream

import (
	"net/http"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
	"berth/upstream/dialect"
)

// Somebody in between who says 200 to everything neither gives nor takes: what is here
// goes to whoever may have it, and what is not is trouble, not a manifest and not a 404.
func TestBetween_SomebodyAnswersEverything(t *testing.T) {
	for name, says := range map[string]ocitest.Fault{
		"JSON":                     {Status: 200, Body: []byte(`{"status":"ok"}`), Header: http.Header{"Content-Type": {"application/json"}}},
		"JSON sent as a manifest":  {Status: 200, Body: []byte(`{"schemaVersion":2,"hello":1}`), Header: http.Header{"Content-Type": {oci.MediaTypeManifest}}},
		"HTML without a type":      {Status: 200, Body: []byte("<html>sign in</html>"), Header: http.Header{"Content-Type": nil}},
		"a page":                   page(200),
		"nothing":                  {Status: 200, Body: []byte{}},
		"a page that is forbidden": page(403),
		"another kind of document": {Status: 200, Body: []byte(`["a","b"]`)},
	} {
		t.Run(name, func(t *testing.T) {
			sail(t, ocitest.Options{Auth: ocitest.Bearer, Private: true}, dialect.Generic, func(v *voyage) {
				t := v.t
				img := v.up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2000}})
				v.up.AddImage("acme/app", "v2", ocitest.Image{Layers: []int64{3000}, Seed: 2})
				s := v.as("acme")
				if err := pull(t.Context(), s, img); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute)
				between := v.up.Inject(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Kind != ocitest.Token }}, 0, says)
				for range 2 {
					r, err := s.Resolve(t.Context(), "acme/app", "v1")
					if err != nil || r.Digest != img.Digest || r.Result != oci.Stale {
						t.Errorf("warm: %+v, %v", r, err)
					}
					if err := pull(t.Context(), s, img); err != nil {
						t.Errorf("warm: %v", err)
					}
				}
				if _, err := s.Resolve(t.Context(), "acme/app", "v2"); oci.ClassOf(err) == oci.NotFound || err == nil || oci.AsError(err).HTTPStatus() < 403 {
					t.Errorf("cold: %v", err)
				}
				if _, err := v.as("bolt").Resolve(t.Context(), "acme/app", "v1"); err == nil {
					t.Error("whoever has proven nothing gets the copy")
				}
				between.Remove()
				time.Sleep(10 * time.Minute)
				if r, err := s.Resolve(t.Context(), "acme/app", "v1"); err != nil || r.Digest != img.Digest || r.Result == oci.Stale {
					t.Errorf("afterwards: %+v, %v", r, err)
				}
			})
		})
	}
}

// A list is another right: that it is refused says nothing about what is pulled.
func TestRefusedList_LeavesTheCopy(t *testing.T) {
	for name, refusal := range map[string]ocitest.Fault{
		"403":              ocitest.Denied(),
		"401":              ocitest.Status(http.StatusUnauthorized, "WWW-Authenticate", `Bearer realm="x",error="insufficient_scope"`),
		"404 NAME_UNKNOWN": ocitest.Problem(http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry"),
		"405":              ocitest.Status(http.StatusMethodNotAllowed),
	} {
		for list, kind := range map[ocitest.Kind]oci.ListKind{ocitest.Tags: oci.Tags, ocitest.Referrers: oci.Referrers} {
			t.Run(name+"/"+string(list), func(t *testing.T) {
				sail(t, ocitest.Options{Auth: ocitest.Bearer, Private: true}, dialect.Generic, func(v *voyage) {
					t := v.t
					img := v.up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2000}})
					v.up.Inject(ocitest.Match{Kind: list}, 0, refusal)
					s := v.as("acme")
					if err := pull(t.Context(), s, img); err != nil {
						t.Fatal(err)
					}
					if _, err := s.List(t.Context(), oci.ListRequest{Kind: kind, Repo: "acme/app", Digest: img.Digest}); err == nil {
						t.Error("a list")
					}
					if err := pull(t.Context(), s, img); err != nil {
						t.Errorf("after a list: %v", err)
					}
					v.up.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusServiceUnavailable))
					time.Sleep(10 * time.Minute)
					r, err := s.Resolve(t.Context(), "acme/app", "v1")
					if err != nil || r.Digest != img.Digest {
						t.Errorf("in an outage after it: %v", err)
					}
					if err := pull(t.Context(), s, img); err != nil {
						t.Errorf("in an outage after it: %v", err)
					}
				})
			})
		}
	}
}
