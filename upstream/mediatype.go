package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types of Docker, from before the OCI's.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	schema1        = "application/vnd.docker.distribution.manifest.v1+"
	ociArtifact    = "application/vnd.oci.artifact.manifest.v1+json"
)

// acceptManifest names every type of a manifest, in one line since some
// registries read only the first. Quay converts a tag whose type is missing
// here to schema 1. The rest is for types that are still to come.
const acceptManifest = v1.MediaTypeImageIndex + ", " + dockerList + ", " +
	v1.MediaTypeImageManifest + ", " + dockerManifest + ", " + ociArtifact + ", */*"

const (
	acceptBlob = "*/*"
	acceptTags = "application/json"
)

// shape is what a kind of manifest has inside.
type shape uint8

const (
	anyShape shape = iota
	indexShape
	imageShape
)

var shapes = map[string]shape{
	v1.MediaTypeImageIndex:    indexShape,
	dockerList:                indexShape,
	v1.MediaTypeImageManifest: imageShape,
	dockerManifest:            imageShape,
	ociArtifact:               anyShape,
}

// typeOf is the media type of an answer without parameters, in lower case.
func typeOf(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

func isManifestType(t string) bool {
	_, ok := shapes[t]
	return ok
}

// isPage says whether an answer is for people: a login page, or what a firewall
// has to say.
func isPage(h http.Header) bool { return strings.Contains(typeOf(h), "html") }

var (
	errSchema1   = errors.New("the image is in the outdated schema 1 format, which its digest does not cover; push it again with a current client")
	errNotJSON   = errors.New("the manifest is not JSON")
	errTwoFaced  = errors.New("the manifest is an index and an image at once")
	errTwoTypes  = errors.New("the manifest's own media type is not the one it was sent with")
	errWrongType = errors.New("the manifest is not what its media type says")
)

// manifestType finds the one media type of a manifest. Who reads it as an
// index and who reads it as an image must not see two different things
// (CVE-2021-41190), so what is ambiguous is refused.
func manifestType(sent string, data []byte) (string, error) {
	var doc struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
		Config    json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return "", errNotJSON
	}
	is := anyShape
	switch index, image := has(doc.Manifests), has(doc.Layers) || has(doc.Config); {
	case index && image:
		return "", errTwoFaced
	case index:
		is = indexShape
	case image:
		is = imageShape
	}
	if doc.MediaType != "" && isManifestType(sent) && doc.MediaType != sent {
		return "", errTwoTypes
	}
	t := chooseType(doc.MediaType, sent, is)
	if want := shapes[t]; want != anyShape && is != anyShape && want != is {
		return "", errWrongType
	}
	return t, nil
}

// chooseType prefers what the document says of itself, which its digest covers.
func chooseType(own, sent string, is shape) string {
	switch t, _, err := mime.ParseMediaType(own); {
	case err == nil && strings.HasPrefix(t, "application/"):
		return t
	case strings.HasPrefix(sent, "application/vnd."):
		return sent
	case is == indexShape:
		return v1.MediaTypeImageIndex
	}
	return v1.MediaTypeImageManifest
}

func has(raw json.RawMessage) bool { return len(raw) > 0 && !bytes.Equal(raw, []byte("null")) }
