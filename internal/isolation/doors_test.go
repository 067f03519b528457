package isolation_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/internal/ocitest"
	"berth/oci"
)

// vault is acme's private image, and bolt, who has an account at the same
// registry, a repository there and a registry of its own.
type vault struct {
	*world

	t                *testing.T
	reg, own         *place
	img              ocitest.Pushed
	acme             *account
	canary           []byte
	layer, artifact  oci.Digest
	manifest, public oci.Digest
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{world: newWorld(t), t: t, canary: []byte("CANARY-of-acme-")}
	v.reg = v.registry("reg.example", "", ocitest.Options{Auth: ocitest.Bearer, Private: true, LiveRights: true})
	secret := bytes.Repeat(append(bytes.Clone(v.canary), '\n'), 400)
	v.img = v.reg.reg.AddImage("acme/app", "v1", ocitest.Image{LayerBytes: [][]byte{secret}, Annotations: map[string]string{"owner": string(v.canary)}})
	v.layer, v.manifest = v.img.Platforms[0].Layers[0], v.img.Platforms[0].Manifest
	v.artifact = v.reg.reg.AddArtifact("acme/app", v.manifest, "application/vnd.sbom", 1)
	for _, name := range []string{"acme", "bolt"} {
		v.organisation(name)
	}
	v.acme = v.account("acme", "main", v.reg, "acme/app")
	v.account("bolt", "main", v.reg, "bolt/own")
	v.own = v.registry("bolt.example", "bolt", ocitest.Options{})
	// What bolt controls names acme's layer, and its own registry claims to have it.
	names, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: v.layer, Size: int64(len(secret))},
		Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: v.layer, Size: int64(len(secret))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	v.public = v.reg.reg.AddManifest("bolt/own", "v1", v1.MediaTypeImageManifest, names)
	v.own.reg.AddManifest("bolt/own", "v1", v1.MediaTypeImageManifest, names)
	v.own.reg.SetBlob("bolt/own", v.layer, bytes.NewReader(make([]byte, len(secret))), int64(len(secret)))
	v.own.reg.SetManifest("bolt/own", v.manifest, v1.MediaTypeImageManifest, make([]byte, 500))
	v.start()
	// bolt's own things are what it has proven.
	for _, where := range []string{"reg.example", "bolt.example"} {
		if a := v.as("bolt").get("/v2/" + where + "/bolt/own/manifests/v1"); !a.ok() {
			t.Fatal(a)
		}
	}
	return v
}

// warm lets acme pull all that is its own.
func (v *vault) warm() {
	v.t.Helper()
	c := v.as("acme")
	if a := c.pull("reg.example/acme/app", v.img, 0); !a.ok() {
		v.t.Fatal(a)
	}
	if a := c.get("/v2/reg.example/acme/app/manifests/" + v.artifact.String()); !a.ok() {
		v.t.Fatal(a)
	}
}

// requestID is what differs between two answers that are the same.
var requestID = regexp.MustCompile(`\[[a-z2-7]{5}\]`)

// told is all that an answer tells, but what no two answers share.
func (a answer) told() string {
	h := a.header.Clone()
	for _, name := range []string{"Date", "X-Request-Id"} {
		if a.err == nil && len(h[name]) != 1 {
			return "no " + name
		}
		h.Del(name)
	}
	var b bytes.Buffer
	_ = h.Write(&b) // into memory
	return fmt.Sprintf("%d\n%s\n%s\n%v", a.status, b.String(), requestID.ReplaceAll(a.body, []byte("[id]")), a.err)
}

