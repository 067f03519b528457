package isolation_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	orasremote "oras.land/oras-go/v2/registry/remote"
	orasauth "oras.land/oras-go/v2/registry/remote/auth"

	"berth/internal/ocitest"
	"berth/internal/ocitest/zoo"
	"berth/oci"
)

// standIn is a node in front of one stand-in: acme may read the image there, globex has
// an account that may read nothing, and initech has none.
type standIn struct {
	zoo.Populated
	w   *world
	t   *testing.T
	nth int // of the stand-ins
}

// TestZoo_ThroughTheNode: what users do at each kind of registry, by two libraries that
// look closely, through all of a node.
func TestZoo_ThroughTheNode(t *testing.T) {
	at, wait := ocitest.Overlap(t, 8)
	defer wait()
	for nth, s := range zoo.StandIns() {
		for does, run := range map[string]func(*standIn){
			"pulls": (*standIn).pulls, "lists": (*standIn).lists, "signatures": (*standIn).signatures,
			"is refused": (*standIn).isRefused, "is limited": (*standIn).isLimited, "an outage": (*standIn).outage,
		} {
			at(s.Name+"/"+does, func(t *testing.T) {
				w := newWorld(t)
				i := &standIn{t: t, w: w, nth: nth, Populated: s.Open(t, func(o *ocitest.Options) { o.Now = w.clock.now })}
				for _, o := range []string{"acme", "globex", "initech"} {
					w.organisation(o)
				}
				p := w.add("reg.test", "", i.Registry, kind(s.Type))
				for who, user := range map[string]string{"acme": zoo.Bot, "globex": zoo.Guest} {
					a := &account{name: "main", organisation: who, registry: p.name}
					a.set(user, zoo.Password(user))
					w.accounts = append(w.accounts, a)
				}
				w.start()
				run(i)
			})
		}
	}
}

func (i *standIn) host() string { return strings.TrimPrefix(i.w.base, "http://") }

func (i *standIn) ref(reference string) name.Reference {
	i.t.Helper()
	ref, err := name.ParseReference(i.host()+"/reg.test/"+zoo.Repo+reference, name.Insecure)
	if err != nil {
		i.t.Fatal(err)
	}
	return ref
}

// options are those of go-containerregistry, as acme.
func (i *standIn) options(more ...remote.Option) []remote.Option {
	rt := &http.Transport{}
	i.t.Cleanup(rt.CloseIdleConnections)
	return append([]remote.Option{
		remote.WithAuth(&authn.Basic{Username: "acme", Password: i.w.tokens["acme"]}), remote.WithTransport(rt), remote.WithContext(i.t.Context()),
	}, more...)
}

// repository is that of oras, as acme.
func (i *standIn) repository() *orasremote.Repository {
	i.t.Helper()
	r, err := orasremote.NewRepository(i.host() + "/reg.test/" + zoo.Repo)
	if err != nil {
		i.t.Fatal(err)
	}
	rt := &http.Transport{}
	i.t.Cleanup(rt.CloseIdleConnections)
	r.PlainHTTP = true
	r.Client = &orasauth.Client{
		Client:     &http.Client{Transport: rt},
		Credential: orasauth.StaticCredential(i.host(), orasauth.Credential{Username: "acme", Password: i.w.tokens["acme"]}),
	}
	return r
}

// image reads all of an image, which go-containerregistry holds against the digests.
func (i *standIn) image(img v1.Image, err error) {
	i.t.Helper()
	if err != nil {
		i.t.Error(err)
		return
	}
	layers, err := img.Layers()
	if err != nil || len(layers) == 0 {
		i.t.Errorf("%d layers, %v", len(layers), err)
	}
	for _, l := range layers {
		content, err := l.Compressed()
		if err != nil {
			i.t.Error(err)
			continue
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			i.t.Error(err)
		}
		_ = content.Close()
	}
}

