package ocitest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// Caller is as whom a Source asks.
type Caller struct {
	// Organisation is whose Source it is; empty for nobody's.
	Organisation string
	// User and Password are its credential; empty: it has none.
	User, Password string
}

// Suite is what every oci.Source must pass, whatever it is made of.
type Suite struct {
	// New makes a Source that asks r as c, with nothing known yet. It reaches
	// loopback, trusts r.CertPool and takes r.TokenURL for a token endpoint.
	// What it needs to end ends with t.
	New func(t *testing.T, r *Registry, c Caller) oci.Source
	// Raw says that the bytes of blobs leave as they came and whoever reads
	// them verifies them. Manifests are verified anyway.
	Raw bool
}

// Every password of the suite holds this, and every token begins with
// tokenMark, so that a leak shows.
const (
	passwordMark = "s3cret"
	tokenMark    = "token-"
)

// patience bounds every single case: a Source that hangs fails.
const patience = 60 * time.Second

// nobody and acme are who asks, where it does not matter who else there is.
func nobody() Caller { return Caller{} }

func acme() Caller {
	return Caller{Organisation: "acme", User: "acme-bot", Password: passwordMark + "-acme"}
}

type suiteCase struct {
	name string
	run  func(t *testing.T, s Suite)
}

// TestSource tries the Sources that s makes.
func TestSource(t *testing.T, s Suite) {
	for _, c := range slices.Concat(readCases(), pullCases(), faultCases(), errorCases(), cancelCases(), listCases(), viewCases()) {
		t.Run(c.name, func(t *testing.T) { c.run(t, s) })
	}
}

// within is a context that ends with the case, or when patience does.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// open makes a registry with one repository, acme/app, and a Source for it.
func (s Suite) open(t *testing.T, o Options, c Caller) (*Registry, oci.Source) {
	t.Helper()
	r := New(t, o)
	r.AddRepo("acme/app")
	if c.User != "" {
		r.AddUser(c.User, c.Password, "acme/**")
	}
	return r, s.New(t, r, c)
}

// blobOf and manifestOf name objects of acme/app.
func blobOf(d oci.Digest) oci.Object {
	return oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: d}
}

func manifestOf(d oci.Digest) oci.Object {
	return oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: d}
}