// TestSideDoors goes around the check in every way known, once where nothing is
// cached and once where everything is: nothing of acme's comes out, and nobody
// can tell which of the two it was.
func TestSideDoors(t *testing.T) {
	t.Parallel()
	cold, warm := newVault(t), newVault(t)
	warm.warm()
	v := cold
	hash := func(d oci.Digest) string { return d.String() }
	sum := sha512.Sum512(v.reg.reg.Bytes("acme/app", v.layer))
	long := "sha512:" + hex.EncodeToString(sum[:])
	upper := "sha256:" + strings.ToUpper(v.layer.Encoded())
	quoted := strconv.Quote(hash(v.layer))
	const its, own, liar = "/v2/reg.example/acme/app", "/v2/reg.example/bolt/own", "/v2/bolt.example/bolt/own"
	doors := []struct {
		name   string
		method string
		path   string
		header []string
	}{
		{"by tag", "GET", its + "/manifests/v1", nil},
		{"by digest", "GET", its + "/manifests/" + hash(v.manifest), nil},
		{"the layer", "GET", its + "/blobs/" + hash(v.layer), nil},
		{"the config", "GET", its + "/blobs/" + hash(v.img.Platforms[0].Config), nil},
		{"HEAD by tag", "HEAD", its + "/manifests/v1", nil},
		{"HEAD by digest", "HEAD", its + "/manifests/" + hash(v.manifest), nil},
		{"HEAD of the layer", "HEAD", its + "/blobs/" + hash(v.layer), nil},
		{"a range", "GET", its + "/blobs/" + hash(v.layer), []string{"Range", "bytes=0-99"}},
		{"one byte", "GET", its + "/blobs/" + hash(v.layer), []string{"Range", "bytes=0-0"}},
		{"a suffix", "GET", its + "/blobs/" + hash(v.layer), []string{"Range", "bytes=-100"}},
		{"the rest", "GET", its + "/blobs/" + hash(v.layer), []string{"Range", "bytes=50-"}},
		{"two ranges", "GET", its + "/blobs/" + hash(v.layer), []string{"Range", "bytes=0-9,20-29"}},
		{"beyond the end", "GET", its + "/blobs/" + hash(v.layer), []string{"Range", "bytes=99999999-"}},
		{"a range of the manifest", "GET", its + "/manifests/" + hash(v.manifest), []string{"Range", "bytes=0-99"}},
		{"If-None-Match", "GET", its + "/blobs/" + hash(v.layer), []string{"If-None-Match", quoted}},
		{"If-None-Match *", "GET", its + "/blobs/" + hash(v.layer), []string{"If-None-Match", "*"}},
		{"HEAD If-None-Match", "HEAD", its + "/blobs/" + hash(v.layer), []string{"If-None-Match", quoted}},
		{"If-Match", "GET", its + "/blobs/" + hash(v.layer), []string{"If-Match", `"other"`}},
		{"If-Range", "GET", its + "/blobs/" + hash(v.layer), []string{"If-Range", quoted, "Range", "bytes=0-99"}},
		{"If-Range of another", "GET", its + "/blobs/" + hash(v.layer), []string{"If-Range", `"other"`, "Range", "bytes=0-99"}},
		{"manifest If-None-Match", "GET", its + "/manifests/" + hash(v.manifest), []string{"If-None-Match", strconv.Quote(hash(v.manifest))}},
		{"tag list", "GET", its + "/tags/list", nil},
		{"a page of the tag list", "GET", its + "/tags/list?n=1&last=a", nil},
		{"referrers", "GET", its + "/referrers/" + hash(v.manifest), nil},
		{"referrers by type", "GET", its + "/referrers/" + hash(v.manifest) + "?artifactType=application/vnd.sbom", nil},
		{"referrers from the own repository", "GET", own + "/referrers/" + hash(v.manifest), nil},
		{"the artifact", "GET", its + "/manifests/" + hash(v.artifact), nil},
		{"manifest under blobs", "GET", its + "/blobs/" + hash(v.manifest), nil},
		{"blob under manifests", "GET", its + "/manifests/" + hash(v.layer), nil},
		{"config under manifests", "GET", its + "/manifests/" + hash(v.img.Platforms[0].Config), nil},
		{"HEAD of a blob under manifests", "HEAD", its + "/manifests/" + hash(v.layer), nil},
		{"own repository, layer", "GET", own + "/blobs/" + hash(v.layer), nil},
		{"own repository, HEAD", "HEAD", own + "/blobs/" + hash(v.layer), nil},
		{"own repository, range", "GET", own + "/blobs/" + hash(v.layer), []string{"Range", "bytes=0-99"}},
		{"own repository, manifest", "GET", own + "/manifests/" + hash(v.manifest), nil},
		{"own repository, manifest under blobs", "GET", own + "/blobs/" + hash(v.manifest), nil},
		{"own repository, blob under manifests", "GET", own + "/manifests/" + hash(v.layer), nil},
		{"own registry, layer", "GET", liar + "/blobs/" + hash(v.layer), nil},
		{"own registry, HEAD", "HEAD", liar + "/blobs/" + hash(v.layer), nil},
		{"own registry, suffix", "GET", liar + "/blobs/" + hash(v.layer), []string{"Range", "bytes=-100"}},
		{"own registry, manifest", "GET", liar + "/manifests/" + hash(v.manifest), nil},
		{"own registry, blob under manifests", "GET", liar + "/manifests/" + hash(v.layer), nil},
		{"sha512", "GET", its + "/blobs/" + long, nil},
		{"sha512 in the own repository", "GET", own + "/blobs/" + long, nil},
		{"upper case", "GET", its + "/blobs/" + upper, nil},
		{"upper case in the own repository", "GET", own + "/blobs/" + upper, nil},
		{"upper-case algorithm", "GET", own + "/blobs/SHA256:" + v.layer.Encoded(), nil},
		{"encoded slash", "GET", "/v2/reg.example/bolt%2Fown/../../acme/app/blobs/" + hash(v.layer), nil},
		{"encoded slashes", "GET", "/v2/reg.example/acme%2Fapp/blobs/" + hash(v.layer), nil},
		{"encoded dots", "GET", own + "/%2e%2e/%2e%2e/acme/app/blobs/" + hash(v.layer), nil},
		{"dots", "GET", own + "/../../acme/app/blobs/" + hash(v.layer), nil},
		{"encoded colon", "GET", own + "/blobs/sha256%3A" + v.layer.Encoded(), nil},
		{"double encoding", "GET", "/v2/reg.example/acme%252Fapp/blobs/" + hash(v.layer), nil},
		{"empty components", "GET", "/v2/reg.example//acme/app/blobs/" + hash(v.layer), nil},
		{"its name in front", "GET", "/v2/acme/reg.example/acme/app/blobs/" + hash(v.layer), nil},
		{"own name in front", "GET", "/v2/bolt/reg.example/acme/app/blobs/" + hash(v.layer), nil},
		{"ns", "GET", "/v2/acme/app/blobs/" + hash(v.layer) + "?ns=reg.example", nil},
		{"path before", "GET", "/reg.example/v2/acme/app/blobs/" + hash(v.layer), nil},
		{"mount", "POST", own + "/blobs/uploads/?mount=" + hash(v.layer) + "&from=acme/app", nil},
		{"push", "PUT", own + "/manifests/v2", nil},
		{"no account", "GET", its + "/blobs/" + hash(v.layer), []string{"X-Organisation", "acme", "X-Registry-Auth", "e30="}},
	}
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			var told []string
			for _, w := range []*vault{cold, warm} {
				a := w.as("bolt").do(d.method, d.path, d.header...)
				if a.status < 400 && (!strings.Contains(d.path, "bolt.example") && !strings.Contains(d.path, "own/referrers") || a.status == http.StatusNotModified) {
					t.Errorf("not refused: %s", a)
				}
				if bytes.Contains(a.everything(), v.canary) {
					t.Errorf("what is acme's: %s", a)
				}
				told = append(told, a.told())
			}
			if told[0] != told[1] {
				t.Errorf("one can tell whether it is cached: without\n%s\nand with\n%s", told[0], told[1])
			}
		})
	}
	for _, w := range []*vault{cold, warm} { // which takes nothing from acme
		w.warm()
	}
}

