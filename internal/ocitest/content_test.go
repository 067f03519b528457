package ocitest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Any piece of noise is the same as the same piece of the whole.
func TestNoise(t *testing.T) {
	const size = 10_007
	whole, err := io.ReadAll(Noise(3, size))
	if err != nil || len(whole) != size {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		at, n := rng.Int64N(size), rng.Int64N(100)
		got := make([]byte, min(n, size-at))
		if _, err := Noise(3, size).ReadAt(got, at); err != nil || !bytes.Equal(got, whole[at:at+int64(len(got))]) {
			t.Fatalf("%d bytes at %d: %v", len(got), at, err)
		}
	}
	if again, _ := io.ReadAll(Noise(3, size)); !bytes.Equal(again, whole) {
		t.Error("noise changes")
	}
	if other, _ := io.ReadAll(Noise(4, size)); bytes.Equal(other[:1000], whole[:1000]) {
		t.Error("two seeds give the same noise")
	}
	counts := map[byte]int{}
	for _, b := range whole {
		counts[b]++
	}
	if len(counts) != 256 {
		t.Errorf("noise has %d different bytes", len(counts))
	}
}

func TestLayersAreTarArchives(t *testing.T) {
	for _, size := range []int64{0, 1, minTar - 1, minTar, minTar + 1, 2047, 2048, 100_001, 1 << 20} {
		data, err := layer(9, size)
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(io.NewSectionReader(data, 0, size))
		if err != nil || int64(len(all)) != size {
			t.Fatalf("%d bytes: %d, %v", size, len(all), err)
		}
		for _, at := range []int64{0, 500, 512, 513, size - 1025, size - 1} {
			p := make([]byte, 7)
			if at < 0 || at+7 > size {
				continue
			}
			if _, err := data.ReadAt(p, at); err != nil || !bytes.Equal(p, all[at:at+7]) {
				t.Errorf("%d bytes, at %d: %v", size, at, err)
			}
		}
		if size < minTar {
			continue
		}
		files := tar.NewReader(bytes.NewReader(all))
		h, err := files.Next()
		if err != nil || h.Size > size-minTar || h.Size < size-minTar-511 {
			t.Errorf("%d bytes: %+v, %v", size, h, err)
			continue
		}
		if n, err := io.Copy(io.Discard, files); err != nil || n != h.Size {
			t.Errorf("%d bytes: the file has %d, %v", size, n, err)
		}
		if _, err := files.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes: %v after the file", size, err)
		}
	}
}

func TestImagesAreDeterministic(t *testing.T) {
	img := Image{Platforms: []string{"linux/amd64", "linux/arm64/v8"}, Layers: []int64{2000, 3000}, LayerBytes: [][]byte{[]byte("same")}, Seed: 5}
	a, b := New(t, Options{}).AddImage("acme/app", "v1", img), New(t, Options{TLS: true}).AddImage("other/app", "v2", img)
	if a.Digest != b.Digest || a.MediaType != v1.MediaTypeImageIndex {
		t.Errorf("%s %s, %s", a.MediaType, a.Digest, b.Digest)
	}
	p, q := a.Platforms[0], a.Platforms[1]
	if p.Manifest == q.Manifest || p.Layers[0] == q.Layers[0] || p.Layers[2] != q.Layers[2] || len(a.Blobs(0)) != 4 || a.Blobs(1)[0] != q.Config {
		t.Errorf("%+v", a)
	}
	img.Seed = 6
	if c := New(t, Options{}).AddImage("acme/app", "v1", img); c.Platforms[0].Layers[0] == p.Layers[0] || c.Platforms[0].Layers[2] != p.Layers[2] {
		t.Errorf("another seed: %+v", c)
	}
	r := New(t, Options{})
	one := r.AddImage("acme/app", "v1", Image{Layers: []int64{2000}, Docker: true, Annotations: map[string]string{"a": "b"}})
	if one.MediaType != DockerManifest || one.Digest != one.Platforms[0].Manifest {
		t.Errorf("%+v", one)
	}
	if list := r.AddImage("acme/app", "v2", Image{Layers: []int64{2000}, Docker: true, Index: true}); list.MediaType != DockerList || list.Digest == list.Platforms[0].Manifest {
		t.Errorf("%+v", list)
	}
}

func TestManifestsAndBlobs(t *testing.T) {
	r := New(t, Options{})
	d, data := addManifest(r, "v1")
	for _, ref := range []string{"v1", d.String()} {
		got := get(t, r, manifestPath(ref), "Range", "bytes=0-3").want(t, 200)
		h := head(t, r, manifestPath(ref)).want(t, 200)
		if !bytes.Equal(got.body, data) || len(h.body) > 0 || h.length != int64(len(data)) {
			t.Errorf("%s: %q, %q of %d", ref, got.body, h.body, h.length)
		}
		for _, p := range []reply{got, h} {
			if p.header.Get("Docker-Content-Digest") != d.String() || p.header.Get("Content-Type") != v1.MediaTypeImageIndex {
				t.Errorf("%s: %v", ref, p.header)
			}
		}
	}
	b := r.AddBlob("acme/app", []byte("blob"))
	if got := get(t, r, blobPath(b)).want(t, 200); string(got.body) != "blob" || got.header.Get("Docker-Content-Digest") != b.String() {
		t.Errorf("%q %v", got.body, got.header)
	}
	if got := get(t, r, blobPath(b), "Range", "bytes=1-2").want(t, 206); string(got.body) != "lo" {
		t.Errorf("%q", got.body)
	}
	get(t, r, blobPath(b), "Range", "bytes=4-").want(t, 416)
	get(t, r, blobPath(b), "If-None-Match", `"`+b.String()+`"`).want(t, 304)

	for path, code := range map[string]string{
		manifestPath("none"): "MANIFEST_UNKNOWN", manifestPath(b.String()): "MANIFEST_UNKNOWN", blobPath(d): "BLOB_UNKNOWN",
		"/v2/acme/none/manifests/v1": "NAME_UNKNOWN", "/v2/acme/none/blobs/" + b.String(): "NAME_UNKNOWN", "/v2/acme/none/tags/list": "NAME_UNKNOWN",
	} {
		if got := get(t, r, path).want(t, 404).code(t); got != code {
			t.Errorf("%s: %s, want %s", path, got, code)
		}
	}

	r.Delete("acme/app", "v1")
	get(t, r, manifestPath("v1")).want(t, 404)
	get(t, r, manifestPath(d.String())).want(t, 200)
	r.Delete("acme/app", d.String())
	get(t, r, manifestPath(d.String())).want(t, 404)
	r.Delete("acme/app", "")
	r.Delete("acme/app", "v1")
	if c := get(t, r, blobPath(b)).want(t, 404).code(t); c != "NAME_UNKNOWN" {
		t.Error(c)
	}
}

