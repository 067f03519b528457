package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// A registry's own word about an organisation counts, also where everyone else
// may have the image.
func TestOwnDenialWins(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{})
	n := g.serve()
	g.nobody(n).mustPull("ghcr.io/acme/app", g.image, "")
	g.registry.Inject(ocitest.Match{User: "acme-bot", Server: ocitest.RegistryServer, Where: func(r ocitest.Request) bool { return r.Kind != ocitest.Token }}, 0, ocitest.Denied())
	g.nothing(http.StatusForbidden, g.as(n, "acme"))
	g.as(n, "globex").mustPull("ghcr.io/acme/app", g.image, "")
	// And it is still so when nobody can be asked.
	g.registry.Close()
	g.refused(g.as(n, "acme"))
	g.nobody(n).mustPull("ghcr.io/acme/app", g.image, "")
}

// A dead credential should not stop public images: they come as if there were
// none, and it is said. Unless the operator wants it otherwise.
func TestDeadCredential(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{})
	private := g.registry.AddImage("acme/private", "1", ocitest.Image{Layers: []int64{5000}, Seed: 5})
	g.registry.SetPrivate("acme/private", true)
	n := g.serve()
	acme := g.as(n, "acme")
	acme.mustPull("ghcr.io/acme/private", private, "")
	n.stop()
	g.registry.SetPassword("acme-bot", "another-secret")

	n = g.serve()
	acme = g.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", g.image, "")
	if a := acme.get("/v2/ghcr.io/acme/app/manifests/1"); !strings.HasPrefix(a.header.Get("Warning"), "299 ") || !strings.Contains(a.header.Get("Warning"), `'ci'`) {
		t.Errorf("the warning is %q", a.header.Get("Warning"))
	}
	for _, path := range []string{"manifests/1", "manifests/" + private.Digest.String(), "blobs/" + private.Platforms[0].Config.String()} {
		a := acme.mustRefuse("/v2/ghcr.io/acme/private/"+path, http.StatusForbidden, oci.CodeDenied)
		if !strings.Contains(a.message(), `account "ci"`) || !strings.Contains(a.message(), "organisation acme") {
			t.Errorf("it does not say which account: %s", a.message())
		}
	}
	if !strings.Contains(n.metrics(), `berth_credential_ok{account="ci",organisation="acme",registry="ghcr.io"} 0`) {
		t.Error("the metrics do not show it")
	}
	// Registries lock accounts that try too often.
	wrong := ocitest.Match{Kind: ocitest.Token, Where: func(r ocitest.Request) bool { return r.Header.Get("Authorization") != "" }}
	if tries := g.registry.Count(wrong) - 1; tries > 2 { // the first one was right
		t.Errorf("the dead credential was tried %d times", tries)
	}
	n.stop()

	g.registries = nil
	g.home.registry("ghcr.io", g.registry, "anonymous_fallback: false")
	n = g.serve()
	g.as(n, "acme").mustRefuse("/v2/ghcr.io/acme/app/manifests/1", http.StatusForbidden, oci.CodeDenied)
	g.nobody(n).mustPull("ghcr.io/acme/app", g.image, "")
}

// A right that is withdrawn works on for access_ttl at most.
func TestWithdrawnRight(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true, LiveRights: true, Refusal: ocitest.RefuseNotFound})
	n := g.serve()
	acme := g.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", g.image, "")
	g.registry.SetRights("acme-bot")
	g.clock.forward(5*time.Minute + time.Second)
	for _, path := range g.paths {
		if a := acme.get("/v2/ghcr.io/acme/app/" + path); a.status != http.StatusForbidden && a.status != http.StatusNotFound || len(a.body) > 2000 {
			t.Errorf("%s", a)
		}
	}
	g.as(n, "globex").mustPull("ghcr.io/acme/app", g.image, "")
}
