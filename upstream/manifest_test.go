package upstream

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

const index = "application/vnd.oci.image.index.v1+json"

// A HEAD that does not say enough is followed by a GET that is hashed.
func TestHeadIsNotEnough(t *testing.T) {
	head := ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodHead}
	for name, fault := range map[string]ocitest.Fault{
		"no digest":         ocitest.NoHeader("Docker-Content-Digest"),
		"a broken digest":   ocitest.Header("Docker-Content-Digest", "sha256:123"),
		"an exotic digest":  ocitest.Header("Docker-Content-Digest", "md5:d41d8cd98f00b204e9800998ecf8427e"),
		"no length":         {Chunked: true},
		"a web page":        ocitest.Header("Content-Type", "text/html; charset=utf-8"),
		"no type":           ocitest.NoHeader("Content-Type"),
		"HEAD not allowed":  ocitest.Status(http.StatusMethodNotAllowed),
		"HEAD forbidden":    ocitest.Status(http.StatusForbidden),
		"HEAD unheard of":   ocitest.Status(http.StatusNotImplemented),
		"an encoded answer": ocitest.Header("Content-Encoding", "gzip"),
		"too large":         ocitest.Header("Content-Length", fmt.Sprint(maxSmall+1)),
	} {
		t.Run(name, func(t *testing.T) {
			up := ocitest.New(t, ocitest.Options{})
			img := up.AddImage("acme/app", "v1", ocitest.Image{Index: true})
			up.Inject(head, 0, fault)
			src := over(t, up).As(Identity{})
			res, err := src.Resolve(t.Context(), "acme/app", "v1")
			if err != nil {
				t.Fatal(err)
			}
			if res.Digest != img.Digest || res.MediaType != index || !bytes.Equal(res.Data, up.Bytes("acme/app", img.Digest)) {
				t.Errorf("%+v", res.Descriptor)
			}
			if up.ManifestGETs() != 1 || up.ManifestHEADs() != 1 {
				t.Errorf("%d GETs and %d HEADs", up.ManifestGETs(), up.ManifestHEADs())
			}
			st, err := src.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: img.Digest})
			if err != nil {
				t.Fatal(err)
			}
			if st.Digest != img.Digest || st.MediaType != index || st.Body != nil || st.Size != res.Size {
				t.Errorf("%+v", st)
			}
		})
	}
}

// Without a digest a HEAD of a manifest type from the origin proves that the
// manifest is there; with the digest of something else it does not.
func TestStatManifestProof(t *testing.T) {
	for name, test := range map[string]struct {
		fault ocitest.Fault
		gets  int
	}{
		"all good":              {ocitest.Fault{}, 0},
		"no digest":             {ocitest.NoHeader("Docker-Content-Digest"), 0},
		"another digest":        {ocitest.Header("Docker-Content-Digest", oci.DigestOf(nil).String()), 1},
		"a type of no manifest": {ocitest.Header("Content-Type", "application/json"), 1},
	} {
		up := ocitest.New(t, ocitest.Options{})
		img := up.AddImage("acme/app", "v1", ocitest.Image{})
		up.Inject(ocitest.Match{Method: http.MethodHead}, 0, test.fault)
		st, err := over(t, up).As(Identity{}).Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: img.Digest})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if up.ManifestGETs() != test.gets || st.Asked.IsZero() {
			t.Errorf("%s: %d GETs, want %d; asked %v", name, up.ManifestGETs(), test.gets, st.Asked)
		}
	}
}

func TestLyingManifests(t *testing.T) {
	good := []byte(`{"schemaVersion":2,"mediaType":"` + index + `","manifests":[]}`)
	d := oci.DigestOf(good)
	o := oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: d}
	get := ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}
	for name, test := range map[string]struct {
		fault ocitest.Fault
		class oci.Class
	}{
		"a flipped bit": {ocitest.FlipBit(3), oci.Corrupt},
		"a login page":  {ocitest.Fault{Status: 200, Body: []byte("<html>"), Header: http.Header{"Content-Type": {"text/html"}}}, oci.UpstreamError},
		"cut short":     {ocitest.CutAfter(10, ocitest.CutClose), oci.UpstreamError},
		"cut unseen":    {ocitest.CutAfter(10, ocitest.CutEnd), oci.Corrupt},
		"204":           {ocitest.Status(http.StatusNoContent), oci.UpstreamError},
		"206":           {ocitest.Status(http.StatusPartialContent), oci.UpstreamError},
		"endless":       {ocitest.Fault{Endless: true}, oci.UpstreamError},
		"schema 1":      {ocitest.Header("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws"), oci.UpstreamError},
	} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddManifest("acme/app", "v1", index, good)
		up.Inject(get, 0, test.fault)
		_, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{})
		if err == nil || oci.ClassOf(err) != test.class {
			t.Errorf("%s: %v, want %s", name, err, test.class)
		}
	}
}

// What a tag's GET says its digest is must be what the bytes are.
func TestLyingTag(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	up.AddImage("acme/app", "v1", ocitest.Image{})
	up.Inject(ocitest.Match{Method: http.MethodHead}, 0, ocitest.Status(http.StatusMethodNotAllowed))
	up.Inject(ocitest.Match{Method: http.MethodGet}, 0, ocitest.Header("Docker-Content-Digest", oci.DigestOf(nil).String()))
	_, err := over(t, up).As(Identity{}).Resolve(t.Context(), "acme/app", "v1")
	wantClass(t, err, oci.Corrupt)
}

