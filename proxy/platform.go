package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"

	"berth/oci"
)

const (
	// maxIndexes is how many indexes are remembered with what is in them, and
	// maxPlatforms how many platforms of each.
	maxIndexes   = 1024
	maxPlatforms = 64
	// maxNamed is how many platforms a message names.
	maxNamed = 12
)

// platform is what an image runs on.
type platform struct{ os, architecture string }

func (p platform) String() string { return p.os + "/" + p.architecture }

// clientPlatform is what the client runs on. dockerd says so in its User-Agent,
// before what it quotes from its own client, which may be another machine:
// "docker/29.0.0 go/go1.26 ... os/linux arch/arm64 UpstreamClient(...)". Others
// (containerd, podman, BuildKit, crane) do not, and run on this node.
func clientPlatform(userAgent string) platform {
	p := platform{runtime.GOOS, runtime.GOARCH}
	if clientFamily(userAgent) != "docker" {
		return p
	}
	own, _, _ := strings.Cut(userAgent, " UpstreamClient(")
	system, architecture := product(own, " os/"), product(own, " arch/")
	if system == "" || architecture == "" {
		return p
	}
	return platform{system, architecture}
}

// product is the version of a product in a User-Agent, if it is one word.
func product(userAgent, name string) string {
	_, version, _ := strings.Cut(userAgent, name)
	version, _, _ = strings.Cut(version, " ")
	return word(version)
}

// word is s if it can be the name of a system or an architecture.
func word(s string) string {
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-' }
	if len(s) > 24 || strings.ContainsFunc(s, odd) {
		return ""
	}
	return s
}

// runs says whether an image for other runs on p. Variants of an architecture
// are not looked at. Clients take 32-bit images of the same family where there
// is nothing better (containerd/platforms, platformVector).
func (p platform) runs(other platform) bool {
	if p.os != other.os {
		return false
	}
	return p.architecture == other.architecture ||
		p.architecture == "amd64" && other.architecture == "386" ||
		p.architecture == "arm64" && other.architecture == "arm"
}

// indexKey is an index as somebody gets it. The tag that is remembered with it
// is nobody else's business, so the organisation is in it.
type indexKey struct {
	organisation, registry, repository string
	digest                             oci.Digest
}

// indexNote is what is remembered about an index, so that it is read once and
// not for each pull.
type indexNote struct {
	// tag is by which name it was last asked for; nil: by none.
	tag atomic.Pointer[string]
	// platforms are what it has; nil: it was not read yet, or tells nothing.
	platforms atomic.Pointer[[]platform]
	read      atomic.Bool
}

// indexes remembers indexes.
type indexes = lru.Cache[indexKey, *indexNote]

func newIndexes() *indexes {
	c, _ := lru.New[indexKey, *indexNote](maxIndexes) // fails only for a size that is not positive
	return c
}

// isIndex says whether a manifest is a list of manifests.
func isIndex(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.index.v1+json" ||
		mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

// lookAt notes an index that is answered with, and whether the client can use
// what is in it. The pull itself goes on: the client knows best, and says so to
// its user in its own words.
func (x *exchange) lookAt(d oci.Descriptor) {
	if !isIndex(mediaType(d)) {
		return
	}
	note := x.h.Metrics.note(indexKey{x.caller.Organisation, x.registryName(), x.route.Repo, d.Digest})
	if tag := x.req.Tag; tag != "" {
		if known := note.tag.Load(); known == nil || *known != tag {
			note.tag.Store(new(strings.Clone(tag)))
		}
	}
	if x.r.Method != http.MethodGet || d.Data == nil {
		return
	}
	if !note.read.Load() {
		if all := platformsIn(d.Data); all != nil {
			note.platforms.Store(&all)
		}
		note.read.Store(true)
	}
	all := note.platforms.Load()
	wanted := clientPlatform(x.r.UserAgent())
	if all == nil || slices.ContainsFunc(*all, wanted.runs) {
		return
	}
	x.foreign = x.wrongPlatform(d.Digest, note, wanted, *all)
}

// note is what is remembered about an index.
func (m *Metrics) note(key indexKey) *indexNote {
	if note, ok := m.indexes.Get(key); ok {
		return note
	}
	key.repository, key.digest = strings.Clone(key.repository), oci.Digest(strings.Clone(string(key.digest)))
	fresh := &indexNote{}
	if note, ok, _ := m.indexes.PeekOrAdd(key, fresh); ok {
		return note
	}
	return fresh
}

// platformsIn are the platforms that an index has, without repetition. Nil: it
// does not tell, since an image in it is for no platform in particular, or there
// is none (an index of artifacts, or something that cannot be read).
func platformsIn(index []byte) (all []platform) {
	var doc struct {
		Manifests []struct {
			MediaType string `json:"mediaType"`
			Platform  *struct {
				OS           string `json:"os"`
				Architecture string `json:"architecture"`
			} `json:"platform"`
		} `json:"manifests"`
	}
	if json.Unmarshal(index, &doc) != nil {
		return nil
	}
	for _, m := range doc.Manifests {
		if m.Platform == nil || isIndex(m.MediaType) {
			return nil
		}
		p := platform{word(m.Platform.OS), word(m.Platform.Architecture)}
		switch {
		case p.os == "" || p.architecture == "":
			return nil
		case p == platform{"unknown", "unknown"}: // BuildKit's attestations
		case len(all) == maxPlatforms:
			return nil
		case !slices.Contains(all, p):
			all = append(all, p)
		}
	}
	return all
}

// foreign is an index without the client's platform.
type foreign struct {
	err *oci.Error // for the log and the list of failures; it goes to no client
	tag string     // by which it was last asked for; empty: by none
}

// wrongPlatform says what is wrong.
func (x *exchange) wrongPlatform(d oci.Digest, note *indexNote, wanted platform, all []platform) *foreign {
	f := &foreign{}
	image := x.route.Repo + "@" + string(d)
	if tag := note.tag.Load(); tag != nil {
		f.tag = *tag
		image = x.route.Repo + ":" + f.tag
	}
	has := ""
	for i, p := range all {
		if i == maxNamed {
			has += fmt.Sprintf(" and %d more", len(all)-i)
			break
		}
		if i > 0 {
			has += ", "
		}
		has += p.String()
	}
	f.err = &oci.Error{
		Class: oci.WrongPlatform,
		Message: fmt.Sprintf("%s of %s is not built for %s, it has %s: build it for %s too, or pull another",
			image, x.where(), wanted, has, wanted),
	}
	return f
}