func TestLies(t *testing.T) {
	r := New(t, Options{})
	d := oci.DigestOf([]byte("truth"))
	r.SetBlob("acme/app", d, strings.NewReader("a lie"), 5)
	r.SetManifest("acme/app", d, "text/plain", []byte("another"))
	if got := get(t, r, blobPath(d)).want(t, 200); string(got.body) != "a lie" || got.header.Get("Docker-Content-Digest") != d.String() {
		t.Errorf("%q %v", got.body, got.header)
	}
	if got := get(t, r, manifestPath(d.String())).want(t, 200); string(got.body) != "another" {
		t.Errorf("%q", got.body)
	}
}

func TestTagList(t *testing.T) {
	r := New(t, Options{})
	r.AddRepo("acme/app")
	list := func(query string) (string, string) {
		got := get(t, r, "/v2/acme/app/tags/list"+query).want(t, 200)
		return strings.TrimSpace(string(got.body)), got.header.Get("Link")
	}
	if body, link := list(""); body != `{"name":"acme/app","tags":[]}` || link != "" {
		t.Errorf("%s %s", body, link)
	}
	for _, tag := range []string{"c", "a", "b", "D"} {
		addManifest(r, tag)
	}
	for query, want := range map[string][2]string{
		"":             {`["D","a","b","c"]`, ""},
		"?n=2":         {`["D","a"]`, `</v2/acme/app/tags/list?last=a&n=2>; rel="next"`},
		"?n=2&last=a":  {`["b","c"]`, ""},
		"?n=2&last=aa": {`["b","c"]`, ""},
		"?n=4":         {`["D","a","b","c"]`, ""},
		"?n=0":         {`[]`, ""},
		"?last=c":      {`[]`, ""},
		"?n=x":         {`["D","a","b","c"]`, ""},
	} {
		if body, link := list(query); body != `{"name":"acme/app","tags":`+want[0]+`}` || link != want[1] {
			t.Errorf("%s: %s %s", query, body, link)
		}
	}
}

func TestReferrersList(t *testing.T) {
	r := New(t, Options{})
	subject, _ := addManifest(r, "v1")
	a, b := r.AddArtifact("acme/app", subject, "x/a", 1), r.AddArtifact("acme/app", subject, "x/b", 2)
	r.AddArtifact("acme/app", oci.DigestOf(nil), "x/a", 3)
	for query, want := range map[string][]oci.Digest{"": {a, b}, "?artifactType=x%2Fa": {a}, "?artifactType=none": nil} {
		got := get(t, r, "/v2/acme/app/referrers/"+subject.String()+query).want(t, 200)
		var index v1.Index
		if err := json.Unmarshal(got.body, &index); err != nil || got.header.Get("Content-Type") != v1.MediaTypeImageIndex || index.Manifests == nil {
			t.Fatalf("%s: %q %v", query, got.body, err)
		}
		var ds []oci.Digest
		for _, m := range index.Manifests {
			if ds = append(ds, m.Digest); m.ArtifactType == "" || len(m.Annotations) != 1 || m.Size != int64(len(r.Bytes("acme/app", m.Digest))) {
				t.Errorf("%s: %+v", query, m)
			}
		}
		slices.Sort(want)
		if !slices.Equal(ds, want) || (got.header.Get("Oci-Filters-Applied") == "artifactType") != (query != "") {
			t.Errorf("%s: %v %v", query, ds, got.header)
		}
	}
	get(t, New(t, Options{NoReferrers: true}), "/v2/acme/app/referrers/"+subject.String()).want(t, 404)
}

func TestPullLimit(t *testing.T) {
	r := New(t, Options{Auth: Basic, PullLimit: 2})
	r.AddUser("a", "pw", "**")
	r.AddUser("b", "pw", "**")
	addManifest(r, "v1")
	for i, want := range []int{200, 200, 429, 429} {
		got := get(t, r, manifestPath("v1"), basic("a", "pw")...).want(t, want)
		if left := got.header.Get("Ratelimit-Remaining"); left != fmt.Sprintf("%d;w=21600", max(0, 1-i)) || got.header.Get("Ratelimit-Limit") != "2;w=21600" {
			t.Errorf("pull %d: %v", i, got.header)
		}
	}
	if left := head(t, r, manifestPath("v1"), basic("b", "pw")...).want(t, 200).header.Get("Ratelimit-Remaining"); left != "2;w=21600" {
		t.Errorf("b has %s", left)
	}
	head(t, r, manifestPath("v1"), basic("a", "pw")...).want(t, 200)
	r.ResetPullLimit()
	get(t, r, manifestPath("v1"), basic("a", "pw")...).want(t, 200)
}