func TestManifestSizes(t *testing.T) {
	pad := func(n int) []byte {
		head, tail := `{"schemaVersion":2,"manifests":[],"annotations":{"x":"`, `"}}`
		return []byte(head + strings.Repeat("x", n-len(head)-len(tail)) + tail)
	}
	for _, chunked := range []bool{false, true} {
		up := ocitest.New(t, ocitest.Options{Fault: func(r ocitest.Request) ocitest.Fault { return ocitest.Fault{Chunked: chunked} }})
		fits := up.AddManifest("acme/app", "", index, pad(maxSmall))
		large := up.AddManifest("acme/app", "large", index, pad(5<<20))
		src := over(t, up).As(Identity{})
		c, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: fits}, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(readAll(t, c)); n != maxSmall {
			t.Errorf("%d bytes", n)
		}
		_, err = src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: large}, oci.Range{})
		if e := classed(t, err, oci.UpstreamError); !strings.Contains(e.Message, "4 MiB") {
			t.Errorf("message %q", e.Message)
		}
		_, err = src.Resolve(t.Context(), "acme/app", "large")
		wantClass(t, err, oci.UpstreamError)
	}
}

// Endless answers of any kind cost no more memory than their limits.
func TestEndlessAnswers(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{Fault: func(r ocitest.Request) ocitest.Fault {
		if r.Tag == "error" {
			return ocitest.Fault{Status: 503, Header: http.Header{"Retry-After": {"60"}}, Endless: true}
		}
		return ocitest.Fault{Endless: true}
	}})
	img := up.AddImage("acme/app", "error", ocitest.Image{})
	src := over(t, up).As(Identity{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for name, ask := range map[string]func(context.Context) error{
		"manifest": func(ctx context.Context) error {
			_, err := src.Open(ctx, oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: img.Digest}, oci.Range{})
			return err
		},
		"tags": func(ctx context.Context) error {
			_, err := src.List(ctx, oci.ListRequest{Kind: oci.Tags, Repo: "acme/app"})
			return err
		},
		"error": func(ctx context.Context) error {
			_, err := src.Resolve(ctx, "acme/app", "error")
			return err
		},
	} {
		if err := ask(t.Context()); oci.ClassOf(err) != oci.UpstreamError {
			t.Errorf("%s: %v", name, err)
		}
	}
	runtime.ReadMemStats(&after)
	// All of it together, also where one is asked twice.
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 96<<20 {
		t.Errorf("%d MiB allocated", grown>>20)
	}
}

func TestHeaderFlood(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	up.AddImage("acme/app", "v1", ocitest.Image{})
	up.Inject(ocitest.Match{}, 0, ocitest.Header("X-Flood", strings.Repeat("x", 100<<10)))
	_, err := over(t, up).As(Identity{}).Resolve(t.Context(), "acme/app", "v1")
	wantClass(t, err, oci.UpstreamError)
}

func TestGzipWithoutBeingAsked(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{Fault: func(ocitest.Request) ocitest.Fault { return ocitest.Fault{Gzip: true} }})
	img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{5 << 20}})
	src := over(t, up).As(Identity{})
	if _, err := src.Resolve(t.Context(), "acme/app", "v1"); err != nil {
		t.Error(err)
	}
	if _, err := src.List(t.Context(), oci.ListRequest{Kind: oci.Tags, Repo: "acme/app"}); err != nil {
		t.Error(err)
	}
	for _, r := range []oci.Range{{}, {Length: 10}} { // a part of an encoding is useless: the whole comes
		config := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: img.Platforms[0].Config}
		c, err := src.Open(t.Context(), config, r)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, c); oci.DigestOf(got) != config.Digest || c.Size != int64(len(got)) || c.Offset != 0 {
			t.Errorf("%+v: %d bytes, %+v", r, len(got), c)
		}
	}
	st, err := src.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: img.Platforms[0].Config})
	if err != nil {
		t.Fatal(err)
	}
	if st.Size != -1 {
		t.Errorf("the size %d is that of an encoding", st.Size)
	}
	layer := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: img.Platforms[0].Layers[0]}
	c, err := src.Open(t.Context(), layer, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c); oci.DigestOf(got) != layer.Digest {
		t.Errorf("%d bytes, not those of the layer", len(got))
	}
}

// A storage that calls a layer's own compression a Content-Encoding.
func TestMislabelledGzip(t *testing.T) {
	var layer bytes.Buffer
	z := gzip.NewWriter(&layer)
	_, _ = z.Write([]byte("a layer"))
	_ = z.Close()
	up := ocitest.New(t, ocitest.Options{Fault: func(ocitest.Request) ocitest.Fault { return ocitest.Header("Content-Encoding", "gzip") }})
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddBlob("acme/app", layer.Bytes())}
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c); !bytes.Equal(got, layer.Bytes()) {
		t.Errorf("%q", got)
	}
}

func TestGzipBomb(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 8<<20))
	_ = z.Close()
	if _, ok := decode("gzip", bomb.Bytes(), maxSmall); ok {
		t.Error("8 MiB were decoded")
	}
}
