package ocitest

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// An independent client must take what the registry has for real images, in
// every way of authentication and over the CDN.
func TestAnotherClientPullsImages(t *testing.T) {
	for name, o := range map[string]Options{
		"open":          {},
		"basic":         {Auth: Basic},
		"bearer":        {Auth: Bearer, Private: true},
		"ghcr":          {Auth: Bearer, Private: true, Refusal: RefuseAtToken, BadPassword: 403, TokenShape: AccessTokenOnly},
		"tls and cdn":   {TLS: true, Auth: Bearer, CDN: CDNSame},
		"http2 and cdn": {TLS: true, HTTP2: true, CDN: CDNPlain},
	} {
		t.Run(name, func(t *testing.T) { pullWithGGCR(t, o) })
	}
}

func pullWithGGCR(t *testing.T, o Options) {
	r := New(t, o)
	r.AddUser("bot", "secret", "acme/**")
	pushed := r.AddImage("acme/app", "v1", Image{Platforms: []string{"linux/amd64", "linux/arm64/v8"}, Layers: []int64{minTar, 100_000, 70_001}})

	ref, err := name.ParseReference(r.Host()+"/acme/app:v1", name.Insecure)
	if o.TLS {
		ref, err = name.ParseReference(r.Host() + "/acme/app:v1")
	}
	if err != nil {
		t.Fatal(err)
	}
	client := r.Client()
	defer client.CloseIdleConnections()
	options := []remote.Option{
		remote.WithTransport(client.Transport), remote.WithContext(t.Context()),
		remote.WithAuth(&authn.Basic{Username: "bot", Password: "secret"}),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}),
	}
	index, err := remote.Index(ref, options...)
	if err != nil {
		t.Fatalf("getting the index: %v", err)
	}
	if got, err := index.Digest(); err != nil || got.String() != pushed.Digest.String() {
		t.Errorf("the index is %v, %v; want %s", got, err, pushed.Digest)
	}
	img, err := remote.Image(ref, options...)
	if err != nil {
		t.Fatalf("getting the arm64 image: %v", err)
	}
	if got, err := img.Digest(); err != nil || got.String() != pushed.Platforms[1].Manifest.String() {
		t.Errorf("the arm64 image is %v, %v; want %s", got, err, pushed.Platforms[1].Manifest)
	}
	if got, err := img.ConfigFile(); err != nil || got.Architecture != "arm64" || len(got.RootFS.DiffIDs) != 3 {
		t.Errorf("the config is %+v, %v", got, err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 3 {
		t.Fatalf("%d layers, %v; want 3", len(layers), err)
	}
	for _, l := range layers {
		readTar(t, l)
	}
	// ggcr asks for fewer types than a proxy must, says nothing of encodings,
	// and Go's client adds a Referer when it follows a redirect.
	for _, v := range r.TakeViolations() {
		if !strings.Contains(v, "Accept") && !strings.Contains(v, "Referer") {
			t.Errorf("violation: %s", v)
		}
	}
}

func readTar(t *testing.T, l v1.Layer) {
	t.Helper()
	body, err := l.Compressed() // which they are not; this checks the digest
	if err != nil {
		t.Fatalf("opening a layer: %v", err)
	}
	defer func() { _ = body.Close() }()
	files := tar.NewReader(body)
	for {
		_, err := files.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("reading a layer: %v", err)
		}
		if _, err := io.Copy(io.Discard, files); err != nil {
			t.Fatalf("reading a file of a layer: %v", err)
		}
	}
}
