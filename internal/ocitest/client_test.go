package ocitest

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// reply is one answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
	length int64 // as announced
	err    error // of the body
}

// polite is a request as the registry likes it; pairs of headers follow.
func polite(t *testing.T, method, target string, header ...string) *http.Request {
	t.Helper()
	hr, err := http.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	hr.Header.Set("Accept", strings.Join(manifestTypes[:], ", "))
	hr.Header.Set("Accept-Encoding", "identity")
	maps.Copy(hr.Header, headers(header))
	return hr
}

// clientOf is a client that ends with the test.
func clientOf(t *testing.T, r *Registry) *http.Client {
	t.Helper()
	c := r.Client()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func do(c *http.Client, hr *http.Request) (reply, error) {
	res, err := c.Do(hr)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	return reply{res.StatusCode, res.Header, body, res.ContentLength, err}, nil
}

// get asks the registry for a path, or for a whole URL.
func get(t *testing.T, r *Registry, path string, header ...string) reply {
	t.Helper()
	if strings.HasPrefix(path, "/") {
		path = r.URL() + path
	}
	got, err := do(clientOf(t, r), polite(t, http.MethodGet, path, header...))
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	return got
}

func head(t *testing.T, r *Registry, path string, header ...string) reply {
	t.Helper()
	got, err := do(clientOf(t, r), polite(t, http.MethodHead, r.URL()+path, header...))
	if err != nil {
		t.Fatalf("HEAD %s: %v", path, err)
	}
	return got
}

// code is the error code of an error document.
func (p reply) code(t *testing.T) string {
	t.Helper()
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(p.body, &doc); err != nil || len(doc.Errors) != 1 || doc.Errors[0].Message == "" {
		t.Fatalf("%d %.100q is no error document: %v", p.status, p.body, err)
	}
	return doc.Errors[0].Code
}

func (p reply) want(t *testing.T, status int) reply {
	t.Helper()
	if p.status != status || p.err != nil {
		t.Errorf("%d %.100q %v, want %d", p.status, p.body, p.err, status)
	}
	return p
}

func blobPath(d oci.Digest) string   { return "/v2/acme/app/blobs/" + d.String() }
func manifestPath(ref string) string { return "/v2/acme/app/manifests/" + ref }
func soon() time.Duration            { return 20 * time.Second }
func bearer(token string) []string   { return []string{"Authorization", "Bearer " + token} }
func basic(name, pass string) []string {
	hr := http.Request{Header: http.Header{}}
	hr.SetBasicAuth(name, pass)
	return []string{"Authorization", hr.Header.Get("Authorization")}
}

// broken wants exactly these violations, each by a part of its text.
func broken(t *testing.T, r *Registry, parts ...string) {
	t.Helper()
	got := r.TakeViolations()
	for _, p := range parts {
		found := false
		for _, v := range got {
			found = found || strings.Contains(v, p)
		}
		if !found {
			t.Errorf("no violation says %q: %q", p, got)
		}
	}
	if len(got) != len(parts) {
		t.Errorf("%d violations, want %d: %q", len(got), len(parts), got)
	}
}