// A refusal is the same to the byte whether or not the content is in the cache,
// for one with an account, one without, and for each way of refusing.
func TestDenialLooksTheSame(t *testing.T) {
	t.Parallel()
	for _, how := range []ocitest.Refusal{ocitest.RefuseScope, ocitest.RefuseForbidden, ocitest.RefuseNotFound, ocitest.RefuseAtToken} {
		cold, warm := newVault(t), newVault(t)
		warm.warm()
		for _, v := range []*vault{cold, warm} {
			v.reg.reg.SetRefusal(how)
			v.organisation("crux")
			v.configure()
		}
		for _, who := range []string{"bolt", "crux"} {
			for _, d := range []string{"manifests/v1", "manifests/" + cold.manifest.String(), "blobs/" + cold.layer.String(), "tags/list", "referrers/" + cold.manifest.String()} {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					for range 2 { // asked, and remembered
						one := cold.as(who).do(method, "/v2/reg.example/acme/app/"+d)
						other := warm.as(who).do(method, "/v2/reg.example/acme/app/"+d)
						if one.told() != other.told() || one.status != http.StatusForbidden && one.status != http.StatusNotFound {
							t.Errorf("refusal %d, %s: uncached\n%s\ncached\n%s", how, who, one.told(), other.told())
						}
					}
				}
			}
		}
	}
}

// A 2xx to a request that was sent before a denial came is no proof after it.
func TestSlowProofAfterDenial(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.warm()
	v.clock.forward(accessTTL + 1)
	gate := ocitest.NewGate()
	data := v.reg.reg.Bytes("acme/app", v.manifest)
	slow := v.reg.reg.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodHead}, 1, ocitest.Fault{
		Hold: gate, Status: http.StatusOK, Length: int64(len(data)),
		Header: http.Header{"Content-Type": {v1.MediaTypeImageManifest}, "Docker-Content-Digest": {v.manifest.String()}},
	})
	var late answer
	var all sync.WaitGroup
	c := v.as("acme")
	all.Go(func() { late = c.get("/v2/reg.example/acme/app/manifests/v1") })
	if err := gate.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	user, _ := v.acme.get()
	v.reg.reg.SetRights(user)
	if a := c.get("/v2/reg.example/acme/app/blobs/" + v.layer.String()); a.status != http.StatusForbidden {
		t.Errorf("revoked: %s", a)
	}
	gate.Open()
	all.Wait()
	if slow.Hits() != 1 {
		t.Fatal("the slow answer was not given")
	}
	if late.status < 400 || bytes.Contains(late.everything(), v.canary) {
		t.Errorf("the proof that came late counted: %s", late)
	}
	v.reg.reg.Inject(ocitest.Match{}, 0, ocitest.Status(503, "Retry-After", "30"))
	for _, what := range []string{"manifests/v1", "manifests/" + v.manifest.String(), "blobs/" + v.layer.String()} {
		if a := c.get("/v2/reg.example/acme/app/" + what); a.status < 400 {
			t.Errorf("and was kept: %s", a)
		}
	}
}

