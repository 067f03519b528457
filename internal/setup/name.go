package setup

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"berth/oci"
)

// Name is an image as it is called on this node, and what that means.
type Name struct {
	// Local is what to pull.
	Local string `json:"name"`
	// Registry and Repository are where it comes from.
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	// Reference is the tag or digest.
	Reference string `json:"reference"`
}

// LocalName is how image, as a user writes it, is called behind listener for
// organisation. With one, the name begins with it: on a machine whose local tags
// are shared it says whose image that is. The registry is always written out, so
// that the name means the same at every listener, and a digest goes before a tag.
func LocalName(image, listener, organisation string) (Name, error) {
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		if scheme, rest, ok := strings.Cut(image, "://"); ok {
			return Name{}, fmt.Errorf("%q is no image name: leave out %s://, as in %s", oci.OneLine(image, 300), scheme, oci.OneLine(rest, 300))
		}
		return Name{}, fmt.Errorf("%q is no image name: %w", oci.OneLine(image, 300), err)
	}
	n := Name{Registry: strings.ToLower(reference.Domain(ref)), Repository: reference.Path(ref)}
	if oci.IsDockerHub(n.Registry) {
		n.Registry = oci.DockerHub
		if !strings.Contains(n.Repository, "/") {
			n.Repository = "library/" + n.Repository
		}
	}
	path := oci.PathForm(n.Registry) + "/" + n.Repository
	if organisation != "" {
		path = organisation + "/" + path
	}
	if !oci.ValidName(path) {
		return Name{}, fmt.Errorf("%q cannot be written behind %s: %s is no name of at most 255 lower-case letters, digits and separators", oci.OneLine(image, 300), listener, oci.OneLine(path, 300))
	}
	separator := ":"
	switch r := ref.(type) {
	case reference.Canonical:
		separator, n.Reference = "@", r.Digest().String()
	case reference.Tagged:
		n.Reference = r.Tag()
	}
	n.Local = listener + "/" + path + separator + n.Reference
	return n, nil
}
