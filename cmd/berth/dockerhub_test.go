package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"berth/internal/ocitest"
)

// An account may be configured under any name that Docker Hub is pulled by.
func TestDockerHub_EveryNameTakesAnAccount(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"} {
		h := newHome(t)
		hub := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true})
		hub.AddUser("acme", "right", "acme/app")
		image := hub.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{1000}})
		h.registry("docker.io", hub)
		h.tenant("acme")
		h.credential("acme", "main", name, "acme", "right")
		n := h.run()
		h.as(n, "acme").mustPull("acme/app", image, "")
		h.as(n, "acme").mustPull("acme/app", image, "?ns="+name)
		n.stop()
	}
}

// A manifest that clients do not agree about, or that containerd refuses, is refused
// with what they take as final, and each request for it says the same.
func TestManifest_AmbiguousIsRefusedFinally(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	h.registry("docker.io", hub)
	const image = "application/vnd.oci.image.manifest.v1+json"
	layers := `"config":{},"layers":[]`
	digests := map[string]string{}
	for tag, doc := range map[string]string{
		"both":  `{"schemaVersion":2,"mediaType":"` + image + `","manifests":[],` + layers + `}`,
		"case":  `{"schemaVersion":2,"mediATYpe":"0",` + layers + `}`,
		"twice": `{"schemaVersion":2,"layers":[],` + layers + `}`,
		"none":  `{"schemaVersion":2}`,
	} {
		digests[tag] = hub.AddManifest("library/odd", tag, image, []byte(doc)).String()
	}
	c := h.nobody(h.run())
	for tag, digest := range digests {
		for _, reference := range []string{tag, tag, digest, digest} {
			resp, err := c.send(soon(t), http.MethodGet, "/v2/odd/manifests/"+reference)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusNotFound || resp.Header.Get("Retry-After") != "" ||
				!strings.Contains(string(body), "MANIFEST_UNKNOWN") || !strings.Contains(string(body), "manifest") {
				t.Errorf("%s: %d %v %s, %v", reference, resp.StatusCode, resp.Header, body, err)
			}
		}
	}
}
