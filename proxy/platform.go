package proxy

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"berth/internal/share"
	"berth/oci"
)

// maxIndexes is how many indexes are remembered with what is in them.
const maxIndexes = 1024

// clientPlatform is what the client runs on. dockerd says so in its User-Agent,
// before what it quotes from its own client, which may be another machine:
// "docker/29.0.0 go/go1.26 ... os/linux arch/arm64 UpstreamClient(...)". Others
// (containerd, podman, BuildKit, crane) do not, and run on this node.
func clientPlatform(userAgent string) oci.Platform {
	node := oci.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	if clientFamily(userAgent) != "docker" {
		return node
	}
	own, _, _ := strings.Cut(userAgent, " UpstreamClient(")
	if p, ok := oci.MakePlatform(product(own, " os/"), product(own, " arch/")); ok {
		return p
	}
	return node
}

// product is the version of a product in a User-Agent.
func product(userAgent, name string) string {
	_, version, _ := strings.Cut(userAgent, name)
	version, _, _ = strings.Cut(version, " ")
	return version
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
	platforms atomic.Pointer[[]oci.Platform]
	read      atomic.Bool
}

// indexes remembers indexes.
type indexes = share.LRU[indexKey, *indexNote]

func newIndexes() *indexes { return share.New[indexKey, *indexNote](maxIndexes, nil) }

// lookAt notes an index that is answered with, and whether the client can use
// what is in it. The pull itself goes on: the client knows best, and says so to
// its user in its own words.
func (q *request) lookAt(d oci.Descriptor) {
	if !oci.IsIndex(mediaType(d)) {
		return
	}
	note := q.h.Metrics.note(indexKey{q.caller.Organisation, q.registryName(), q.route.Repo, d.Digest})
	if tag := q.parsed.Tag; tag != "" {
		if known := note.tag.Load(); known == nil || *known != tag {
			note.tag.Store(new(strings.Clone(tag)))
		}
	}
	if q.r.Method != http.MethodGet || d.Data == nil {
		return
	}
	if !note.read.Load() {
		if all := oci.PlatformsIn(d.Data); all != nil {
			note.platforms.Store(&all)
		}
		note.read.Store(true)
	}
	all := note.platforms.Load()
	wanted := clientPlatform(q.r.UserAgent())
	if all == nil || slices.ContainsFunc(*all, wanted.Runs) {
		return
	}
	q.mismatch = q.wrongPlatform(d.Digest, note, wanted, *all)
}

// note is what is remembered about an index.
func (m *Metrics) note(key indexKey) *indexNote {
	if note, ok := m.indexes.Get(key); ok {
		return note
	}
	key.repository, key.digest = strings.Clone(key.repository), oci.Digest(strings.Clone(string(key.digest)))
	fresh := &indexNote{}
	m.indexes.Add(key.organisation, key, fresh)
	return fresh
}

// platformMismatch is an index without the client's platform.
type platformMismatch struct {
	err *oci.Error // for the log and the list of failures; it goes to no client
	tag string     // by which it was last asked for; empty: by none
}

// wrongPlatform says what is wrong.
func (q *request) wrongPlatform(d oci.Digest, note *indexNote, wanted oci.Platform, all []oci.Platform) *platformMismatch {
	f := &platformMismatch{}
	image := q.route.Repo + "@" + string(d)
	if tag := note.tag.Load(); tag != nil {
		f.tag = *tag
		image = q.route.Repo + ":" + f.tag
	}
	f.err = &oci.Error{
		Class: oci.WrongPlatform,
		Message: fmt.Sprintf("%s of %s is not built for %s, it has %s: build it for %s too, or pull another",
			image, q.where(), wanted, oci.NamePlatforms(all), wanted),
	}
	return f
}
