package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"berth/cache/proof"
	"berth/internal/ocitest"
	"berth/oci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a registry in memory, of one repository. It counts what it is asked, and
// that every body it gives is closed.
type shelf struct {
	objects map[oci.Digest][]byte
	kinds   map[oci.Digest]oci.Kind
	tags    map[string]oci.Digest
	asked   int
	open    int
	// chunked: blobs come without a length.
	chunked bool
}

func newShelf() *shelf {
	return &shelf{objects: map[oci.Digest][]byte{}, kinds: map[oci.Digest]oci.Kind{}, tags: map[string]oci.Digest{}}
}

func (s *shelf) put(kind oci.Kind, data []byte) oci.Digest {
	d := oci.DigestOf(data)
	s.objects[d], s.kinds[d] = data, kind
	return d
}

type made struct {
	digest oci.Digest
	blobs  []oci.Digest
	size   int64
}

// image puts an image of one layer of n bytes that are all c.
func (s *shelf) image(c byte, n int) made {
	layer, config := bytes.Repeat([]byte{c}, n), fmt.Appendf(nil, "config %c %d", c, n)
	l, g := s.put(oci.Blob, layer), s.put(oci.Blob, config)
	doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		oci.MediaTypeManifest, g, len(config), l, n)
	return made{s.put(oci.Manifest, []byte(doc)), []oci.Digest{l, g}, int64(n + len(config))}
}

// index puts an index of images.
func (s *shelf) index(images ...made) made {
	type entry struct {
		MediaType string     `json:"mediaType"`
		Digest    oci.Digest `json:"digest"`
		Size      int        `json:"size"`
	}
	var list []entry
	var size int64
	for _, i := range images {
		n := len(s.objects[i.digest])
		list = append(list, entry{oci.MediaTypeManifest, i.digest, n})
		size += int64(n)
	}
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": list})
	if err != nil {
		panic(err) // strings and numbers
	}
	return made{digest: s.put(oci.Manifest, text), size: size}
}

func missing() error { return &oci.Error{Class: oci.NotFound, Message: "it is not there"} }

func (s *shelf) Principal(string) oci.Principal { return oci.Principal{Organisation: "acme"} }

func (s *shelf) Resolve(_ context.Context, _, tag string) (oci.Resolution, error) {
	s.asked++
	d, ok := s.tags[tag]
	if !ok {
		return oci.Resolution{}, missing()
	}
	return oci.Resolution{Descriptor: oci.Descriptor{Digest: d, Size: int64(len(s.objects[d]))}}, nil
}

func (s *shelf) Stat(_ context.Context, o oci.Object) (*oci.Content, error) {
	s.asked++
	data, ok := s.objects[o.Digest]
	if !ok || s.kinds[o.Digest] != o.Kind {
		return nil, missing()
	}
	return &oci.Content{Descriptor: oci.Descriptor{Digest: o.Digest, Size: int64(len(data))}}, nil
}

func (s *shelf) Open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	c, err := s.Stat(ctx, o)
	if err != nil {
		return nil, err
	}
	data := s.objects[o.Digest][r.Start:]
	if r.Length > 0 {
		data = data[:r.Length]
	}
	if o.Kind == oci.Manifest {
		c.Data, c.Length = data, int64(len(data))
		return c, nil
	}
	s.open++
	c.Offset, c.Length, c.Body = r.Start, int64(len(data)), &body{Reader: bytes.NewReader(data), s: s}
	if s.chunked && o.Kind == oci.Blob {
		c.Size, c.Length = -1, -1
	}
	return c, nil
}

func (s *shelf) List(context.Context, oci.ListRequest) (*oci.Page, error) {
	s.asked++
	return &oci.Page{Body: []byte("{}")}, nil
}

type body struct {
	io.Reader

	s      *shelf
	closed bool
}

func (b *body) Close() error {
	if !b.closed {
		b.s.open--
	}
	b.closed = true
	return nil
}

// world is a shelf behind a policy.
type world struct {
	*shelf

	t     testing.TB
	notes *proof.Proofs
	clock *ocitest.Clock
}

func newWorld(t testing.TB, path string) *world {
	t.Helper()
	w := &world{shelf: newShelf(), t: t, clock: ocitest.NewClock()}
	w.reopen(path)
	t.Cleanup(func() { _ = w.notes.Close() })
	return w
}

// reopen is a restart of the node.
func (w *world) reopen(path string) {
	w.t.Helper()
	if w.notes != nil {
		if err := w.notes.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	var err error
	if w.notes, err = proof.Open(path, proof.Options{Now: w.clock.Now}); err != nil {
		w.t.Fatal(err)
	}
}

const repo = "acme/app"

func (w *world) source(all ...*Rules) oci.Source { return w.sourceOf("acme", all...) }

func (w *world) sourceOf(organisation string, all ...*Rules) oci.Source {
	return Around(w.shelf, New(all...), At{Registry: "ghcr.io", Origin: "ghcr.io-1", Organisation: organisation}, w.notes, w.clock.Now)
}

// line gives patterns the lines of a file.
func line(t testing.TB, from int, texts ...string) (all []Pattern) {
	t.Helper()
	for i, text := range texts {
		p, err := oci.ParseImagePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Pattern{ImagePattern: p, At: Place{"main.yaml", from + i}})
	}
	return all
}

// A request, by route.
type request struct {
	route  string
	tag    string
	digest oci.Digest
}

var routes = []string{"HEAD tag", "GET tag", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "range", "referrers", "tags"}

// send makes the request as the proxy does.
func (r request) send(ctx context.Context, s oci.Source) error {
	use := func(c *oci.Content, err error) error {
		if err != nil || c.Body == nil {
			return err
		}
		defer c.Close()
		_, err = io.Copy(io.Discard, c.Body)
		return err
	}
	at := func(k oci.Kind) oci.Object { return oci.Object{Repo: repo, Kind: k, Digest: r.digest} }
	switch r.route {
	case "HEAD tag":
		_, err := s.Resolve(ctx, repo, r.tag)
		return err
	case "GET tag":
		d, err := s.Resolve(ctx, repo, r.tag)
		if err != nil {
			return err
		}
		return use(s.Open(ctx, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: d.Digest}, oci.Range{}))
	case "HEAD digest":
		return use(s.Stat(ctx, at(oci.Manifest)))
	case "GET digest":
		return use(s.Open(ctx, at(oci.Manifest), oci.Range{}))
	case "HEAD blob":
		return use(s.Stat(ctx, at(oci.Blob)))
	case "GET blob":
		return use(s.Open(ctx, at(oci.Blob), oci.Range{}))
	case "range":
		return use(s.Open(ctx, at(oci.Blob), oci.Range{Start: 1, Length: 2}))
	case "referrers":
		_, err := s.List(ctx, oci.ListRequest{Kind: oci.Referrers, Repo: repo, Digest: r.digest})
		return err
	}
	_, err := s.List(ctx, oci.ListRequest{Kind: oci.Tags, Repo: repo})
	return err
}

// verdict is "yes", "no", or how else it ended.
func verdict(err error) string {
	switch {
	case err == nil:
		return "yes"
	case oci.ClassOf(err) == oci.Policy && oci.AsError(err).HTTPStatus() == 403 && oci.AsError(err).WireCode() == oci.CodeDenied && oci.AsError(err).Rule != "":
		return "no"
	case oci.ClassOf(err) == oci.NotFound:
		return "missing"
	}
	return err.Error()
}

func contains(all []string, s string) bool { return slices.Contains(all, s) }
