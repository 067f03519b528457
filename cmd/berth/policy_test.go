package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// routesTo are the ways to app's only image and its layer.
func routesTo(image ocitest.Pushed) map[string]func(c *client) answer {
	p, at := image.Platforms[0], "/v2/"+app+"/"
	return map[string]func(c *client) answer{
		"HEAD tag":    func(c *client) answer { return c.head(at + "manifests/1") },
		"GET tag":     func(c *client) answer { return c.get(at + "manifests/1") },
		"HEAD digest": func(c *client) answer { return c.head(at + "manifests/" + string(p.Manifest)) },
		"GET digest":  func(c *client) answer { return c.get(at + "manifests/" + string(p.Manifest)) },
		"HEAD blob":   func(c *client) answer { return c.head(at + "blobs/" + string(p.Layers[0])) },
		"GET blob":    func(c *client) answer { return c.get(at + "blobs/" + string(p.Layers[0])) },
		"range":       func(c *client) answer { return c.get(at+"blobs/"+string(p.Layers[0]), "Range", "bytes=5-9") },
		"ns":          func(c *client) answer { return c.get("/v2/acme/app/manifests/" + string(p.Manifest) + "?ns=ghcr.io") },
		"path":        func(c *client) answer { return c.get("/ghcr.io/v2/acme/app/blobs/" + string(p.Layers[0])) },
		"referrers":   func(c *client) answer { return c.get(at + "referrers/" + string(p.Manifest)) },
		"tags":        func(c *client) answer { return c.get(at + "tags/list") },
	}
}

// Every route to an image, on a port, as clients ask for it; and the order in which.
// What a rule refuses it refuses on all of them, and no registry hears of it.
func TestPolicy_OnEveryRoute(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	routes := routesTo(s.image)
	n := s.serve()
	globex := s.caller(n, "globex")
	globex.mustPull(app, s.image, "") // it is all kept
	published(t, s.cacheDir())
	acme := s.caller(n, "acme")

	for _, tc := range []struct{ rule, named string }{
		{"policy: {deny: ['ghcr.io/acme/**']}", "policy.deny ghcr.io/acme/** (" + s.path("organisations.d/acme.yaml") + ":3)"},
		{"policy: {allow: ['docker.io/**']}", "policy.allow (" + s.path("organisations.d/acme.yaml") + ":3)"},
	} {
		s.dropIn("acme", tc.rule)
		s.reload(exitOK)
		s.registry.Forget()
		for name, ask := range routes {
			a := ask(acme)
			head := strings.HasPrefix(name, "HEAD")
			if a.status != http.StatusForbidden || !head && (a.code() != string(oci.CodeDenied) || !strings.Contains(a.message(), tc.named)) {
				t.Errorf("%s, %s: %s", tc.rule, name, a)
			}
		}
		if got := s.command("prewarm", app+":1", "--org", "acme"); got.code == exitOK || !strings.Contains(got.err, tc.named) {
			t.Errorf("prewarm: %+v", got)
		}
		must(t, s.registry, "what a rule refuses", cost{})
		globex.mustPull(app, s.image, "")
	}

	// Rules about tags and sizes: a blob is of an image that was pulled, or refused.
	for _, tc := range []struct {
		rule    string
		allowed bool
	}{
		{"policy: {allow: ['ghcr.io/acme/app:1*']}", true},
		{"policy: {max_image_size: 1MB}", true},
		{"policy: {deny: ['ghcr.io/acme/app:1']}", false},
		{"policy: {max_image_size: 20KB}", false},
	} {
		s.dropIn("acme", tc.rule)
		s.reload(exitOK)
		for _, name := range []string{"HEAD blob", "GET blob", "range", "path"} {
			if a := routes[name](acme); a.status != http.StatusForbidden && !tc.allowed {
				t.Errorf("%s, %s before the manifest: %s", tc.rule, name, a)
			}
		}
		want := http.StatusForbidden
		if tc.allowed {
			want = http.StatusOK
		}
		for range 2 {
			for _, name := range []string{"HEAD tag", "GET tag", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "ns", "path"} {
				if a := routes[name](acme); a.status != want {
					t.Errorf("%s, %s: %s, want %d", tc.rule, name, a, want)
				}
			}
		}
		if a := routes["tags"](acme); a.status != http.StatusOK {
			t.Errorf("%s: a list: %s", tc.rule, a)
		}
		if got := s.command("prewarm", app+":1", "--org", "acme"); (got.code == exitOK) != tc.allowed || !tc.allowed && !strings.Contains(got.err, "policy.") {
			t.Errorf("%s: prewarm: %+v", tc.rule, got)
		}
	}

	if got := s.command("failures", "--org", "acme"); !strings.Contains(got.out, "policy") || !strings.Contains(got.out, "policy.max_image_size 19.5 KiB") {
		t.Errorf("%+v", got)
	}
	if got := n.sample(`berth_pull_failures_total{organisation="acme",reason="policy",registry="ghcr.io"}`); got != 3 {
		t.Errorf("%v refusals were counted: one each of the tag, the manifest and the layer", got)
	}
}

