package zoo

import (
	"encoding/json"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/internal/ocitest"
	"berth/oci"
)

const (
	// Repo has the image.
	Repo = "acme/app"
	// Bot may read Repo.
	Bot = "acme-bot"
	// Guest is known, and may read nothing.
	Guest = "guest"
)

// Password is that of a user.
func Password(user string) string { return "s3cret-" + strings.TrimPrefix(user, "acme-") }

// Populated is a stand-in with an image and its signature.
type Populated struct {
	StandIn
	*ocitest.Registry
	// Image has the tags v1 to v4.
	Image ocitest.Pushed
	// Signature is one as cosign makes it: it refers to the image, and has a tag of its
	// own, sha256-DIGEST.sig. Where there are no referrers it is in the index under the
	// fallback tag.
	Signature oci.Digest
}

// Open starts one. change may change its options; it may be nil.
func (s StandIn) Open(t *testing.T, change func(*ocitest.Options)) Populated {
	t.Helper()
	s.Options.Fault = s.fault
	s.Options.Private = s.Refused != oci.Unclassified
	if change != nil {
		change(&s.Options)
	}
	p := Populated{StandIn: s, Registry: ocitest.New(t, s.Options)}
	p.AddUser(Bot, Password(Bot), "acme/**")
	p.AddUser(Guest, Password(Guest))
	p.Image = p.AddImage(Repo, "v1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{3000, 70_000}})
	for _, tag := range []string{"v2", "v3", "v4"} {
		p.SetTag(Repo, tag, p.Image.Digest)
	}
	p.Signature = p.AddArtifact(Repo, p.Image.Digest, "application/vnd.dev.cosign.artifact.sig.v1+json", 1)
	subject := "sha256-" + p.Image.Digest.Encoded()
	p.SetTag(Repo, subject+".sig", p.Signature)
	if s.Fallback {
		list := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{{
			MediaType: v1.MediaTypeImageManifest, Digest: p.Signature, Size: int64(len(p.Bytes(Repo, p.Signature))),
			ArtifactType: "application/vnd.dev.cosign.artifact.sig.v1+json",
		}}}
		list.SchemaVersion = 2
		data, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		p.AddManifest(Repo, subject, v1.MediaTypeImageIndex, data)
	}
	return p
}
