package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/internal/ocitest"
	"berth/oci"
)

// client pulls as container engines do. It sends headers that no registry
// behind a proxy may see; the test registry complains when one gets there.
type client struct {
	t    testing.TB
	base string
	// user and password are sent with every request, unless user is empty.
	user, password string
	http           *http.Client
	// resumes makes it go on where a body was cut off, as dockerd, containerd and
	// podman do.
	resumes bool
	resumed atomic.Int32
}

// as is a client that logs in as an organisation, or organisation+account.
func (h *home) as(n *running, user string) *client {
	h.t.Helper()
	organisation, _, _ := strings.Cut(user, "+")
	c := h.client(n.doors[tokenDoor])
	c.user, c.password = user, h.organisations[organisation].token
	return c
}

// nobody is a client of the open listener.
func (h *home) nobody(n *running) *client {
	h.t.Helper()
	return h.client(n.doors[openDoor])
}

// client is one that does not log in.
func (h *home) client(base string) *client {
	return &client{t: h.t, base: base, http: &http.Client{
		Transport:     h.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is what came back.
type answer struct {
	what   string
	status int
	header http.Header
	body   []byte
	// err is why the body did not end well, or why there is no answer at all.
	err error
}

func (a answer) String() string {
	return fmt.Sprintf("%s: %d, %d bytes %.300q, error %v", a.what, a.status, len(a.body), a.body, a.err)
}

// code is the first error code in an error document.
func (a answer) code() string { return a.problem().Code }

// message is the first message in an error document.
func (a answer) message() string { return a.problem().Message }

type problem struct{ Code, Message string }

func (a answer) problem() problem {
	var doc struct{ Errors []problem }
	if json.Unmarshal(a.body, &doc) != nil || len(doc.Errors) == 0 {
		return problem{}
	}
	return doc.Errors[0]
}

// get asks for a path; header are names and values.
func (c *client) get(path string, header ...string) answer {
	return c.do(http.MethodGet, path, header...)
}

func (c *client) head(path string, header ...string) answer {
	return c.do(http.MethodHead, path, header...)
}

// do asks, and reads the whole answer.
func (c *client) do(method, path string, header ...string) answer {
	a := answer{what: method + " " + path}
	if len(header) > 0 {
		a.what += fmt.Sprint(" ", header)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 2*patience)
	defer cancel()
	resp, err := c.send(ctx, method, path, header...)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	a.status, a.header = resp.StatusCode, resp.Header
	var b bytes.Buffer
	b.Grow(int(max(resp.ContentLength, 0)) + bytes.MinRead)
	_, a.err = b.ReadFrom(resp.Body)
	for tries := 0; c.resumes && a.err != nil && a.status == http.StatusOK && tries < 5; tries++ {
		a.err = c.resume(ctx, path, &b)
	}
	a.body = b.Bytes()
	return a
}

// resume gets what is missing behind b.
func (c *client) resume(ctx context.Context, path string, b *bytes.Buffer) error {
	c.resumed.Add(1)
	resp, err := c.send(ctx, http.MethodGet, path, "Range", fmt.Sprintf("bytes=%d-", b.Len()))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if want := fmt.Sprintf("bytes %d-", b.Len()); resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
		return fmt.Errorf("resuming at %d: %s, %q", b.Len(), resp.Status, resp.Header.Get("Content-Range"))
	}
	_, err = b.ReadFrom(resp.Body)
	return err
}

// send asks; the caller reads and closes the answer.
func (c *client) send(ctx context.Context, method, path string, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "docker/29.0.1 go/go1.26 kernel/6.1 os/linux arch/amd64")
	req.Header.Set("X-Forwarded-For", "203.0.113.9")
	req.Header.Set("X-Meta-Canary", "1")
	req.Header.Set("Cookie", "session=1")
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	return c.http.Do(req)
}

// pulled is an image as it arrived.
type pulled struct {
	digest oci.Digest
	blobs  map[oci.Digest][]byte
}

// pull gets an image of linux/amd64 as dockerd does: HEAD by tag, then every
// manifest by digest, then the blobs. name is what stands behind /v2/, with the
// query that goes with every request.
func (c *client) pull(name, tag, query string) (pulled, error) {
	p := pulled{blobs: map[oci.Digest][]byte{}}
	at := func(kind, ref string) string {
		return "/v2/" + name + "/" + kind + "/" + ref + query
	}
	if ping := c.get("/v2/" + query); ping.status != http.StatusOK {
		return p, errors.New(ping.String())
	}
	head := c.head(at("manifests", tag))
	if head.status != http.StatusOK {
		return p, errors.New(head.String())
	}
	p.digest = oci.Digest(head.header.Get("Docker-Content-Digest"))
	m, err := c.manifest(at, p.digest)
	if err != nil {
		return p, err
	}
	for _, d := range append(m.Layers, m.Config) {
		a := c.get(at("blobs", d.Digest.String()))
		if a.status != http.StatusOK || a.err != nil || int64(len(a.body)) != d.Size || oci.DigestOf(a.body) != d.Digest {
			return p, fmt.Errorf("the blob is not %s: %s", d.Digest, a)
		}
		p.blobs[d.Digest] = a.body
	}
	return p, nil
}

// manifest gets the manifest of linux/amd64 that d is or leads to.
func (c *client) manifest(at func(kind, ref string) string, d oci.Digest) (v1.Manifest, error) {
	a := c.get(at("manifests", d.String()))
	if a.status != http.StatusOK || a.err != nil || oci.DigestOf(a.body) != d {
		return v1.Manifest{}, fmt.Errorf("the manifest is not %s: %s", d, a)
	}
	var doc struct {
		v1.Manifest

		Manifests []v1.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		return v1.Manifest{}, err
	}
	for _, m := range doc.Manifests {
		if m.Platform.OS == "linux" && m.Platform.Architecture == "amd64" {
			return c.manifest(at, m.Digest)
		}
	}
	return doc.Manifest, nil
}

// mustPull pulls i under name and compares all of it.
func (c *client) mustPull(name string, i ocitest.Pushed, query string) {
	c.t.Helper()
	p, err := c.pull(name, i.Tag, query)
	if err != nil {
		c.t.Fatalf("pulling %s:%s%s: %v", name, i.Tag, query, err)
	}
	if p.digest != i.Digest {
		c.t.Errorf("pulling %s:%s%s gives %s, not %s", name, i.Tag, query, p.digest, i.Digest)
	}
	for _, d := range i.Blobs(0) {
		if p.blobs[d] == nil {
			c.t.Errorf("pulling %s:%s%s does not give blob %s", name, i.Tag, query, d)
		}
	}
}

// mustRefuse asks and wants this status and code, by GET with a good error
// document, by HEAD without a body.
func (c *client) mustRefuse(path string, status int, code oci.Code, header ...string) answer {
	c.t.Helper()
	a := c.get(path, header...)
	if a.status != status || a.code() != string(code) || a.err != nil {
		c.t.Errorf("%s\nwant %d %s", a, status, code)
	}
	if a.message() == "" || strings.Contains(a.message(), "\n") || a.header.Get("Content-Type") != "application/json" {
		c.t.Errorf("%s\nis no good error document (%s)", a, a.header.Get("Content-Type"))
	}
	if h := c.head(path, header...); h.status != status || len(h.body) > 0 || h.err != nil {
		c.t.Errorf("%s\nwant %d", h, status)
	}
	return a
}
