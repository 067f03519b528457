package ocitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// The media types of Docker's own formats, next to those of package v1.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Image says what AddImage makes. Two Images with the same fields have the
// same digests.
type Image struct {
	// Platforms as "os/architecture" or "os/architecture/variant". If empty,
	// linux/amd64 alone. More than one makes an index.
	Platforms []string
	// Index makes an index for a single platform too.
	Index bool
	// Layers are the sizes of the generated layers of each platform; each is a
	// valid tar archive from 1536 bytes on. Different platforms and different
	// positions have different content.
	Layers []int64
	// LayerBytes are more layers, the same in each platform.
	LayerBytes [][]byte
	// Seed makes images with equal sizes differ.
	Seed uint64
	// Docker uses Docker's media types, else OCI's.
	Docker bool
	// ForeignLayer adds a layer that only the registry's trap serves: its
	// descriptor has urls, and whoever follows them is a violation.
	ForeignLayer bool
	// Annotations go into each manifest.
	Annotations map[string]string
}

// Pushed is what AddImage made.
type Pushed struct {
	Repo, Tag string
	// Digest and MediaType are of what the tag names: the index, or the only
	// manifest.
	Digest    oci.Digest
	MediaType string
	// Platforms in the order that was asked for.
	Platforms []PushedPlatform
}

// PushedPlatform is one platform of an image.
type PushedPlatform struct {
	Platform string
	Manifest oci.Digest
	Config   oci.Digest
	Layers   []oci.Digest
	// Sizes are the layers' sizes in bytes.
	Sizes []int64
}

// Blobs are the config and the layers of the i-th platform.
func (p Pushed) Blobs(i int) []oci.Digest {
	return append([]oci.Digest{p.Platforms[i].Config}, p.Platforms[i].Layers...)
}

// AddImage makes an image from data and tags it, unless tag is empty.
func (r *Registry) AddImage(repo, tag string, img Image) Pushed {
	if len(img.Platforms) == 0 {
		img.Platforms = []string{"linux/amd64"}
	}
	out := Pushed{Repo: repo, Tag: tag}
	var list []v1.Descriptor
	for i, platform := range img.Platforms {
		p, d := r.addPlatform(repo, platform, uint64(i), img)
		out.Platforms = append(out.Platforms, p)
		list = append(list, d)
	}
	out.Digest, out.MediaType = list[0].Digest, list[0].MediaType
	if len(list) > 1 || img.Index {
		out.MediaType = choose(img.Docker, DockerList, v1.MediaTypeImageIndex)
		index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: out.MediaType, Manifests: list}
		out.Digest = r.AddManifest(repo, "", out.MediaType, mustJSON(index))
	}
	if tag != "" {
		r.SetTag(repo, tag, out.Digest)
	}
	return out
}

func (r *Registry) addPlatform(repo, platform string, n uint64, img Image) (PushedPlatform, v1.Descriptor) {
	out := PushedPlatform{Platform: platform}
	m := v1.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   choose(img.Docker, DockerManifest, v1.MediaTypeImageManifest),
		Annotations: img.Annotations,
	}
	add := func(data io.ReaderAt, size int64) {
		d := r.addAt(repo, data, size)
		out.Layers, out.Sizes = append(out.Layers, d), append(out.Sizes, size)
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: choose(img.Docker, DockerLayer, v1.MediaTypeImageLayer), Digest: d, Size: size})
	}
	for i, size := range img.Layers {
		data, err := layer(img.Seed<<16|n<<8|uint64(i), size)
		if err != nil {
			panic(err) // a size that no tar header can hold
		}
		add(data, size)
	}
	for _, b := range img.LayerBytes {
		add(bytes.NewReader(b), int64(len(b)))
	}
	if img.ForeignLayer {
		d := oci.DigestOf([]byte("foreign"))
		m.Layers = append(m.Layers, v1.Descriptor{
			MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: d, Size: 7,
			URLs: []string{r.URL() + foreignPath + d.Encoded()},
		})
	}
	config := mustJSON(imageConfig(platform, img.Seed, out.Layers))
	out.Config = r.AddBlob(repo, config)
	m.Config = v1.Descriptor{MediaType: choose(img.Docker, DockerConfig, v1.MediaTypeImageConfig), Digest: out.Config, Size: int64(len(config))}
	data := mustJSON(m)
	out.Manifest = r.AddManifest(repo, "", m.MediaType, data)
	p := parsePlatform(platform)
	return out, v1.Descriptor{MediaType: m.MediaType, Digest: out.Manifest, Size: int64(len(data)), Platform: &p}
}

func (r *Registry) addAt(repo string, data io.ReaderAt, size int64) oci.Digest {
	d, err := digestAt(data, size)
	if err != nil {
		panic(err) // neither noise nor bytes fail
	}
	r.SetBlob(repo, d, data, size)
	return d
}

// AddArtifact puts a small artifact into repo that refers to subject.
func (r *Registry) AddArtifact(repo string, subject oci.Digest, artifactType string, seed uint64) oci.Digest {
	empty := r.AddBlob(repo, []byte("{}"))
	config := v1.Descriptor{MediaType: v1.MediaTypeEmptyJSON, Digest: empty, Size: 2}
	of := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: subject, Size: 1} // of one that is not there
	r.mu.Lock()
	if m, ok := r.content.repos[repo].manifests[subject]; ok {
		of.MediaType, of.Size = m.mediaType, int64(len(m.data))
	}
	r.mu.Unlock()
	return r.AddManifest(repo, "", v1.MediaTypeImageManifest, mustJSON(v1.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    v1.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       config,
		Layers:       []v1.Descriptor{config},
		Subject:      &of,
		Annotations:  map[string]string{"org.example.seed": fmt.Sprint(seed)},
	}))
}

func imageConfig(platform string, seed uint64, layers []digest.Digest) v1.Image {
	return v1.Image{
		Author:   fmt.Sprintf("seed %d", seed),
		Platform: parsePlatform(platform),
		Config:   v1.ImageConfig{Cmd: []string{"/noise"}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: layers}, // layers are not compressed
	}
}

func parsePlatform(s string) v1.Platform {
	os, rest, _ := strings.Cut(s, "/")
	arch, variant, _ := strings.Cut(rest, "/")
	return v1.Platform{OS: os, Architecture: arch, Variant: variant}
}

func choose(docker bool, a, b string) string {
	if docker {
		return a
	}
	return b
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own types come here
	}
	return data
}
