package zoo

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

const (
	repo = Repo
	bot  = Bot
	// patience bounds every case.
	patience = 60 * time.Second
)

// New makes a Source that asks r, a registry of a type of the configuration, as c.
type New func(t *testing.T, r *ocitest.Registry, typeName string, c ocitest.Caller) oci.Source

// world is a stand-in, and who asks it.
type world struct {
	Populated
	as func(t *testing.T, user string) oci.Source
}

// Test tries the Sources that source makes at every stand-in: it pulls, lists, looks for
// a signature, is refused, is limited and goes through an outage.
func Test(t *testing.T, source New) {
	t.Helper()
	at, wait := ocitest.Overlap(t, 16)
	defer wait()
	for _, s := range StandIns() {
		for name, run := range map[string]func(*testing.T, world){
			"pull": testPull, "list": testList, "signature": testSignature, "refused": testRefused, "limited": testLimited, "outage": testOutage,
		} {
			at(s.Name+"/"+name, func(t *testing.T) { run(t, open(t, s, source)) })
		}
	}
}

func open(t *testing.T, s StandIn, source New) world {
	t.Helper()
	w := world{Populated: s.Open(t, nil)}
	w.as = func(t *testing.T, user string) oci.Source {
		t.Helper()
		return source(t, w.Registry, s.Type, ocitest.Caller{Organisation: "acme", User: user, Password: Password(user)})
	}
	return w
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// read opens an object from a place on, and holds what comes against the truth.
func (w world) read(t *testing.T, src oci.Source, o oci.Object, start int64) error {
	t.Helper()
	c, err := src.Open(within(t), o, oci.Range{Start: start})
	if err != nil {
		return err
	}
	defer c.Close()
	got := c.Data
	if got == nil {
		if got, err = io.ReadAll(c.Body); err != nil {
			return err
		}
	}
	whole := w.Bytes(repo, o.Digest)
	if c.Offset > start || !bytes.Equal(got, whole[min(c.Offset, int64(len(whole))):]) {
		t.Errorf("%s %s: %d bytes from %d on, not those of the object", o.Kind, o.Digest, len(got), c.Offset)
	}
	return nil
}

func testPull(t *testing.T, w world) {
	src := w.as(t, bot)
	for range 2 {
		d, err := src.Resolve(within(t), repo, "v1")
		if err != nil || d.Digest != w.Image.Digest {
			t.Fatalf("the tag is %s, %v", d.Digest, err)
		}
	}
	all := []oci.Object{{Repo: repo, Kind: oci.Manifest, Digest: w.Image.Digest}}
	for i, p := range w.Image.Platforms {
		all = append(all, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: p.Manifest})
		for _, b := range w.Image.Blobs(i) {
			all = append(all, oci.Object{Repo: repo, Kind: oci.Blob, Digest: b})
		}
	}
	for _, o := range all {
		if err := w.read(t, src, o, 0); err != nil {
			t.Errorf("%s: %v", o.Kind, err)
		}
		if c, err := src.Stat(within(t), o); err != nil || c.Digest != o.Digest {
			t.Errorf("%s: Stat: %v", o.Kind, err)
		}
		if o.Kind == oci.Blob {
			if err := w.read(t, src, o, 100); err != nil {
				t.Errorf("%s from 100 on: %v", o.Kind, err)
			}
		}
	}
}

func values(query string) url.Values {
	q, err := url.ParseQuery(query)
	if err != nil {
		return url.Values{}
	}
	return q
}

func testList(t *testing.T, w world) {
	src := w.as(t, bot)
	if w.NoTags != oci.Unclassified {
		if _, err := src.List(within(t), oci.ListRequest{Kind: oci.Tags, Repo: repo, Query: values("n=2")}); oci.ClassOf(err) != w.NoTags {
			t.Errorf("a list: %v, want %s", err, w.NoTags)
		}
		if _, err := src.Resolve(within(t), repo, "v1"); err != nil {
			t.Errorf("a refused list stops pulls: %v", err)
		}
		return
	}
	TestTags(t, src, repo, "n=2")
	_, err := src.List(within(t), oci.ListRequest{Kind: oci.Tags, Repo: repo, Query: values("n=1000")})
	if e := oci.AsError(err); w.MaxPage == 0 && err != nil || w.MaxPage > 0 && (err == nil || e.HTTPStatus() < 400 || e.HTTPStatus() >= 500 || !strings.Contains(e.Message, "100")) {
		t.Errorf("a page of 1000: %v", err)
	}
}

// TestTags reads the tags of name page by page, from that query on: v1 to v4 are there.
func TestTags(t *testing.T, src oci.Source, name, query string) {
	t.Helper()
	var got []string
	for q, pages := query, 0; q != "" && pages < 20; pages++ {
		page, err := src.List(within(t), oci.ListRequest{Kind: oci.Tags, Repo: name, Query: values(q)})
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Tags []string }
		if err := json.Unmarshal(page.Body, &list); err != nil {
			t.Fatal(err)
		}
		got, q = append(got, list.Tags...), page.Next
	}
	for _, tag := range []string{"v1", "v2", "v3", "v4"} {
		if !slices.Contains(got, tag) {
			t.Errorf("the tags are %v", got)
		}
	}
}