func (i *standIn) pulls() {
	for turn, reference := range []string{":v1", ":v1", "@" + i.Image.Digest.String()} {
		before := i.Count(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Method == http.MethodGet }})
		index, err := remote.Index(i.ref(reference), i.options()...)
		if err != nil {
			i.t.Fatal(err)
		}
		for _, p := range i.Image.Platforms {
			i.image(index.Image(v1.Hash{Algorithm: "sha256", Hex: p.Manifest.Encoded()}))
		}
		if n := i.Count(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Method == http.MethodGet }}) - before; turn > 0 && n > 0 {
			i.t.Errorf("%s costs %d GETs when all of it is here", reference, n)
		}
		copied := memory.New()
		if d, err := oras.Copy(i.t.Context(), i.repository(), strings.TrimLeft(reference, ":@"), copied, "", oras.DefaultCopyOptions); err != nil || d.Digest.String() != i.Image.Digest.String() {
			i.t.Errorf("oras: %s, %v", d.Digest, err)
		}
	}
}

func (i *standIn) lists() {
	repo := i.ref(":v1").Context()
	tags, err := remote.List(repo, i.options(remote.WithPageSize(2))...)
	if i.NoTags != oci.Unclassified {
		problem, ok := errors.AsType[*transport.Error](err)
		if !ok || problem.StatusCode != i.NoTags.Status() {
			i.t.Errorf("%v, want %d", err, i.NoTags.Status())
		}
		if _, err := remote.Index(i.ref(":v1"), i.options()...); err != nil {
			i.t.Errorf("a refused list stops pulls: %v", err)
		}
		return
	}
	for _, tag := range []string{"v1", "v2", "v3", "v4"} {
		if !slices.Contains(tags, tag) {
			i.t.Errorf("the tags are %v, %v", tags, err)
		}
	}
	_, err = remote.List(repo, i.options(remote.WithPageSize(1000))...)
	if refused := err != nil && strings.Contains(err.Error(), "max is 100"); refused != (i.MaxPage > 0) {
		i.t.Errorf("a page of 1000: %v", err)
	}
}

