package oci

import (
	"encoding/json"
	"errors"
	"mime"
	"slices"
	"strings"
)

// Media types of manifests: the OCI's, and Docker's from before them.
const (
	MediaTypeIndex          = "application/vnd.oci.image.index.v1+json"
	MediaTypeManifest       = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeArtifact       = "application/vnd.oci.artifact.manifest.v1+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

// MediaTypeBlob is that of every blob: what it is, its manifest says.
const MediaTypeBlob = "application/octet-stream"

// mediaTypeDockerConfig is that of the configuration of Docker's images.
const mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"

// maxMediaType bounds a media type that a manifest names itself.
const maxMediaType = 200

// Why a document is not a manifest that anybody should get. Asking again does not
// help.
var (
	ErrSchema1       = errors.New("the image is in the outdated schema 1 format, which its digest does not cover; push it again with a current client")
	ErrNotJSON       = errors.New("the manifest is not JSON")
	ErrAmbiguous     = errors.New("the manifest has a key twice, or in another case than the specification's, so that clients differ about what it says")
	ErrTwoFaced      = errors.New("the manifest is an index and an image at once")
	ErrWrongType     = errors.New("the manifest is not what its media type says")
	ErrNoManifest    = errors.New("the document has no media type and neither manifests nor layers")
	errUnknownType   = errors.New("its media type is none of a manifest")
	errBadDescriptor = errors.New("what the manifest lists cannot be read")
)

// Document is what a manifest of an image, or an index, says.
type Document struct {
	// MediaType is what it is: by its own word, else by its shape. Whatever header
	// it comes with, one digest has one type.
	MediaType string
	// Named: that is its own word.
	Named bool
	// Manifests are those of an index, Config and Layers an image's.
	Manifests []Entry
	Config    Entry
	Layers    []Entry
}

// Entry is something that a manifest lists. Nothing of it has been checked: anyone
// may write anything into a manifest of his own.
type Entry struct {
	MediaType string   `json:"mediaType"`
	Digest    Digest   `json:"digest"`
	Size      int64    `json:"size"`
	URLs      []string `json:"urls"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

// Elsewhere says whether e may lie at another place than the registry that has the document:
// a foreign layer, or one that must not be distributed.
func (e Entry) Elsewhere() bool {
	return len(e.URLs) > 0 || strings.Contains(e.MediaType, ".foreign.") || strings.Contains(e.MediaType, ".nondistributable.")
}

// on is the platform that e is for, if it says one that is fit to be shown.
func (e Entry) on() (Platform, bool) {
	if e.Platform == nil {
		return Platform{}, false
	}
	return MakePlatform(e.Platform.OS, e.Platform.Architecture)
}

// Index says whether d lists manifests.
func (d *Document) Index() bool { return IsIndex(d.MediaType) }

// Blobs are the layers and the configuration of an image.
func (d *Document) Blobs() []Entry {
	all := slices.Clone(d.Layers)
	if d.Config.Digest != "" {
		all = append(all, d.Config)
	}
	return all
}

// rawDocument is a manifest whose parts have not been read.
type rawDocument struct {
	SchemaVersion json.RawMessage `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Manifests     json.RawMessage `json:"manifests"`
	Layers        json.RawMessage `json:"layers"`
	Config        json.RawMessage `json:"config"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// ParseManifest reads a manifest. Who reads it as an index and who reads it as an
// image must not see two different things (CVE-2021-41190), so what is ambiguous
// is refused.
func ParseManifest(data []byte) (*Document, error) {
	doc, err := DecodeJSON[rawDocument](data)
	switch {
	case errors.Is(err, ErrAmbiguousJSON):
		return nil, ErrAmbiguous
	case errors.Is(err, ErrTooManyEntries):
		return nil, err
	case err != nil:
		return nil, ErrNotJSON
	}
	doc.dropNulls()
	m := &Document{Named: doc.MediaType != ""}
	if m.MediaType, err = doc.mediaType(); err != nil {
		return nil, err
	}
	if err := m.readEntries(doc); err != nil {
		return nil, err
	}
	if !m.Named {
		m.MediaType = m.dockers()
	}
	return m, nil
}

// dropNulls takes keys with null for keys that are not there: they list nothing,
// whoever reads them, and some builders write all of them.
func (d *rawDocument) dropNulls() {
	for _, raw := range []*json.RawMessage{&d.Manifests, &d.Layers, &d.Config, &d.FSLayers} {
		if string(*raw) == "null" {
			*raw = nil
		}
	}
}

// dockers is the media type of a document that does not name its own. Only OCI's may
// leave it out, but Docker's have been pushed without, and what they list tells.
func (d *Document) dockers() string {
	switch {
	case d.MediaType == MediaTypeManifest && d.Config.MediaType == mediaTypeDockerConfig:
		return MediaTypeDockerManifest
	case d.MediaType == MediaTypeIndex && len(d.Manifests) > 0 &&
		!slices.ContainsFunc(d.Manifests, func(e Entry) bool { return e.MediaType != MediaTypeDockerManifest }):
		return MediaTypeDockerList
	}
	return d.MediaType
}

// mediaType is the document's own word, which its digest covers, and which its
// shape must not contradict.
func (d rawDocument) mediaType() (string, error) {
	index, image := d.Manifests != nil, d.Layers != nil || d.Config != nil
	shape := ""
	switch {
	case index && image:
		return "", ErrTwoFaced
	case string(d.SchemaVersion) == "1" && d.FSLayers != nil:
		return "", ErrSchema1
	case index:
		shape = MediaTypeIndex
	case image:
		shape = MediaTypeManifest
	}
	if d.MediaType == "" {
		if shape == "" {
			return "", ErrNoManifest
		}
		return shape, nil
	}
	own, err := documentType(d.MediaType)
	if err != nil {
		return "", err
	}
	switch own {
	case MediaTypeIndex, MediaTypeDockerList:
		if image {
			return "", ErrWrongType
		}
	case MediaTypeManifest, MediaTypeDockerManifest:
		if index {
			return "", ErrWrongType
		}
	}
	return own, nil
}

// documentType is a media type that a manifest names itself, but for those that
// a browser would show: whoever makes a manifest writes what he likes.
func documentType(named string) (string, error) {
	t, _, err := mime.ParseMediaType(named)
	if err != nil || len(t) > maxMediaType || !strings.HasPrefix(t, "application/") {
		return "", errUnknownType
	}
	return t, nil
}

// readEntries reads what doc lists. Of a type that nobody here knows, the lists
// may be anything.
func (d *Document) readEntries(doc rawDocument) error {
	var errs [3]error
	d.Manifests, errs[0] = entries[[]Entry](doc.Manifests)
	d.Layers, errs[1] = entries[[]Entry](doc.Layers)
	d.Config, errs[2] = entries[Entry](doc.Config)
	err := errors.Join(errs[:]...)
	switch {
	case err == nil || !IsManifestType(d.MediaType):
		return nil
	case errors.Is(err, ErrTooManyEntries):
		return ErrTooManyEntries
	}
	return errBadDescriptor
}

func entries[T any](raw json.RawMessage) (t T, err error) {
	if raw == nil {
		return t, nil
	}
	return DecodeJSON[T](raw)
}

// IsManifestType says whether t is a media type of manifests.
func IsManifestType(t string) bool {
	switch t {
	case MediaTypeIndex, MediaTypeManifest, MediaTypeArtifact, MediaTypeDockerList, MediaTypeDockerManifest:
		return true
	}
	return false
}

// IsIndex says whether a manifest of this media type is a list of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerList
}
