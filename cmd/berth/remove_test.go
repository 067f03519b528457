package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/admin"
	"berth/internal/ocitest"
	"berth/oci"
)

// keeps says which files of content the cache has.
func (s *stage) keeps(d oci.Digest) bool {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.cacheDir(), "blobs", "*", "sha256", "*", d.Encoded()))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(found) > 0
}

func (s *stage) removed(args ...string) (r admin.Removal) {
	s.t.Helper()
	got := s.command(append([]string{"remove", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || got.code != exitOK {
		s.t.Fatalf("remove %q: %v, %+v", args, err, got)
	}
	return r
}

// newTwins has two images in the cache that share a layer.
func newTwins(t *testing.T) (s *stage, n *running, twin ocitest.Pushed) {
	t.Helper()
	s = newStage(t)
	twin = s.registry.AddImage("acme/twin", "1", ocitest.Image{LayerBytes: [][]byte{s.registry.Bytes("acme/app", s.image.Platforms[0].Layers[0]), []byte("of the twin alone")}})
	n = s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	s.caller(n, "acme").mustPull("ghcr.io/acme/twin", twin, "")
	published(t, s.cacheDir())
	return s, n, twin
}

// What only the removed image has goes, also from memory; what another has too stays,
// and so does that one. Whoever may pull the removed one gets it anew.
func TestRemove_ImageKeepsWhatOthersShare(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ghcr.io/acme/app", "ghcr.io/acme/app:1", "localhost:5000/ghcr.io/acme/app:1"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			s, n, twin := newTwins(t)
			layers := s.image.Platforms[0].Layers
			before := s.status().Cache.Bytes
			r := s.removed(name)
			if r.Manifests != 1 || r.Blobs != 2 || r.SharedBlobs != 1 || before-s.status().Cache.Bytes != r.FreedBytes || r.FreedBytes < 20_000 {
				t.Errorf("%+v, before %d bytes", r, before)
			}
			for d, want := range map[oci.Digest]bool{s.image.Digest: false, layers[0]: true, layers[1]: false, twin.Digest: true, twin.Platforms[0].Layers[1]: true} {
				if s.keeps(d) != want {
					t.Errorf("%s is kept: %v", d, !want)
				}
			}
			s.registry.Forget()
			s.caller(n, "acme").mustPull("ghcr.io/acme/twin", twin, "")
			must(t, s.registry, "the one that stays", cost{})
			s.caller(n, "acme").mustPull(app, s.image, "")
			if s.registry.ManifestGETs() != 1 || s.registry.BlobBytes(layers[1]) == 0 || s.registry.BlobBytes(layers[0]) != 0 {
				t.Errorf("pulled anew: %d manifests", s.registry.ManifestGETs())
			}
		})
	}
}

func (s *stage) status() (status admin.Status) {
	s.t.Helper()
	got := s.command("status", "--json")
	if err := json.Unmarshal([]byte(got.out), &status); err != nil {
		s.t.Fatalf("%v: %+v", err, got)
	}
	return status
}

// A layer with a secret in it goes by its digest, whatever lists it.
func TestRemove_DigestGoesEverywhere(t *testing.T) {
	t.Parallel()
	s, _, twin := newTwins(t)
	shared := s.image.Platforms[0].Layers[0]
	if r := s.removed(shared.String()); r.Blobs != 1 || r.Manifests != 0 || s.keeps(shared) {
		t.Errorf("%+v", r)
	}
	if r := s.removed(twin.Digest.String()); r.Manifests != 1 || s.keeps(twin.Digest) || s.keeps(twin.Platforms[0].Layers[1]) || !s.keeps(s.image.Digest) {
		t.Errorf("%+v", r)
	}
}

// An index goes with the images that it lists.
func TestRemove_IndexAndAllBelowAName(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]int{"ghcr.io/acme/many:1": 2, "ghcr.io/acme/*": 3, "ghcr.io/*": 3} {
		t.Run(strings.NewReplacer("/", " ", "*", "all").Replace(name), func(t *testing.T) {
			s := newStage(t)
			many := s.registry.AddImage("acme/many", "1", ocitest.Image{Layers: []int64{5_000}, Platforms: []string{"linux/amd64", "linux/arm64"}})
			n := s.serve()
			s.caller(n, "acme").mustPull(app, s.image, "")
			s.caller(n, "acme").mustPull("ghcr.io/acme/many", many, "")
			published(t, s.cacheDir())
			if r := s.removed(name); r.Manifests != gone || s.keeps(many.Digest) {
				t.Errorf("%+v", r)
			}
		})
	}
}

// An image that two indexes list stays with the one that stays.
func TestRemove_ImageOfTwoIndexes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	o := ocitest.Image{Index: true, Layers: []int64{5_000}, Seed: 9}
	one := s.registry.AddImage("acme/twice", "1", o)
	o.Platforms = []string{"linux/amd64", "linux/arm64"}
	two := s.registry.AddImage("acme/twice", "2", o)
	if one.Platforms[0].Manifest != two.Platforms[0].Manifest || one.Digest == two.Digest {
		t.Fatal("they are not two indexes of one image")
	}
	n := s.serve()
	s.caller(n, "acme").mustPull("ghcr.io/acme/twice", one, "")
	s.caller(n, "acme").mustPull("ghcr.io/acme/twice", two, "")
	published(t, s.cacheDir())
	s.removed("ghcr.io/acme/twice:1")
	if s.keeps(one.Digest) || !s.keeps(two.Digest) || !s.keeps(two.Platforms[0].Manifest) || !s.keeps(two.Platforms[0].Layers[0]) {
		t.Errorf("index 1 %v, index 2 %v, its image %v, its layer %v", s.keeps(one.Digest), s.keeps(two.Digest), s.keeps(two.Platforms[0].Manifest), s.keeps(two.Platforms[0].Layers[0]))
	}
}

