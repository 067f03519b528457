package ocitest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// content is everything that the registry has. Guarded by Registry.mu; what
// blobs and manifests hold never changes.
type content struct {
	repos map[string]*repository
}

type repository struct {
	private   bool
	tags      map[string]oci.Digest
	manifests map[oci.Digest]manifest
	blobs     map[oci.Digest]blob
}

type manifest struct {
	mediaType string
	data      []byte
	subject   oci.Digest
	// artifactType and annotations are what a referrers list repeats.
	artifactType string
	annotations  map[string]string
}

type blob struct {
	data io.ReaderAt
	size int64
}

func newContent() content { return content{repos: map[string]*repository{}} }

// repo finds or makes a repository. mu is held.
func (r *Registry) repo(name string) *repository {
	p, ok := r.content.repos[name]
	if !ok {
		p = &repository{
			private:   r.opts.Private,
			tags:      map[string]oci.Digest{},
			manifests: map[oci.Digest]manifest{},
			blobs:     map[oci.Digest]blob{},
		}
		r.content.repos[name] = p
	}
	return p
}

// AddRepo makes an empty repository.
func (r *Registry) AddRepo(repo string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repo(repo)
}

// SetPrivate makes a repository private or public from now on.
func (r *Registry) SetPrivate(repo string, private bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repo(repo).private = private
}

// AddBlob puts data into a repository. data must not change afterwards.
func (r *Registry) AddBlob(repo string, data []byte) oci.Digest {
	d := oci.DigestOf(data)
	r.SetBlob(repo, d, bytes.NewReader(data), int64(len(data)))
	return d
}

// AddNoise puts a blob of size bytes into a repository that is made as it is
// read, see Noise.
func (r *Registry) AddNoise(repo string, seed uint64, size int64) oci.Digest {
	d, err := digestAt(noise(seed), size)
	if err != nil {
		panic(err) // noise never fails
	}
	r.SetBlob(repo, d, noise(seed), size)
	return d
}

// SetBlob puts a blob into a repository under any digest: where it is not the
// content's, the registry lies.
func (r *Registry) SetBlob(repo string, d oci.Digest, data io.ReaderAt, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repo(repo).blobs[d] = blob{data: data, size: size}
}

// AddManifest puts a manifest into a repository and, where tag is not empty,
// tags it. data need not be a good manifest; where it is JSON with a subject,
// it shows up in the subject's referrers.
func (r *Registry) AddManifest(repo, tag, mediaType string, data []byte) oci.Digest {
	d := oci.DigestOf(data)
	r.SetManifest(repo, d, mediaType, data)
	if tag != "" {
		r.SetTag(repo, tag, d)
	}
	return d
}

// SetManifest puts a manifest into a repository under any digest: where it is
// not the content's, the registry lies.
func (r *Registry) SetManifest(repo string, d oci.Digest, mediaType string, data []byte) {
	m := manifest{mediaType: mediaType, data: data}
	var fields v1.Manifest
	if json.Unmarshal(data, &fields) == nil && fields.Subject != nil {
		m.subject = fields.Subject.Digest
		m.artifactType = fields.ArtifactType
		if m.artifactType == "" {
			m.artifactType = fields.Config.MediaType
		}
		m.annotations = fields.Annotations
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repo(repo).manifests[d] = m
}

// SetTag points a tag at a digest, whether that exists or not.
func (r *Registry) SetTag(repo, tag string, d oci.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repo(repo).tags[tag] = d
}

// Delete removes a tag, a manifest or a blob; with an empty reference the
// whole repository.
func (r *Registry) Delete(repo, reference string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.content.repos[repo]
	if !ok {
		return
	}
	if reference == "" {
		delete(r.content.repos, repo)
		return
	}
	delete(p.tags, reference)
	delete(p.manifests, oci.Digest(reference))
	delete(p.blobs, oci.Digest(reference))
}

// Bytes is the content of a manifest or a blob, read past every fault. It
// panics where there is none, since that is a mistake in the test.
func (r *Registry) Bytes(repo string, d oci.Digest) []byte {
	r.mu.Lock()
	p, ok := r.content.repos[repo]
	if !ok {
		r.mu.Unlock()
		panic("no repository " + repo)
	}
	m, isManifest := p.manifests[d]
	b, isBlob := p.blobs[d]
	r.mu.Unlock()
	switch {
	case isManifest:
		return bytes.Clone(m.data)
	case isBlob:
		data := make([]byte, b.size)
		if _, err := b.data.ReadAt(data, 0); err != nil && err != io.EOF {
			panic(err)
		}
		return data
	}
	panic(fmt.Sprintf("no %s in %s", d, repo))
}

// tagNames are a repository's tags in order. mu is held.
func (p *repository) tagNames() []string { return slices.Sorted(maps.Keys(p.tags)) }

// digestAt hashes the first size bytes of data.
func digestAt(data io.ReaderAt, size int64) (oci.Digest, error) {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	if _, err := io.CopyBuffer(onlyWriter{h}, io.NewSectionReader(data, 0, size), buf); err != nil {
		return "", fmt.Errorf("hashing content: %w", err)
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// onlyWriter hides ReadFrom, so that CopyBuffer uses the buffer.
type onlyWriter struct{ io.Writer }