func (i *standIn) signatures() {
	subject := i.ref("@" + i.Image.Digest.String())
	index, err := remote.Referrers(subject.(name.Digest), i.options()...)
	if err != nil {
		i.t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil || !slices.ContainsFunc(list.Manifests, func(d v1.Descriptor) bool { return d.Digest.String() == i.Signature.String() }) {
		i.t.Errorf("go-containerregistry finds %+v, %v", list, err)
	}
	of := ocispec.Descriptor{MediaType: i.Image.MediaType, Digest: i.Image.Digest, Size: int64(len(i.Bytes(zoo.Repo, i.Image.Digest)))}
	found := false
	err = i.repository().Referrers(i.t.Context(), of, "", func(all []ocispec.Descriptor) error {
		found = found || slices.ContainsFunc(all, func(d ocispec.Descriptor) bool { return d.Digest.String() == i.Signature.String() })
		return nil
	})
	if err != nil || !found {
		i.t.Errorf("oras finds no signature: %v", err)
	}
	copied := memory.New()
	if _, err := oras.ExtendedCopy(i.t.Context(), i.repository(), "v1", copied, "v1", oras.DefaultExtendedCopyOptions); err != nil {
		i.t.Errorf("copying an image with its signature: %v", err)
	}
	if d, err := copied.Resolve(i.t.Context(), "v1"); err != nil || d.Digest.String() != i.Image.Digest.String() {
		i.t.Errorf("the copy is %s, %v", d.Digest, err)
	}
	if all, err := copied.Predecessors(i.t.Context(), of); err != nil || !slices.ContainsFunc(all, func(d ocispec.Descriptor) bool { return d.Digest.String() == i.Signature.String() }) {
		i.t.Errorf("the copy has no signature: %v, %v", all, err)
	}
	tag := ":sha256-" + i.Image.Digest.Encoded() + ".sig" // cosign's own, older than referrers
	if d, err := remote.Get(i.ref(tag), i.options()...); err != nil || d.Digest.String() != i.Signature.String() {
		i.t.Errorf("%s: %v", tag, err)
	}
}

const anImage = "/v2/reg.test/" + zoo.Repo + "/manifests/"

func (i *standIn) isRefused() {
	if _, err := remote.Index(i.ref(":v1"), i.options()...); err != nil {
		i.t.Fatal(err) // it is here from now on
	}
	for who, says := range map[string]string{"globex": "denied account", "initech": "add one to"} {
		for _, path := range []string{anImage + "v1", anImage + i.Image.Digest.String(), "/v2/reg.test/" + zoo.Repo + "/blobs/" + i.Image.Platforms[0].Layers[0].String()} {
			a := i.w.as(who).get(path)
			if i.Refused == oci.Unclassified {
				if a.status != http.StatusOK {
					i.t.Errorf("%s, where everyone may read everything", a)
				}
				continue
			}
			if a.status != http.StatusForbidden || !strings.Contains(string(a.body), says) || !strings.Contains(string(a.body), "organisation "+who) || strings.Contains(string(a.body), "s3cret") {
				i.t.Errorf("%s, want 403 and %s", a, says)
			}
		}
	}
	if _, err := remote.Index(i.ref(":v1"), i.options()...); err != nil {
		i.t.Errorf("whoever may: %v", err)
	}
}

func (i *standIn) isLimited() {
	if _, err := remote.Index(i.ref(":v1"), i.options()...); err != nil {
		i.t.Fatal(err)
	}
	// A HEAD is not in Docker Hub's pull limit, and tells whether the right is still there.
	heads := i.Name != "Docker Hub"
	content := ocitest.Match{Where: func(q ocitest.Request) bool {
		return q.Server != ocitest.CDNServer && q.Kind != ocitest.Ping && q.Kind != ocitest.Token && (heads || q.Method != http.MethodHead)
	}}
	i.Inject(content, 0, i.Limited)
	c := i.w.as("acme")
	before := 0
	for turn := range 6 {
		a := c.get(anImage + i.Image.Platforms[1].Manifest.String())
		if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "TOOMANYREQUESTS") {
			i.t.Errorf("%s %v", a, a.header)
		}
		if n := i.Count(content); turn > 0 && n > before {
			i.t.Errorf("asked %d times while it is known that there are too many", n-before)
		} else {
			before = n
		}
	}
	if a := c.get(anImage + "v1"); a.status != http.StatusOK {
		i.t.Errorf("what is here: %s", a)
	}
}

func (i *standIn) outage() {
	c := i.w.as("acme")
	if a := c.get(anImage + "v1"); a.status != http.StatusOK {
		i.t.Fatal(a)
	}
	page := ocitest.Fault{Status: http.StatusBadGateway, Body: []byte("<html>Bad Gateway</html>"), Header: http.Header{"Content-Type": {"text/html"}}}
	i.w.clock.forward(10 * time.Minute)
	dead := i.Inject(ocitest.Match{}, 0, []ocitest.Fault{ocitest.Status(http.StatusServiceUnavailable), page, ocitest.Drop()}[i.nth%3])
	if a := c.get(anImage + "v1"); a.status != http.StatusOK || a.header.Get("Warning") == "" {
		i.t.Errorf("%s %v", a, a.header)
	}
	if a := c.get(anImage + i.Image.Platforms[0].Manifest.String()); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		i.t.Errorf("what is not here: %s", a)
	}
	dead.Remove()
	i.comesBack(c)
}

// comesBack wants a fresh answer before long: whoever is in trouble is left alone for a
// moment.
func (i *standIn) comesBack(c *client) {
	i.t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for limit := time.After(time.Minute); ; {
		a := c.get(anImage + "v1")
		if a.status == http.StatusOK && a.header.Get("Warning") == "" {
			return
		}
		select {
		case <-again.C:
		case <-limit:
			i.t.Errorf("afterwards: %s %v", a, a.header)
			return
		}
	}
}
