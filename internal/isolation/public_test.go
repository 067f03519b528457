package isolation_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/upstream/dialect"
)

// Names that are in no other word, so that finding one is finding it.
func tenants(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("tenant%02d", i)
	}
	return all
}

// hub is a registry with a token server, a CDN and a pull limit.
func hub(w *world) *place {
	return w.registry("docker.io", "", ocitest.Options{
		Auth: ocitest.Bearer, TokenServer: true, LiveRights: true, CDN: ocitest.CDNSame, PullLimit: 1000,
	}, uniform, kind(dialect.DockerHub))
}

// pull fetches a tag as an engine does: HEAD, index, manifest, blobs. It returns
// the first answer that is not a success.
func (c *client) pull(repo string, img ocitest.Pushed, platform int) answer {
	path := "/v2/" + repo
	a := c.head(path + "/manifests/" + img.Tag)
	if a.status != http.StatusOK || a.err != nil {
		return a
	}
	index := a.header.Get("Docker-Content-Digest")
	paths := []string{"/manifests/" + index}
	if p := img.Platforms[platform]; string(p.Manifest) != index {
		paths = append(paths, "/manifests/"+p.Manifest.String())
	}
	for _, d := range img.Blobs(platform) {
		paths = append(paths, "/blobs/"+d.String())
	}
	for _, p := range paths {
		want, _ := oci.ParseDigest(p[strings.LastIndexByte(p, '/')+1:])
		a = c.get(path + p)
		if a.status != http.StatusOK || a.err != nil {
			return a
		}
		if got := oci.DigestOf(a.body); got != want {
			a.err = fmt.Errorf("the bytes have the digest %s", got)
			return a
		}
	}
	return a
}

func (a answer) ok() bool { return a.status == http.StatusOK && a.err == nil }

// Twenty organisations pull one public tag, half of them with an account: what
// Docker Hub counts happens once for each manifest, and what each principal asks for
// itself once in a minute.
func TestPublicImageCostsTwoPulls(t *testing.T) {
	w := newWorld(t)
	h := hub(w)
	names := tenants(20)
	for i, name := range names {
		w.organisation(name)
		if i%2 == 0 {
			w.account(name, "main", h)
		}
	}
	img := h.reg.AddImage("library/app", "v1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{9000, 70000}})
	w.start()
	everybody := func() {
		t.Helper()
		var all sync.WaitGroup
		for _, name := range names {
			c := w.as(name)
			all.Go(func() {
				if a := c.pull("docker.io/library/app", img, 0); !a.ok() {
					t.Errorf("%s: %s", name, a)
				}
			})
		}
		all.Wait()
	}
	principals := len(names)/2 + 1
	heads := func() map[string]int {
		by := map[string]int{}
		for _, r := range h.reg.Requests(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodHead, Status: http.StatusOK}) {
			by[r.User+" "+r.Tag+r.Digest.String()]++
		}
		return by
	}
	everybody()
	if n := h.reg.Count(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet, Server: ocitest.RegistryServer}); n != 2 {
		t.Errorf("%d manifests were fetched, which count, instead of 2", n)
	}
	first := heads()
	if n := h.reg.Count(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodHead, Tag: "v1", Status: http.StatusOK}); n != principals {
		t.Errorf("%d principals asked for the tag instead of %d: %v", n, principals, first)
	}
	for principal, n := range first {
		if n > 1 {
			t.Errorf("%q asked %d times", principal, n)
		}
	}
	everybody()
	if now := heads(); fmt.Sprint(now) != fmt.Sprint(first) {
		t.Errorf("a warm pull went upstream: %v after %v", now, first)
	}
	w.clock.forward(61 * time.Second)
	everybody()
	for principal, n := range heads() {
		if n > 2 {
			t.Errorf("%q asked %d times in two minutes", principal, n)
		}
	}
	for _, d := range img.Blobs(0) {
		if n, size := h.reg.BlobBytes(d), int64(len(h.reg.Bytes("library/app", d))); n > size+int64(principals) {
			t.Errorf("%d bytes of %s were fetched, which has %d", n, d, size)
		}
	}
}

// Whatever goes wrong for those who share a principal, a download or a remembered
// answer: nobody is told another's name.
func TestMessagesNameNobodyElse(t *testing.T) {
	t.Parallel()
	faults := map[string]ocitest.Fault{
		"missing":   {},
		"forbidden": ocitest.Problem(http.StatusForbidden, "DENIED", "denied"),
		"hidden":    ocitest.Problem(http.StatusNotFound, "NAME_UNKNOWN", "no such repository"),
		"limited":   ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit", "Retry-After", "60"),
		"trouble":   ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "60"),
		"page":      {Status: http.StatusOK, Body: []byte("<html>log in</html>"), Header: http.Header{"Content-Type": {"text/html"}}},
		"elsewhere": ocitest.Status(http.StatusTemporaryRedirect, "Location", "http://127.0.0.1:1/nothing"),
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := hub(w)
			names := tenants(6)
			for i, name := range names {
				w.organisation(name)
				if i >= 4 {
					w.account(name, "acct"+name, h)
				}
			}
			img := h.reg.AddImage("library/app", "v1", ocitest.Image{Layers: []int64{9000}})
			h.reg.AddImage("library/twin", "v1", ocitest.Image{Layers: []int64{9000}})
			w.start()
			gate := ocitest.NewGate()
			missing := name == "missing"
			if !missing {
				fault.Hold = gate
				h.reg.Inject(ocitest.Match{Kind: ocitest.Manifest}, 0, fault)
				h.reg.Inject(ocitest.Match{Kind: ocitest.Blob, Server: ocitest.RegistryServer}, 0, fault)
			}
			nothing := oci.DigestOf([]byte("nothing"))
			paths := []string{
				"library/app/manifests/v1", "library/app/manifests/" + img.Digest.String(),
				"library/app/blobs/" + img.Platforms[0].Layers[0].String(), "library/twin/blobs/" + img.Platforms[0].Layers[0].String(),
			}
			if missing {
				gate = h.reg.Hold(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Kind == ocitest.Manifest || q.Kind == ocitest.Blob }})
				paths = []string{"library/app/manifests/none", "library/app/manifests/" + nothing.String(), "library/app/blobs/" + nothing.String(), "library/none/manifests/v1"}
			}
			check := func(who string, a answer) {
				if a.err != nil || a.status < 400 {
					t.Errorf("%s", a)
				}
				for _, other := range names {
					if other != who && strings.Contains(string(a.everything()), other) {
						t.Errorf("%s is told of %s: %s", who, other, a)
					}
				}
			}
			var all sync.WaitGroup
			for _, path := range paths {
				for _, who := range names {
					c := w.as(who)
					all.Go(func() { check(who, c.get("/v2/docker.io/"+path)) })
				}
			}
			if err := gate.Wait(t.Context(), 1); err != nil {
				t.Error(err)
			}
			gate.Open()
			all.Wait()
			for _, path := range paths { // and what is remembered
				for _, who := range names {
					check(who, w.as(who).get("/v2/docker.io/"+path))
				}
			}
		})
	}
}
