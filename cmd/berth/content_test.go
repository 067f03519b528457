package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/internal/ocitest"
	"berth/oci"
)

// Ranges of a blob give those bytes, whether the blob is here or on its way, and
// asking for one costs no more of a large blob than it must.
func TestRanges(t *testing.T) {
	t.Parallel()
	const size = 40 << 20
	for _, warm := range []bool{false, true} {
		t.Run(fmt.Sprint("warm ", warm), func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			hub := ocitest.New(t, ocitest.Options{})
			d := hub.AddNoise("library/big", 3, size)
			h.registry("docker.io", hub)
			c := h.nobody(h.serve())
			path := "/v2/library/big/blobs/" + d.String()
			if warm {
				c.part(path)
			}
			for _, r := range []struct {
				header string
				from   int64
				length int64
			}{
				{"bytes=0-0", 0, 1},
				{"bytes=-7", size - 7, 7},
				{"bytes=20000000-20000099", 20_000_000, 100},
				{"bytes=1048575-1048576", 1<<20 - 1, 2},
				{fmt.Sprintf("bytes=%d-%d", size-5, size+1000), size - 5, 5},
				// Without an end: who sends this wants the rest of the whole.
				{fmt.Sprintf("bytes=%d-", size-1), size - 1, 1},
			} {
				if strings.HasSuffix(r.header, "-") && !warm && hub.BlobBytes(d) > 8<<20 {
					t.Errorf("a few bytes cost %d", hub.BlobBytes(d))
				}
				a := c.get(path, "Range", r.header)
				want := make([]byte, r.length)
				if _, err := ocitest.Noise(3, size).ReadAt(want, r.from); err != nil && err != io.EOF {
					t.Fatal(err)
				}
				if a.status != http.StatusPartialContent || !bytes.Equal(a.body, want) || a.header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", r.from, r.from+r.length-1, int64(size)) {
					t.Errorf("%s: %d, %d bytes, %q", r.header, a.status, len(a.body), a.header.Get("Content-Range"))
				}
			}
			if a := c.get(path, "Range", fmt.Sprintf("bytes=%d-", size)); a.status != http.StatusRequestedRangeNotSatisfiable || a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", size) {
				t.Errorf("%s %v", a, a.header)
			}
			c.mustGetPieces(path, size)
			for name, want := range map[string]string{"Accept-Ranges": "bytes", "Etag": `"` + d.String() + `"`, "Docker-Content-Digest": d.String(), "Content-Length": fmt.Sprint(size)} {
				if a := c.head(path); a.header.Get(name) != want {
					t.Errorf("HEAD: %s is %q", name, a.header.Get(name))
				}
			}
			if a := c.get(path, "If-None-Match", `"`+d.String()+`"`); a.status != http.StatusNotModified || len(a.body) > 0 {
				t.Errorf("%s", a)
			}
		})
	}
}

// mustGetPieces asks for several ranges at once.
func (c *client) mustGetPieces(path string, size int64) {
	c.t.Helper()
	a := c.get(path, "Range", "bytes=5-9,30000000-30000009,-3")
	_, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if a.status != http.StatusPartialContent || err != nil {
		c.t.Errorf("several ranges: %d, %v", a.status, a.header)
		return
	}
	pieces := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, r := range [][2]int64{{5, 5}, {30_000_000, 10}, {size - 3, 3}} {
		p, err := pieces.NextPart()
		if err != nil {
			c.t.Errorf("the piece at %d: %v", r[0], err)
			return
		}
		got, err := io.ReadAll(p)
		want := make([]byte, r[1])
		_, _ = ocitest.Noise(3, size).ReadAt(want, r[0]) // it may say io.EOF
		if err != nil || !bytes.Equal(got, want) {
			c.t.Errorf("the piece at %d has %d bytes, %v", r[0], len(got), err)
		}
	}
}