// Across a restart, a client that goes on with a blob is still known to have the
// manifest that lists it; and one that never had it is not.
func TestPolicy_AfterARestart(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.dropIn("acme", "policy: {max_image_size: 1MB}")
	other := s.registry.AddImage("acme/app", "2", ocitest.Image{Layers: []int64{5000}, Seed: 7})
	n := s.serve()
	if a := s.caller(n, "acme").get(manifest); a.status != http.StatusOK {
		t.Fatalf("%s", a)
	}
	n.stop()
	n = s.serve()
	acme := s.caller(n, "acme")
	if a := acme.get("/v2/" + app + "/blobs/" + string(s.image.Platforms[0].Layers[0])); a.status != http.StatusOK {
		t.Errorf("a layer of what was pulled: %s", a)
	}
	if a := acme.get("/v2/" + app + "/blobs/" + string(other.Platforms[0].Layers[0])); a.status != http.StatusForbidden || !strings.Contains(a.message(), "pull the manifest first") {
		t.Errorf("a layer of what was not: %s", a)
	}
}

// A policy can be tried on names before it is in force.
func TestPolicy_CheckOfAnImage(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.main(`policy:
  allow: [docker.io/library/**, "ghcr.io/acme/**:1*"]
  deny:
    - docker.io/centos
  max_image_size: 2GiB
  cooldown: 48h
`)
	s.dropIn("acme", "policy: {deny: ['ghcr.io/acme/app:1.0']}")
	main, own := s.path("berth.yaml"), s.path("organisations.d/acme.yaml")
	for _, c := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"--image", "nginx"}, exitOK, "docker.io/library/nginx:latest: allowed\n  but for policy.cooldown 48h0m0s (" + main + ":14): what the tag meant before it moved is served for as long\n  but for policy.max_image_size 2 GiB (" + main + ":13): its manifest says how large it is\n"},
		{[]string{"--image", "centos:7"}, exitFailed, "docker.io/library/centos:7: refused: policy.deny docker.io/centos (" + main + ":12)\n"},
		{[]string{"--image", "localhost:5000/ghcr.io/acme/app:1.0"}, exitOK, "ghcr.io/acme/app:1.0: allowed\n"},
		{[]string{"--image", "localhost:5000/acme/ghcr.io/acme/app:1.0", "--org", "acme"}, exitFailed, "ghcr.io/acme/app:1.0: refused: policy.deny ghcr.io/acme/app:1.0 (" + own + ":3)\n"},
		{[]string{"--image", "ghcr.io/acme/app:1.1", "--organisation", "acme"}, exitOK, "ghcr.io/acme/app:1.1: allowed\n"},
		{[]string{"--image", "quay.io/a/b"}, exitFailed, "quay.io/a/b:latest: refused: it is not in policy.allow (" + main + ":10)\n"},
		{[]string{"--image", "ghcr.io/acme/app@" + s.image.Digest.String()}, exitOK, "but for policy.allow ghcr.io/acme/**:1* (" + main + ":10): by digest only what a tag means that may be pulled\n"},
		{[]string{"--image", "ghcr.io/acme/app:1", "--org", "nobody-here"}, exitFailed, ""},
		{[]string{"--image", "nowhere.example/acme/app:1"}, exitFailed, ""},
		{[]string{"--org", "acme"}, exitUsage, ""},
	} {
		got := s.command(append([]string{"check"}, c.args...)...)
		if got.code != c.code || !strings.Contains(got.out, c.out) || (c.out == "") != (got.out == "") {
			t.Errorf("%q: %+v, want %d and %q", c.args, got, c.code, c.out)
		}
	}
	got := s.command("check", "--image", "ghcr.io/acme/app:1.0", "--org", "acme", "--json")
	var v struct {
		Allowed bool
		Rule    string
	}
	if err := json.Unmarshal([]byte(got.out), &v); err != nil || v.Allowed || v.Rule != "policy.deny ghcr.io/acme/app:1.0 ("+own+":3)" {
		t.Errorf("%v, %+v", err, got)
	}
	// A drop-in that is not in force yet.
	s.write(s.path("globex.yaml"), "policy: {deny: [ghcr.io/acme/app]}\n")
	if got := s.command("check", s.path("globex.yaml"), "--image", "ghcr.io/acme/app:1.0", "--org", "globex"); got.code != exitFailed || !strings.Contains(got.out, "globex.yaml:1)") {
		t.Errorf("a drop-in: %+v", got)
	}
}