// testSignature looks for it as clients do: by referrers, and where that is 404 by the
// fallback tag.
func testSignature(t *testing.T, w world) {
	src := w.as(t, bot)
	page, err := src.List(within(t), oci.ListRequest{Kind: oci.Referrers, Repo: repo, Digest: w.Image.Digest})
	var text []byte
	switch {
	case err == nil && w.Fallback:
		t.Fatalf("referrers: %.200s", page.Body)
	case err == nil:
		text = page.Body
	case !w.Fallback || oci.AsError(err).HTTPStatus() != http.StatusNotFound:
		t.Fatalf("referrers: %v", err)
	default:
		d, err := src.Resolve(within(t), repo, "sha256-"+w.Image.Digest.Encoded())
		if err != nil {
			t.Fatalf("the fallback tag: %v", err)
		}
		text = w.Bytes(repo, d.Digest)
		if err := w.read(t, src, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: d.Digest}, 0); err != nil {
			t.Errorf("what the fallback tag names: %v", err)
		}
	}
	if !strings.Contains(string(text), w.Signature.String()) {
		t.Errorf("the signature is not in %.300s", text)
	}
	if err := w.read(t, src, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: w.Signature}, 0); err != nil {
		t.Errorf("the signature: %v", err)
	}
}

func testRefused(t *testing.T, w world) {
	if w.Refused == oci.Unclassified {
		t.Skip("everyone may read everything")
	}
	src := w.as(t, Guest)
	blob := oci.Object{Repo: repo, Kind: oci.Blob, Digest: w.Image.Platforms[0].Layers[0]}
	for name, ask := range map[string]func() error{
		"tag":  func() error { _, err := src.Resolve(within(t), repo, "v1"); return err },
		"blob": func() error { return w.read(t, src, blob, 0) },
		"stat": func() error { _, err := src.Stat(within(t), blob); return err },
	} {
		err := ask()
		if oci.ClassOf(err) != w.Refused {
			t.Errorf("%s: %v, want %s", name, err, w.Refused)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error has the password in it", name)
		}
	}
	if _, err := w.as(t, bot).Resolve(within(t), repo, "v1"); err != nil {
		t.Errorf("whoever may: %v", err)
	}
	wrong := w.as(t, "acme-other") // nobody there knows it
	if _, err := wrong.Resolve(within(t), repo, "v1"); oci.ClassOf(err) != oci.Unauthorized {
		t.Errorf("an account that does not exist: %v", err)
	}
}

func testLimited(t *testing.T, w world) {
	src := w.as(t, bot)
	if _, err := src.Resolve(within(t), repo, "v1"); err != nil {
		t.Fatal(err)
	}
	w.Inject(ocitest.Match{Where: func(q ocitest.Request) bool {
		return q.Server != ocitest.CDNServer && q.Kind != ocitest.Ping && q.Kind != ocitest.Token
	}}, 0, w.Limited)
	o := oci.Object{Repo: repo, Kind: oci.Manifest, Digest: w.Image.Platforms[1].Manifest}
	if err := w.read(t, src, o, 0); oci.ClassOf(err) != oci.RateLimited {
		t.Errorf("limited: %v", err)
	}
	before := w.Count(ocitest.Match{})
	for range 5 {
		if err := w.read(t, src, o, 0); oci.ClassOf(err) != oci.RateLimited {
			t.Errorf("limited again: %v", err)
		}
	}
	if n := w.Count(ocitest.Match{}) - before; n > 0 {
		t.Errorf("%d requests while it is known that there are too many", n)
	}
}

func testOutage(t *testing.T, w world) {
	src := w.as(t, bot)
	if _, err := src.Resolve(within(t), repo, "v1"); err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]ocitest.Fault{
		"503": ocitest.Status(http.StatusServiceUnavailable), "a page": page(http.StatusBadGateway), "nobody": ocitest.Drop(),
	} {
		outage := w.Inject(ocitest.Match{}, 0, fault)
		for range 3 {
			if _, err := src.Resolve(within(t), repo, "v1"); err == nil || !oci.ClassOf(err).Indeterminate() {
				t.Errorf("%s: %v", name, err)
			}
		}
		outage.Remove()
		w.comesBack(t, name, src)
	}
}

// comesBack waits until the registry is asked again: whoever is in trouble is left alone
// for a moment.
func (w world) comesBack(t *testing.T, name string, src oci.Source) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	ctx := within(t)
	for {
		_, err := src.Resolve(ctx, repo, "v1")
		if err == nil {
			return
		}
		if !oci.ClassOf(err).Indeterminate() {
			t.Errorf("after %s: %v", name, err)
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Errorf("after %s: it never comes back: %v", name, err)
			return
		}
	}
}
