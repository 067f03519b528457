//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// image is one that lies at an upstream.
type image struct {
	at     *upstream
	repo   string // "team/app"
	tag    string
	digest string // of what the tag names: a manifest, or an index
}

// layer makes a layer with one file; its bytes depend on seed, so that tests
// share no blobs, and do not compress.
func layer(t *testing.T, seed string, size int) v1.Layer {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(content) // never fails
	return layerOf(t, "data/"+filepath.Base(seed), content)
}

func layerOf(t *testing.T, file string, content []byte) v1.Layer {
	t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	if err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil }
	l, err := tarball.LayerFromOpener(open,
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// buildImage is an OCI image for one architecture.
func buildImage(t *testing.T, arch string, cmd []string, layers ...v1.Layer) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(base, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config.Cmd = "linux", arch, cmd
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// pushImage puts an image for this machine with layers of these sizes upstream.
func pushImage(t *testing.T, at *upstream, repo string, sizes ...int) image {
	t.Helper()
	layers := make([]v1.Layer, len(sizes))
	for i, size := range sizes {
		layers[i] = layer(t, string(rune('a'+i))+at.addr+"/"+repo, size)
	}
	return push(t, at, repo, buildImage(t, runtime.GOARCH, nil, layers...))
}

// pushHello puts an image upstream that says hello when it is run.
func pushHello(t *testing.T, at *upstream, repo string) image {
	t.Helper()
	path, err := helloBinary()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return push(t, at, repo, buildImage(t, runtime.GOARCH, []string{"/hello"}, layerOf(t, "hello", content)))
}

// pushIndex puts an image for several platforms upstream, this machine's among them, with
// an attestation as BuildKit makes one.
func pushIndex(t *testing.T, at *upstream, repo string) image {
	t.Helper()
	return pushPlatforms(t, at, repo, true)
}

// pushPlatforms is what pushIndex does, with or without the attestation: dockerd with the
// containerd store fetches it too, and crane does not.
func pushPlatforms(t *testing.T, at *upstream, repo string, attested bool) image {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"s390x", "riscv64", runtime.GOARCH} {
		img := buildImage(t, arch, nil, layer(t, arch+at.addr+"/"+repo, 48<<10))
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		}})
		if arch == runtime.GOARCH && attested {
			index = mutate.AppendManifests(index, attestationOf(t, img, at.addr+"/"+repo))
		}
	}
	return push(t, at, repo, index)
}

// attestationOf is what BuildKit puts beside an image into its index.
func attestationOf(t *testing.T, img v1.Image, seed string) mutate.IndexAddendum {
	t.Helper()
	digest, err := img.Digest()
	must(t, err)
	attestation := buildImage(t, "unknown", nil, layer(t, seed+"/attestation", 2<<10))
	file, err := attestation.ConfigFile()
	must(t, err)
	file = file.DeepCopy()
	file.OS = "unknown"
	attestation, err = mutate.ConfigFile(attestation, file)
	must(t, err)
	return mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest.String()},
	}}
}

// push uploads an image or an index straight to the registry.
func push(t *testing.T, at *upstream, repo string, what remote.Taggable) image {
	t.Helper()
	const tag = "1"
	ref, err := name.NewTag(at.addr+"/"+repo+":"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Push(ref, what, remote.WithAuth(at.owner.authenticator()), remote.WithContext(t.Context())); err != nil {
		t.Fatalf("pushing %s: %v", ref, err)
	}
	desc, err := remote.Head(ref, remote.WithAuth(at.owner.authenticator()), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return image{at: at, repo: repo, tag: tag, digest: desc.Digest.String()}
}

// warm pulls every byte of an image for this machine, and checks each of them.
func warm(t *testing.T, ref string, as login) {
	t.Helper()
	if err := fetch(t.Context(), ref, as); err != nil {
		t.Fatalf("warming %s: %v", ref, err)
	}
}

// fetch pulls all of an image for this machine.
func fetch(ctx context.Context, ref string, as login) error {
	tag, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	img, err := remote.Image(tag, remote.WithAuth(as.authenticator()), remote.WithContext(ctx),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	if err != nil {
		return err
	}
	return validate.Image(img)
}