// addManifest puts a small manifest into acme/app.
func addManifest(r *Registry, tag string) (oci.Digest, []byte) {
	data := []byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[],"annotations":{"for":"` + tag + `"}}`)
	return r.AddManifest("acme/app", tag, v1.MediaTypeImageIndex, data), data
}

// noEnd is how many bytes no content of the suite has.
const noEnd = 32 << 20

// read takes what rng names out of a Content, by seeking where it can and by
// skipping where the piece begins earlier.
func read(c *oci.Content, rng oci.Range, size int64) ([]byte, error) {
	start, end := span(rng, size)
	at, body := c.Offset, bodyOf(c)
	if k, ok := body.(io.Seeker); ok {
		if _, err := k.Seek(start, io.SeekStart); err != nil {
			return nil, err
		}
		at = start
	}
	if at > start {
		return nil, errors.New("the piece begins after what was asked for")
	}
	if _, err := io.CopyN(io.Discard, body, start-at); err != nil {
		return nil, err
	}
	if _, seeks := body.(io.Seeker); seeks && rng.Length > 0 {
		data := make([]byte, end-start)
		_, err := io.ReadFull(body, data)
		return data, err
	}
	// To the end, since only that tells whether it ends cleanly, but not for ever.
	var buf bytes.Buffer
	buf.Grow(int(size) + bytes.MinRead)
	n, err := buf.ReadFrom(io.LimitReader(body, noEnd))
	if n == noEnd {
		return nil, errors.New("the body does not end")
	}
	data := buf.Bytes()
	if rng.Length > 0 && int64(len(data)) > end-start {
		data = data[:end-start]
	}
	return data, err
}

// span is where a range lies in an object of size bytes.
func span(r oci.Range, size int64) (start, end int64) {
	if r.Start < 0 {
		return max(0, size+r.Start), size
	}
	if r.Length == 0 {
		return min(r.Start, size), size
	}
	return min(r.Start, size), min(r.Start+r.Length, size)
}

// mustRead opens and reads, and wants exactly want: the whole object's bytes.
func mustRead(t *testing.T, src oci.Source, o oci.Object, rng oci.Range, want []byte) {
	t.Helper()
	c, err := src.Open(within(t), o, rng)
	if err != nil {
		t.Errorf("opening %s %s %+v: %v", o.Kind, o.Digest, rng, err)
		return
	}
	defer closeBody(t, c)
	checkContent(t, c, o, int64(len(want)))
	start, end := span(rng, int64(len(want)))
	got, err := read(c, rng, int64(len(want)))
	if err != nil {
		t.Errorf("reading %s %s %+v: %v after %d bytes", o.Kind, o.Digest, rng, err, len(got))
	} else if !bytes.Equal(got, want[start:end]) {
		t.Errorf("reading %s %s %+v: %d bytes, not the %d right ones", o.Kind, o.Digest, rng, len(got), end-start)
	}
}

// checkContent holds what a Content says about itself to the truth.
func checkContent(t *testing.T, c *oci.Content, o oci.Object, size int64) {
	t.Helper()
	if c.Digest != o.Digest {
		t.Errorf("%s %s came as %s", o.Kind, o.Digest, c.Digest)
	}
	if c.Size != size && c.Size != -1 {
		t.Errorf("%s %s: size %d, want %d", o.Kind, o.Digest, c.Size, size)
	}
	if o.Kind == oci.Manifest && c.MediaType == "" {
		t.Errorf("manifest %s has no media type", o.Digest)
	}
	if c.Offset < 0 || c.Length < -1 || c.Length >= 0 && c.Offset+c.Length > size {
		t.Errorf("%s %s: %d bytes from %d on, of %d", o.Kind, o.Digest, c.Length, c.Offset, size)
	}
	if c.Data != nil && !bytes.Equal(c.Data, nil) && oci.DigestOf(c.Data) != o.Digest && o.Digest.Algorithm() == "sha256" {
		t.Errorf("%s %s came with other data", o.Kind, o.Digest)
	}
}

// rightOrError is what a Source owes whatever happens: the right bytes, or an
// error before a clean end. It says which.
func rightOrError(t *testing.T, src oci.Source, o oci.Object, rng oci.Range, want []byte) (right bool) {
	t.Helper()
	c, err := src.Open(within(t), o, rng)
	if err != nil {
		failed(t, err)
		return false
	}
	defer closeBody(t, c)
	start, end := span(rng, int64(len(want)))
	got, err := read(c, rng, int64(len(want)))
	if err != nil {
		checkSecrets(t, err)
		return false
	}
	if !bytes.Equal(got, want[start:end]) {
		t.Errorf("%s %s %+v ended cleanly after %d wrong bytes", o.Kind, o.Digest, rng, len(got))
	}
	return true
}

// bodyOf is what a Content is read from.
func bodyOf(c *oci.Content) io.Reader {
	if c.Data != nil {
		return bytes.NewReader(c.Data)
	}
	return c.Body
}

func closeBody(t *testing.T, c *oci.Content) {
	t.Helper()
	if c.Body == nil {
		return
	}
	if err := c.Body.Close(); err != nil {
		t.Logf("closing a body: %v", err) // after a broken read this may well fail
	}
}

// failed wants err to be an *oci.Error that may be shown, of one of classes if
// any are given.
func failed(t *testing.T, err error, classes ...oci.Class) *oci.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", classes)
	}
	e, ok := errors.AsType[*oci.Error](err)
	if !ok {
		t.Errorf("%T %v is no *oci.Error", err, err)
		return oci.AsError(err)
	}
	if e.Message == "" || oci.OneLine(e.Message, 1000) != e.Message {
		t.Errorf("message %q cannot be shown", e.Message)
	}
	checkSecrets(t, err)
	if len(classes) > 0 && !slices.Contains(classes, e.Class) {
		t.Errorf("class %s, want %v: %v", e.Class, classes, err)
	}
	return e
}

func checkSecrets(t *testing.T, err error) {
	t.Helper()
	for _, mark := range []string{passwordMark, tokenMark, "signature="} {
		if strings.Contains(err.Error(), mark) {
			t.Errorf("an error tells a secret: %v", err)
		}
	}
}

// anyCall are the calls that ask for something, as one list, so that what
// holds for one is tried with all.
func anyCall(tag string, m, b oci.Digest) map[string]func(context.Context, oci.Source) error {
	return map[string]func(context.Context, oci.Source) error{
		"Resolve":       func(ctx context.Context, s oci.Source) error { _, err := s.Resolve(ctx, "acme/app", tag); return err },
		"Stat manifest": func(ctx context.Context, s oci.Source) error { return stat(ctx, s, manifestOf(m)) },
		"Stat blob":     func(ctx context.Context, s oci.Source) error { return stat(ctx, s, blobOf(b)) },
		"Open manifest": func(ctx context.Context, s oci.Source) error { return drain(ctx, s, manifestOf(m)) },
		"Open blob":     func(ctx context.Context, s oci.Source) error { return drain(ctx, s, blobOf(b)) },
		"List": func(ctx context.Context, s oci.Source) error {
			_, err := s.List(ctx, oci.ListRequest{Kind: oci.Tags, Repo: "acme/app"})
			return err
		},
	}
}

func stat(ctx context.Context, s oci.Source, o oci.Object) error {
	_, err := s.Stat(ctx, o)
	return err
}

func drain(ctx context.Context, s oci.Source, o oci.Object) error {
	c, err := s.Open(ctx, o, oci.Range{})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(io.Discard, bodyOf(c))
	return err
}
