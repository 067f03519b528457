package main

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// tenants are two organisations with accounts of their own at one registry. All
// that is private to one has its canary in it.
type tenants struct {
	*home
	registry *ocitest.Registry
	images   map[string]ocitest.Pushed
}

func canary(organisation string) string { return "canary-of-" + organisation }

func newTenants(t *testing.T, o ocitest.Options) tenants {
	t.Helper()
	w := tenants{home: newHome(t), images: map[string]ocitest.Pushed{}}
	o.Auth, o.Private, o.Now = ocitest.Bearer, true, w.clock.now
	w.registry = ocitest.New(t, o)
	hub := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer})
	hub.AddImage("library/nginx", "1", ocitest.Image{Layers: []int64{3000}})
	for i, who := range []string{"acme", "globex"} {
		repo := who + "/app"
		small := bytes.Repeat([]byte(canary(who)+" "), 1000)
		large := bytes.Repeat([]byte(canary(who)+" "), 300_000)
		w.images[who] = w.registry.AddImage(repo, canary(who), ocitest.Image{
			Platforms: []string{"linux/amd64", "linux/arm64"}, LayerBytes: [][]byte{small, large}, Seed: uint64(100 + i),
			Annotations: map[string]string{"note": canary(who)},
		})
		w.registry.AddArtifact(repo, w.images[who].Digest, "application/vnd."+canary(who), uint64(i))
		w.registry.AddUser(who+"-bot", who+"-secret", who+"/**")
		w.tenant(who)
		w.credential(who, "ci", "ghcr.io", who+"-bot", who+"-secret")
	}
	w.home.registry("ghcr.io", w.registry)
	w.home.registry("docker.io", hub)
	return w
}

// attacks are paths by which an organisation might get at what is another's.
func (w tenants) attacks(attacker, victim string) []string {
	image := w.images[victim]
	first := image.Platforms[0]
	sum := sha512.Sum512(w.registry.Bytes(image.Repo, first.Layers[0]))
	digests := append(image.Blobs(0), image.Digest, first.Manifest, oci.Digest(fmt.Sprintf("sha512:%x", sum)))
	var paths []string
	add := func(format string, args ...any) { paths = append(paths, fmt.Sprintf(format, args...)) }
	for _, repo := range []string{
		"ghcr.io/" + image.Repo,             // as it is
		victim + "/ghcr.io/" + image.Repo,   // as if it were the victim's own
		attacker + "/ghcr.io/" + image.Repo, // under one's own name
		"ghcr.io/" + attacker + "/app",      // in one's own repository
		"ghcr.io/" + attacker + "/../" + image.Repo, "ghcr.io/" + attacker + "%2f..%2f" + image.Repo,
		"ghcr.io%2f" + image.Repo, "ghcr.io/" + strings.ReplaceAll(image.Repo, "/", "%2F"), "ghcr.io//" + image.Repo,
		"docker.io/" + image.Repo, image.Repo, "docker.io/library/nginx",
	} {
		add("/v2/%s/manifests/%s", repo, canary(victim))
		add("/v2/%s/tags/list", repo)
		add("/v2/%s/tags/list?n=1&last=a", repo)
		for _, d := range digests {
			add("/v2/%s/manifests/%s", repo, d)
			add("/v2/%s/blobs/%s", repo, d)
			add("/v2/%s/referrers/%s", repo, d)
			add("/v2/%s/blobs/%s:%s", repo, d.Algorithm(), strings.ToUpper(d.Encoded()))
			add("/v2/%s/blobs/%s", repo, strings.Replace(d.String(), ":", "%3A", 1))
		}
	}
	for _, d := range digests {
		add("/ghcr.io/v2/%s/blobs/%s", image.Repo, d)
		add("/v2/%s/blobs/%s?ns=ghcr.io", image.Repo, d)
		add("/v2/%s/manifests/%s?ns=ghcr.io", image.Repo, d)
		add("/v2/ghcr.io/%s/manifests/%s?ns=docker.io", image.Repo, d)
	}
	return paths
}

// variants are requests for path that can give content, or tell of it, without
// a plain 200.
func variants(path string) [][]string {
	last := strings.Replace(path[strings.LastIndex(path, "/")+1:], "%3A", ":", 1)
	last, _, _ = strings.Cut(last, "?")
	return [][]string{
		{http.MethodGet}, {http.MethodHead},
		{http.MethodGet, "Range", "bytes=0-0"}, {http.MethodGet, "Range", "bytes=-20"}, {http.MethodGet, "Range", "bytes=0-9,100-109"},
		{http.MethodGet, "If-None-Match", `"` + last + `"`}, {http.MethodHead, "If-None-Match", "*"},
	}
}

