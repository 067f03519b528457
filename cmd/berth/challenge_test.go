package main

import (
	"net/http"
	"strings"
	"testing"

	"berth/internal/ocitest"
)

// Where /v2/ wants nothing, a repository may want something. Whatever that is, it is
// asked for in that repository alone: not where somebody else's token endpoint is
// named, nor where the registry's own is.
func TestChallenge_OfOneRepository(t *testing.T) {
	t.Parallel()
	for name, challenge := range map[string]string{
		"a foreign token endpoint": `Bearer realm="https://evil.example/token",service="x"`,
		"Basic":                    `Basic realm="evil"`,
		"the registry's own":       `Bearer realm="%s/token",service="x"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			r := ocitest.New(t, ocitest.Options{Now: h.clock.now})
			image := r.AddImage("acme/pub", "1", ocitest.Image{Layers: []int64{1000}})
			r.Inject(ocitest.Match{Repo: "evil/x"}, 0, ocitest.Status(http.StatusUnauthorized, "WWW-Authenticate", strings.ReplaceAll(challenge, "%s", r.URL())))
			h.registry("docker.io", r)
			h.tenant("acme")
			h.tenant("globex")
			n := h.serve()
			if a := h.as(n, "globex").get("/v2/docker.io/evil/x/manifests/1"); a.status < 400 {
				t.Error(a)
			}
			h.as(n, "acme").mustPull("docker.io/acme/pub", image, "")
			if asked := r.Count(ocitest.Match{Repo: "acme/pub", Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }}); asked != 0 {
				t.Errorf("%d requests carried what nobody had asked for there", asked)
			}
		})
	}
}
