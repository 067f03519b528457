package upstream

import (
	"mime"
	"net/http"

	"berth/oci"
)

// schema1 is what the media types of schema 1 begin with.
const schema1 = "application/vnd.docker.distribution.manifest.v1+"

// acceptManifest names every type of a manifest, in one line since some
// registries read only the first. Quay converts a tag whose type is missing
// here to schema 1. The rest is for types that are still to come.
const acceptManifest = oci.MediaTypeIndex + ", " + oci.MediaTypeDockerList + ", " +
	oci.MediaTypeManifest + ", " + oci.MediaTypeDockerManifest + ", " + oci.MediaTypeArtifact + ", */*"

const (
	acceptBlob = "*/*"
	acceptTags = "application/json"
)

// typeOf is the media type of an answer without parameters, in lower case.
func typeOf(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}