// Lists are passed through, and the link to the next page leads through berth
// again, by the way that the client came.
func TestLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 7 {
		w.ghcr.SetTag("acme/app", fmt.Sprintf("v%d", i), w.app.Digest)
	}
	sbom := w.ghcr.AddArtifact("acme/app", w.app.Digest, "application/vnd.example.sbom", 1)
	w.ghcr.AddArtifact("acme/app", w.app.Digest, "application/vnd.example.signature", 2)
	n := w.serve()
	acme := w.as(n, "acme")
	for _, first := range []string{
		"/v2/ghcr.io/acme/app/tags/list?n=3", "/v2/acme/app/tags/list?ns=ghcr.io&n=3",
		"/ghcr.io/v2/acme/app/tags/list?n=3", "/v2/acme/ghcr.io/acme/app/tags/list?n=3",
	} {
		var tags []string
		for path := first; path != ""; {
			a := acme.get(path)
			var page struct{ Tags []string }
			if err := json.Unmarshal(a.body, &page); err != nil || a.status != http.StatusOK || len(page.Tags) == 0 || len(page.Tags) > 3 {
				t.Fatalf("%s", a)
			}
			tags = append(tags, page.Tags...)
			path = ""
			if link := a.header.Get("Link"); link != "" {
				path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
			}
		}
		if want := []string{"1", "v0", "v1", "v2", "v3", "v4", "v5", "v6"}; !slices.Equal(tags, want) {
			t.Errorf("%s leads to %v", first, tags)
		}
	}
	a := acme.get("/v2/ghcr.io/acme/app/referrers/" + w.app.Digest.String() + "?artifactType=application/vnd.example.sbom")
	var index v1.Index
	if err := json.Unmarshal(a.body, &index); err != nil || a.header.Get("Content-Type") != v1.MediaTypeImageIndex || a.header.Get("Oci-Filters-Applied") != "artifactType" {
		t.Errorf("%s %v", a, a.header)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != sbom {
		t.Errorf("the referrers are %v", index.Manifests)
	}
	w.as(n, "globex").mustRefuse("/v2/ghcr.io/acme/app/tags/list", http.StatusForbidden, oci.CodeDenied)
}

// One line for each request, and numbers that agree with it.
func TestOneLinePerRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.serve()
	if page := n.metrics(); !strings.Contains(page, `berth_pull_failures_total{organisation="acme",reason="denied",registry="ghcr.io"} 0`) {
		t.Error("the series of failures that may come do not start at 0")
	}
	acme := w.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", w.app, "")
	acme.mustPull("ghcr.io/acme/app", w.app, "")
	for range 4 { // as one docker pull does
		w.as(n, "globex").get("/v2/ghcr.io/acme/app/manifests/1")
	}
	requests := 0
	perPull := 3 + len(w.app.Blobs(0)) // ping, HEAD, manifest
	want := 2*perPull + 4
	n.await("the log has every request", func() bool {
		requests = 0
		for _, line := range n.log.Lines() {
			if line["msg"] == "request" {
				requests++
			}
		}
		return requests >= want
	})
	if requests != want {
		t.Errorf("%d lines for %d requests", requests, want)
	}
	page := n.metrics()
	for _, want := range []string{
		`berth_requests_total{kind="blob",organisation="acme",registry="ghcr.io",result="fill"} 3`,
		`berth_requests_total{kind="blob",organisation="acme",registry="ghcr.io",result="hit"} 3`,
		`berth_requests_total{kind="manifest",organisation="globex",registry="ghcr.io",result="failed"} 4`,
		`berth_pull_failures_total{organisation="globex",reason="no_credential",registry="ghcr.io"} 1`,
		`berth_credential_ok{account="ci",organisation="acme",registry="ghcr.io"} 1`,
	} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := w.client(n.admin).get(path); a.status != http.StatusOK {
			t.Errorf("%s", a)
		}
	}
	if t.Failed() {
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "berth_requests") || strings.HasPrefix(line, "berth_pull") {
				t.Log(line)
			}
		}
	}
}