// A stranger who asks for what is just being downloaded is asked for a proof of
// their own, and the download goes on.
func TestStrangerAtARunningFill(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	big := bytes.Repeat(append(bytes.Clone(v.canary), '\n'), 600<<10) // sent before it is verified
	d := v.reg.reg.AddBlob("acme/app", big)
	gate := ocitest.NewGate()
	v.reg.reg.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: d, User: "user-acme-main"}, 1, ocitest.Fault{HoldBody: gate, HoldAt: 3 << 20})
	var whole answer
	var all sync.WaitGroup
	acme, bolt := v.as("acme"), v.as("bolt")
	all.Go(func() { whole = acme.get("/v2/reg.example/acme/app/blobs/" + d.String()) })
	if err := gate.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"acme/app", "bolt/own"} {
		for _, header := range [][]string{nil, {"Range", "bytes=0-99"}, {"Range", "bytes=-99"}, {"Range", "bytes=0-1,5-6"}} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				a := bolt.do(method, "/v2/reg.example/"+path+"/blobs/"+d.String(), header...)
				if a.status != http.StatusForbidden && a.status != http.StatusNotFound || bytes.Contains(a.everything(), v.canary) {
					t.Errorf("joined: %s", a)
				}
			}
		}
	}
	gate.Open()
	all.Wait()
	if !whole.ok() || !bytes.Equal(whole.body, big) {
		t.Errorf("acme: %d, %d bytes, %v", whole.status, len(whole.body), whole.err)
	}
}

// An answer to a secret that was replaced while it was on its way proves
// nothing for the one that came after.
func TestSecretChangedInMidRequest(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.warm()
	v.clock.forward(accessTTL + 1)
	gate := v.reg.reg.Hold(ocitest.Match{Kind: ocitest.Manifest})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	c := v.as("acme")
	var during answer
	all.Go(func() { during = c.within(ctx, http.MethodGet, "/v2/reg.example/acme/app/manifests/v1") })
	if err := gate.Wait(ctx, 1); err != nil {
		t.Fatal(err)
	}
	v.acme.set("user-acme-main", "another one")
	gate.Open()
	all.Wait()
	if during.status == http.StatusOK && bytes.Contains(during.body, v.canary) && v.reg.reg.Count(ocitest.Match{Kind: ocitest.Manifest, Status: http.StatusOK}) == 0 {
		t.Errorf("served for nothing: %s", during)
	}
	v.reg.reg.Inject(ocitest.Match{}, 0, ocitest.Status(503, "Retry-After", "30"))
	for _, what := range []string{"manifests/v1", "manifests/" + v.manifest.String(), "blobs/" + v.layer.String()} {
		if a := c.get("/v2/reg.example/acme/app/" + what); a.status < 400 {
			t.Errorf("the proof of another secret counted: %s", a)
		}
	}
}

// Two who may have one blob wait for one download, which fails for the one it
// was begun as: the other is not told of the one's repository or account.
func TestSharedDownloadFails(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	big := bytes.Repeat([]byte("everybody's "), 500<<10)
	d := v.reg.reg.AddBlob("acme/app", big)
	v.reg.reg.AddBlob("bolt/own", big)
	gate := ocitest.NewGate()
	v.reg.reg.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: d, Where: func(r ocitest.Request) bool { return r.Range != "bytes=0-0" }}, 0,
		ocitest.Fault{Hold: gate, Status: http.StatusOK, Body: []byte("<html>log in"), Header: http.Header{"Content-Type": {"text/html"}}})
	var all sync.WaitGroup
	var told [2]answer
	for i, who := range []struct{ org, repo string }{{"acme", "acme/app"}, {"bolt", "bolt/own"}} {
		c := v.as(who.org)
		all.Go(func() { told[i] = c.get("/v2/reg.example/" + who.repo + "/blobs/" + d.String()) })
		if err := v.reg.reg.WaitFor(t.Context(), ocitest.Match{Kind: ocitest.Blob, Digest: d, User: "user-" + who.org + "-main"}, 1); err != nil {
			t.Fatal(err)
		}
	}
	gate.Open()
	all.Wait()
	for i, other := range []string{"bolt", "acme"} {
		if told[i].status < 400 || bytes.Contains(told[i].everything(), []byte(other)) {
			t.Errorf("told of %s: %s", other, told[i])
		}
	}
}
