package isolation_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/cache"
	"berth/internal/ocitest"
	"berth/oci"

	"berth/upstream/dialect"
)

// repository is one repository at one registry, and what is in it.
type repository struct {
	at     *place
	name   string
	public bool
	// canary is in every object that is private to those who read this.
	canary    string
	tags      map[string]oci.Digest
	manifests map[oci.Digest][]byte
	blobs     map[oci.Digest][]byte
	liar      bool // it claims what it does not have
}

func (r *repository) has(kind oci.Kind, d oci.Digest) ([]byte, bool) {
	if kind == oci.Manifest {
		data, ok := r.manifests[d]
		return data, ok
	}
	data, ok := r.blobs[d]
	return data, ok
}

// trouble is what is wrong with a registry at the moment.
type trouble int32

const (
	healthy trouble = iota
	failing
	limiting
	resetting
	tokenless
	troubles
	recovering // healthy, and the node does not know it yet
)

// harbour is a world with five organisations and four registries, one of them
// brought by an organisation that means harm.
type harbour struct {
	*world

	nodes   []*world // the world of each, the first of which is the one above
	rng     *rand.Rand
	names   []string
	repos   []*repository
	state   map[*place]*atomic.Int32
	secrets []string // that must show nowhere
	base    []byte   // a public layer that is everywhere
	private map[oci.Digest]*repository
	hostile *place
	// ever is who had a right at any time: an organisation, a registry, a repository.
	ever    map[[3]string]bool
	limited atomic.Bool // the villain, by every registry
}

const (
	villain      = "org-mallory"
	villainUser  = "user-" + villain + "-acct-" + villain
	villainHangs = villain + "/hangs" // repositories that get no answer
)

func newHarbour(t testing.TB, seed uint64) *harbour {
	t.Helper()
	w := newWorld(t)
	w.cache = cache.Options{MaxSize: 3 << 20, HotBytes: 128 << 10}
	h := &harbour{
		world: w, rng: rand.New(rand.NewPCG(seed, 1)),
		names: []string{"org-alfa", "org-bravo", "org-coral", "org-delta", villain},
		nodes: []*world{w}, state: map[*place]*atomic.Int32{}, private: map[oci.Digest]*repository{}, ever: map[[3]string]bool{},
	}
	h.base = h.noise(40<<10, "")
	for _, name := range h.names {
		w.organisation(name)
	}
	h.add("docker.io", "", ocitest.Options{Auth: ocitest.Bearer, TokenServer: true, CDN: ocitest.CDNSame}, uniform, kind(dialect.DockerHub))
	h.add("ghcr.io", "", ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseAtToken, BadPassword: http.StatusForbidden}, uniform, kind(dialect.GHCR))
	h.add("reg.example", "", ocitest.Options{Auth: ocitest.Basic, Refusal: ocitest.RefuseNotFound})
	h.hostile = h.add("evil.example", villain, ocitest.Options{})
	for i, p := range w.places[:3] {
		h.fill(i, p)
	}
	h.lie()
	return h
}

// add makes a registry whose troubles can be switched.
func (h *harbour) add(name, owner string, o ocitest.Options, more ...func(*place)) *place {
	now := &atomic.Int32{}
	o.LiveRights, o.Private = true, owner == ""
	o.Fault = func(r ocitest.Request) ocitest.Fault {
		if strings.HasPrefix(r.Repo, villainHangs) {
			return ocitest.Silence()
		}
		// At Docker Hub any other 429 stops a whole address.
		counted := name != "docker.io" || r.Kind == ocitest.Manifest && r.Method == http.MethodGet
		if counted && r.User == villainUser && h.limited.Load() {
			return ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit", "Retry-After", "30")
		}
		switch trouble(now.Load()) {
		case failing:
			return ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "30")
		case limiting:
			return ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit", "Retry-After", "30")
		case resetting:
			return ocitest.Drop()
		case tokenless:
			if r.Kind == ocitest.Token {
				return ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "30")
			}
		}
		return ocitest.Fault{}
	}
	p := h.registry(name, owner, o, more...)
	h.state[p] = now
	return p
}

// fill gives the platform's i-th registry its repositories and accounts. Names
// and tags are the same everywhere, those who may read them are not.
func (h *harbour) fill(i int, p *place) {
	prefix := ""
	h.repository(p, prefix+"team/app", "v1", "v2")
	h.repository(p, prefix+"team/web", "v1")
	public := h.repository(p, prefix+"pub/base", "v1")
	public.public = true
	p.reg.SetPrivate(public.name, false)
	rights := map[string][]string{}
	give := func(n int, repo string) { rights[h.names[n%5]] = append(rights[h.names[n%5]], repo) }
	give(i, prefix+"team/app")
	give(i+1, prefix+"team/web")
	give(i+2, prefix+"team/web")
	for n, name := range h.names {
		h.repository(p, name+"/own", "v1")
		give(n, name+"/own")
		if (n+i)%5 == 3 && p.uniform {
			continue // nothing connected here
		}
		a := h.account(name, "acct-"+name, p, rights[name]...)
		h.secrets = append(h.secrets, a.password)
	}
}