// What other nodes have put into the fleet is no way around a policy: a node refuses by
// its own rules on every route, before it asks anybody, and what it allows it may have
// from there.
func TestPolicy_WithAFleet(t *testing.T) {
	t.Parallel()
	registry := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true})
	registry.AddUser("acme-bot", "acme-secret", "acme/**")
	image := registry.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{100 << 10, 5 << 20}, Seed: 1})
	key := strings.Repeat("a1", 31) + "b2\n"
	c := newCrew(t, 2, registry, func(h *home) {
		h.registry("ghcr.io", registry)
		h.tenant("acme")
		h.credential("acme", "ci", "ghcr.io", "acme-bot", "acme-secret")
		file := filepath.Join(h.dir, "acme-fleet")
		h.write(file, key)
		h.organisations["acme"].more = fmt.Sprintf("fleet_key_file: %q", file)
	})
	first, home := c.homes[0].build(), c.homes[1]
	c.homes[0].as(first, "acme").mustPull(app, image, "")
	c.complete(3)
	routes, keys := routesTo(image), home.organisations["acme"].more
	n := home.build()
	for i, tc := range []struct {
		rule string
		open []string // routes that it is not about
	}{
		{"deny: ['ghcr.io/acme/**']", nil},
		{"allow: ['docker.io/**']", nil},
		{"deny: ['ghcr.io/acme/app:1']", []string{"referrers", "tags"}},
		{"max_image_size: 20KB", []string{"referrers", "tags"}},
		{"digest_only: true", []string{"HEAD digest", "GET digest", "HEAD blob", "GET blob", "range", "ns", "path", "referrers", "tags"}},
	} {
		home.organisations["acme"].more = keys + "\n    policy: {" + tc.rule + "}"
		home.config()
		n.hangUp(t, i+1)
		registry.Forget()
		for name, ask := range routes {
			if slices.Contains(tc.open, name) {
				continue
			}
			if a := ask(home.as(n, "acme")); a.status != http.StatusForbidden {
				t.Errorf("%s, %s: %s", tc.rule, name, a)
			}
		}
		// A manifest at most, which tells the size.
		if in := n.sample(`berth_fleet_bytes_total{direction="in"}`); in > 1<<10 {
			t.Errorf("%s: %v bytes came from the fleet", tc.rule, in)
		}
	}
	home.organisations["acme"].more = keys + "\n    policy: {max_image_size: 1GiB, allow: ['ghcr.io/acme/app:1']}"
	home.config()
	n.hangUp(t, 6)
	if a := routes["GET blob"](home.as(n, "acme")); a.status != http.StatusForbidden || !strings.Contains(a.message(), "first") {
		t.Errorf("a blob before its manifest: %s", a)
	}
	registry.Forget()
	home.as(n, "acme").mustPull(app, image, "")
	if in := n.sample(`berth_fleet_bytes_total{direction="in"}`); in < 5<<20 {
		t.Errorf("only %v bytes came from the fleet", in)
	}
	if sent := registry.BlobBytes(image.Platforms[0].Layers[1]); sent > 1 {
		t.Errorf("%d bytes of the layer came from the registry", sent)
	}
}
