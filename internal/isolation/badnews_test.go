package isolation_test

import (
	"slices"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// badNews is what an organisation is told that has lost a right, or never had it.
var badNews = map[string]ocitest.Fault{
	"403":              ocitest.Denied(),
	"401":              ocitest.Problem(401, "UNAUTHORIZED", "no"),
	"404 name":         ocitest.Problem(404, "NAME_UNKNOWN", "no"),
	"404 of an object": ocitest.Problem(404, "MANIFEST_UNKNOWN", "no"),
}

// What one organisation is told ends nothing of another's: neither its access nor, in
// an outage, what stands in for the registry. That organisation had access itself, and
// asks for every object of the image.
func TestBadNews_StaysWithWhomItIsAbout(t *testing.T) {
	t.Parallel()
	for name, news := range badNews {
		for first, object := range []string{"a layer", "a manifest"} {
			t.Run(name+" for "+object, func(t *testing.T) {
				t.Parallel()
				v := newVault(t)
				v.reg.reg.SetRights("user-bolt-main", "acme/app", "bolt/own")
				v.warm()
				bolt := v.as("bolt")
				if a := bolt.pull("reg.example/acme/app", v.img, 0); !a.ok() {
					t.Fatal(a)
				}
				v.clock.forward(accessTTL + time.Second)
				v.reg.reg.Inject(ocitest.Match{User: "user-bolt-main", Repo: "acme/app"}, 0, news)
				const its = "/v2/reg.example/acme/app/"
				// The first one counts: by it bolt, who had access, has none any more.
				objects := []string{"blobs/" + v.layer.String(), "manifests/" + v.manifest.String(), "manifests/v1"}
				if first == 1 {
					slices.Reverse(objects[:2])
				}
				for _, o := range objects {
					if a := bolt.get(its + o); a.ok() {
						t.Errorf("what was refused goes out: %s", a)
					}
				}
				v.reg.reg.Inject(ocitest.Match{}, 0, ocitest.Status(503, "Retry-After", "30"))
				for _, o := range objects {
					if a := v.as("acme").get(its + o); !a.ok() || a.header.Get("Warning") == "" {
						t.Errorf("the registry is down: %s, with the warning %q", a, a.header.Get("Warning"))
					}
					if a := bolt.get(its + o); a.ok() {
						t.Errorf("what was refused goes out: %s", a)
					}
				}
			})
		}
	}
}

// An object that is really gone is asked for by the next one too, and is nobody's then.
func TestBadNews_IsAskedAbout(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.reg.reg.SetRights("user-bolt-main", "acme/app", "bolt/own")
	v.warm()
	if a := v.as("bolt").pull("reg.example/acme/app", v.img, 0); !a.ok() {
		t.Fatal(a)
	}
	v.clock.forward(accessTTL + time.Second)
	path := "/v2/reg.example/acme/app/manifests/" + v.manifest.String()
	if a := v.as("acme").get(path); !a.ok() {
		t.Fatal(a) // so that its access is fresh, and asks nothing
	}
	v.reg.reg.Delete("acme/app", v.manifest.String())
	for _, who := range []string{"bolt", "acme", "acme"} {
		if a := v.as(who).get(path); a.status != 404 {
			t.Errorf("%s: %s", who, a)
		}
	}
}

// A list that is refused is about lists, whoever asks for it: some registries have none
// for those who pull without an account, and what all of them had proven is theirs.
func TestBadNews_OfAList(t *testing.T) {
	t.Parallel()
	for name, news := range badNews {
		for _, kind := range []ocitest.Kind{ocitest.Tags, ocitest.Referrers} {
			for _, account := range []bool{false, true} {
				t.Run(name+" for "+string(kind), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					reg := w.registry("reg.example", "", ocitest.Options{Auth: ocitest.Bearer}, uniform)
					img := reg.reg.AddImage("lib/app", "v1", ocitest.Image{Layers: []int64{2000}})
					w.organisation("acme")
					w.organisation("bolt")
					if account {
						w.account("acme", "main", reg, "lib/app")
						w.account("bolt", "main", reg, "lib/app")
					}
					w.start()
					acme, bolt := w.as("acme"), w.as("bolt")
					if a := acme.pull("reg.example/lib/app", img, 0); !a.ok() {
						t.Fatal(a)
					}
					if a := bolt.pull("reg.example/lib/app", img, 0); !a.ok() {
						t.Fatal(a)
					}
					before := reg.reg.Count(ocitest.Match{})
					in := reg.reg.Inject(ocitest.Match{Kind: kind}, 0, news)
					list := "/v2/reg.example/lib/app/tags/list"
					if kind == ocitest.Referrers {
						list = "/v2/reg.example/lib/app/referrers/" + img.Digest.String()
					}
					if a := bolt.get(list); a.ok() || in.Hits() == 0 {
						t.Errorf("%s, which the registry refused %d times", a, in.Hits())
					}
					lists := reg.reg.Count(ocitest.Match{}) - before
					for _, who := range []*client{acme, bolt} {
						if a := who.get("/v2/reg.example/lib/app/manifests/" + img.Digest.String()); !a.ok() {
							t.Error(a)
						}
					}
					if n := reg.reg.Count(ocitest.Match{}) - before; n != lists {
						t.Errorf("%d requests to be let in again", n-lists)
					}
					w.clock.forward(accessTTL + time.Second)
					reg.reg.Inject(ocitest.Match{}, 0, ocitest.Status(503, "Retry-After", "30"))
					for _, who := range []*client{acme, bolt} {
						if a := who.get("/v2/reg.example/lib/app/manifests/" + img.Digest.String()); !a.ok() {
							t.Errorf("the registry is down: %s", a)
						}
					}
				})
			}
		}
	}
}