// repository makes a private image for each tag; half of its layers are everyone's.
func (h *harbour) repository(p *place, name string, tags ...string) *repository {
	r := &repository{
		at: p, name: name, canary: "CANARY-" + hex.EncodeToString(h.bytes(12)) + "-",
		tags: map[string]oci.Digest{}, manifests: map[oci.Digest][]byte{}, blobs: map[oci.Digest][]byte{},
	}
	canary := r.canary
	if strings.HasPrefix(name, "pub/") {
		canary = ""
	}
	for _, tag := range tags {
		layers := [][]byte{h.base, h.noise(2<<10, canary), h.noise(30<<10+h.rng.IntN(300<<10), canary)}
		h.image(r, tag, canary, layers)
	}
	h.repos = append(h.repos, r)
	return r
}

// image puts a manifest over layers into r, and an index over it under tag.
func (h *harbour) image(r *repository, tag, canary string, layers [][]byte) {
	config, _ := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "author": canary})
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Annotations: map[string]string{"owner": canary}}
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: h.put(r, oci.Blob, canary, config), Size: int64(len(config))}
	for _, l := range layers {
		c := canary
		if len(l) == len(h.base) {
			c = ""
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: h.put(r, oci.Blob, c, l), Size: int64(len(l))})
	}
	data, _ := json.Marshal(m)
	index, _ := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Annotations: m.Annotations,
		Manifests: []v1.Descriptor{{MediaType: m.MediaType, Digest: h.put(r, oci.Manifest, canary, data), Size: int64(len(data)), Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
	})
	r.tags[tag] = h.put(r, oci.Manifest, canary, index)
	r.at.reg.SetTag(r.name, tag, r.tags[tag])
}

func (h *harbour) put(r *repository, kind oci.Kind, canary string, data []byte) oci.Digest {
	d := oci.DigestOf(data)
	if kind == oci.Manifest {
		r.manifests[d] = data
		var m struct{ MediaType string }
		_ = json.Unmarshal(data, &m) // we have just made it
		r.at.reg.AddManifest(r.name, "", m.MediaType, data)
	} else {
		r.blobs[d] = data
		r.at.reg.AddBlob(r.name, data)
	}
	if canary != "" {
		h.private[d] = r
	}
	return d
}

// lie fills the hostile registry: it claims everybody's digests, with bytes that
// are others, and has manifests that name everybody's layers; the latter also
// in the villain's own repositories at the platform's registries.
func (h *harbour) lie() {
	loot := &repository{at: h.hostile, name: "loot/app", liar: true, tags: map[string]oci.Digest{}, manifests: map[oci.Digest][]byte{}, blobs: map[oci.Digest][]byte{}}
	var stolen []v1.Descriptor
	for d, r := range h.private {
		if data, ok := r.blobs[d]; ok {
			h.hostile.reg.SetBlob(loot.name, d, strings.NewReader(strings.Repeat("x", len(data))), int64(len(data)))
			stolen = append(stolen, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(data))})
			continue
		}
		h.hostile.reg.SetManifest(loot.name, d, v1.MediaTypeImageManifest, []byte(strings.Repeat("y", len(r.manifests[d]))))
	}
	data, _ := json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: stolen[0], Layers: stolen})
	for _, r := range h.repos {
		if r.name == villain+"/own" {
			r.tags["loot"] = h.put(r, oci.Manifest, "", data)
			r.at.reg.SetTag(r.name, "loot", r.tags["loot"])
		}
	}
	loot.tags["v1"] = h.put(loot, oci.Manifest, "", data)
	h.hostile.reg.SetTag(loot.name, "v1", loot.tags["v1"])
	h.repos = append(h.repos, loot)
}

func (h *harbour) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.rng.Uint32())
	}
	return b
}

// noise is n bytes that have canary in every 64.
func (h *harbour) noise(n int, canary string) []byte {
	var b strings.Builder
	for b.Len() < n {
		line := canary + hex.EncodeToString(h.bytes(16)) + strings.Repeat(".", 64)
		b.WriteString(line[:63] + "\n")
	}
	return []byte(b.String()[:n])
}

// place returns where a repository is, as a name.
func (r *repository) String() string { return fmt.Sprintf("%s/%s", r.at.name, r.name) }