// assault tries everything as c, and wants nothing of victim's in any answer.
// What is public, or c's own, may come. most bounds the variants of each path.
func (w tenants) assault(c *client, attacker, victim string, most int) (tried int) {
	w.t.Helper()
	for _, path := range w.attacks(attacker, victim) {
		list := strings.Contains(path, "tags/list") || strings.Contains(path, "/referrers/")
		own := list && !strings.Contains(path, victim) // an empty one
		for _, v := range variants(path)[:most] {
			a := c.do(v[0], path, v[1:]...)
			tried++
			if a.status < 400 && !own {
				w.t.Errorf("%s as %q: that is %s's", a, c.user, victim)
			}
			// The tag is the canary itself, so a message may repeat it.
			said := strings.ReplaceAll(string(a.body), path[strings.LastIndex(path, "/")+1:], "")
			if strings.Contains(said, canary(victim)) || a.header.Get("Docker-Content-Digest") != "" || a.header.Get("Etag") != "" {
				w.t.Errorf("%s as %q tells of %s's: %v %.300q", a.what, c.user, victim, a.header, a.body)
			}
		}
	}
	return tried
}

// Two organisations pull through one node, from one registry. Neither gets a
// byte of the other's, by any path: not with the registry there, and not when it
// is gone and the cache answers alone.
func TestNothingOfAnothers(t *testing.T) {
	t.Parallel()
	for what, o := range map[string]ocitest.Options{
		"hidden by 401":   {Refusal: ocitest.RefuseScope},
		"hidden by 404":   {Refusal: ocitest.RefuseNotFound},
		"refused by 403":  {Refusal: ocitest.RefuseForbidden},
		"refused a token": {Refusal: ocitest.RefuseAtToken},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newTenants(t, o)
			n := w.serve()
			acme, globex := w.as(n, "acme"), w.as(n, "globex")
			acme.mustPull("ghcr.io/acme/app", w.images["acme"], "")
			globex.mustPull("ghcr.io/globex/app", w.images["globex"], "")
			tried := 0
			if what == "hidden by 404" {
				tried += w.assault(globex, "globex", "acme", 7) + w.assault(w.as(n, "acme+ci"), "acme", "globex", 2)
			} else {
				tried += w.assault(globex, "globex", "acme", 2) + w.assault(w.nobody(n), "globex", "acme", 1)
			}
			t.Logf("%d attempts", tried)
			// It is still there for whom it belongs to.
			acme.mustPull("ghcr.io/acme/app", w.images["acme"], "")
			globex.mustPull("ghcr.io/globex/app", w.images["globex"], "")
		})
	}
}

// Who cannot say who it is, gets what is said about nobody.
func TestNobodyElsesName(t *testing.T) {
	t.Parallel()
	w := newTenants(t, ocitest.Options{})
	n := w.serve()
	w.as(n, "acme").mustPull("ghcr.io/acme/app", w.images["acme"], "")
	for _, user := range []string{"acme", "acme+ci", "acme+", "ACME", "acme ", "acme:x", "globex+ci", "globex/acme", "acme\x00"} {
		c := w.as(n, "globex")
		c.user = user // with globex's token
		a := c.get("/v2/ghcr.io/acme/app/blobs/" + w.images["acme"].Platforms[0].Layers[0].String())
		if a.status != http.StatusUnauthorized && a.status != http.StatusForbidden || bytes.Contains(a.body, []byte(canary("acme"))) {
			t.Errorf("%q with globex's token: %s", user, a)
		}
	}
}

// While a download runs, a stranger who wants to join is asked for as itself.
func TestStrangerAtARunningDownload(t *testing.T) {
	t.Parallel()
	w := newTenants(t, ocitest.Options{Refusal: ocitest.RefuseNotFound})
	n := w.serve()
	layer := w.images["acme"].Platforms[0].Layers[1] // larger than 4 MiB: it streams
	path := "/v2/ghcr.io/acme/app/blobs/" + layer.String()
	gate := ocitest.NewGate()
	w.registry.Inject(ocitest.Match{Digest: layer, User: "acme-bot"}, 0, ocitest.Fault{HoldBody: gate, HoldAt: 1 << 20})
	owner := make(chan answer)
	go func() { owner <- w.as(n, "acme").get(path) }()
	if err := w.registry.WaitSent(soon(t), ocitest.Match{Digest: layer}, 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{w.as(n, "globex"), w.nobody(n)} {
		for _, own := range []string{path, "/v2/ghcr.io/globex/app/blobs/" + layer.String()} {
			if a := c.get(own); a.status < 400 || bytes.Contains(a.body, []byte(canary("acme"))) {
				t.Errorf("%q: %s", c.user, a)
			}
		}
	}
	gate.Open()
	if a := <-owner; a.status != http.StatusOK || oci.DigestOf(a.body) != layer {
		t.Errorf("the owner: %d, %d bytes, %v", a.status, len(a.body), a.err)
	}
}

// With the registry gone the cache answers alone, and knows whose is whose.
func TestNothingOfAnothersWhenTheRegistryIsGone(t *testing.T) {
	t.Parallel()
	w := newTenants(t, ocitest.Options{})
	n := w.serve()
	w.as(n, "acme").mustPull("ghcr.io/acme/app", w.images["acme"], "")
	w.as(n, "globex").mustPull("ghcr.io/globex/app", w.images["globex"], "")
	// No reply would be tried again, four times each; this is final at once.
	w.registry.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "100"))
	w.assault(w.as(n, "globex"), "globex", "acme", 2)
	w.clock.forward(10 * time.Minute)
	w.assault(w.as(n, "globex"), "globex", "acme", 1)
	w.assault(w.nobody(n), "globex", "acme", 1)
	w.as(n, "acme").mustPull("ghcr.io/acme/app", w.images["acme"], "")
}