// What only an organisation may pull goes, also when it has been taken out.
func TestRemove_Organisation(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	own := s.registry.AddImage("acme/own", "1", ocitest.Image{Layers: []int64{7_000}, Seed: 5})
	n := s.serve()
	s.caller(n, "acme").mustPull("ghcr.io/acme/own", own, "")
	s.caller(n, "acme").mustPull(app, s.image, "")
	s.caller(n, "globex").mustPull(app, s.image, "")
	published(t, s.cacheDir())
	s.remove("organisations.d/acme.yaml")
	s.reload(exitOK)
	if r := s.removed("--org", "acme"); r.Manifests != 1 || s.keeps(own.Digest) || !s.keeps(s.image.Digest) {
		t.Errorf("%+v", r)
	}
	s.registry.Forget()
	s.caller(n, "globex").mustPull(app, s.image, "")
	must(t, s.registry, "the other one's pull", cost{})
}

// A pull that is under way comes to its end, and what it fetched is right.
func TestRemove_RunningPullGoesOn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	image := s.registry.AddImage("acme/large", "1", ocitest.Image{Layers: []int64{3 << 20}})
	layer := image.Platforms[0].Layers[0]
	gate := ocitest.NewGate()
	s.registry.Inject(ocitest.Match{Digest: layer, Kind: ocitest.Blob}, 1, ocitest.Fault{HoldBody: gate, HoldAt: 1 << 20})
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.get("/v2/ghcr.io/acme/large/manifests/1")
	resp, err := acme.send(soon(t), http.MethodGet, "/v2/ghcr.io/acme/large/blobs/"+layer.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := gate.Wait(soon(t), 1); err != nil {
		t.Fatal(err)
	}
	s.command("remove", "ghcr.io/acme/large")
	s.command("remove", layer.String())
	gate.Open()
	_, hash, err := hashOf(resp.Body)
	if err != nil || fmt.Sprintf("sha256:%x", hash) != layer.String() {
		t.Errorf("%x, %v", hash, err)
	}
}

func TestRemove_Refused(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.serve()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "name an image or a digest"},
		{[]string{"nginx", "--org", "acme"}, exitUsage, "name an image or a digest"},
		{[]string{"nginx", "redis"}, exitUsage, "arg"},
		{[]string{"nginx"}, exitFailed, "nothing of that is kept here"},
		{[]string{"an image"}, exitFailed, "neither the name of an image nor a digest"},
		{[]string{"sha256:" + strings.Repeat("0", 64)}, exitFailed, "nothing of that is kept here"},
		{[]string{"--org", "../x"}, exitFailed, "is no organisation"},
		{[]string{"--org", "initech"}, exitFailed, "nothing of that is kept here"},
	} {
		got := s.command(append([]string{"remove"}, c.args...)...)
		if got.code != c.code || !strings.Contains(got.err, c.want) || got.out != "" {
			t.Errorf("%q: %+v", c.args, got)
		}
	}
}

// What a file says of whose it is, is keyed: on two nodes an organisation has two
// numbers, and nobody can choose a name that is taken for another one's.
func TestEviction_OwnersAreKeyed(t *testing.T) {
	t.Parallel()
	marks := map[int]bool{}
	for range 2 {
		s, _, _ := newTwins(t)
		paths, err := filepath.Glob(filepath.Join(s.cacheDir(), "blobs", "*", "sha256", "*", s.image.Platforms[0].Layers[0].Encoded()))
		if err != nil || len(paths) != 1 {
			t.Fatal(paths, err)
		}
		info, err := os.Stat(paths[0])
		if err != nil || info.ModTime().Nanosecond() == 0 {
			t.Fatal("the blob is nobody's", err)
		}
		marks[info.ModTime().Nanosecond()] = true
	}
	if len(marks) != 2 {
		t.Error("one number on two nodes: it is not keyed")
	}
}

// An image that another repository has too stays, and that is no error: it is said.
func TestRemove_AllOfItIsShared(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.SetRights("globex-bot", "globex/**")
	twin := s.registry.AddImage("globex/copy", "1", ocitest.Image{Layers: []int64{10_000, 20_000}})
	if twin.Digest != s.image.Digest {
		t.Fatal("they are two images: this is no test")
	}
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	s.caller(n, "globex").mustPull("ghcr.io/globex/copy", twin, "")
	published(t, s.cacheDir())
	if r := s.removed("--org", "acme"); r.Manifests != 0 || r.Blobs != 0 || r.SharedBlobs != 3 || !s.keeps(s.image.Digest) {
		t.Errorf("%+v", r)
	}
	if got := s.command("remove", "--org", "acme"); !strings.Contains(got.out, "other images have them too") {
		t.Errorf("%+v", got)
	}
}
