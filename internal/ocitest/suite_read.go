package ocitest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// readCases: what is there is found, and is what it should be.
func readCases() []suiteCase {
	return []suiteCase{
		{"resolve", testResolve},
		{"resolve without a digest header", testResolveNoDigest},
		{"stat", testStat},
		{"open a manifest", testOpenManifest},
		{"open a blob", testOpenBlob},
		{"open ranges", testOpenRanges},
		{"open beyond the end", testOpenBeyond},
		{"open an empty blob", testOpenEmpty},
		{"open by sha512", testOpenSHA512},
		{"open a large blob", testOpenLarge},
		{"open many at once", testOpenMany},
		{"close early", testCloseEarly},
		{"a body that seeks", testSeek},
		{"again", testAgain},
	}
}

func testResolve(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d, data := addManifest(r, "v1")
	got, err := src.Resolve(within(t), "acme/app", "v1")
	if err != nil {
		t.Fatalf("resolving v1: %v", err)
	}
	if got.Digest != d || got.MediaType != v1.MediaTypeImageIndex || got.Size != int64(len(data)) {
		t.Errorf("v1 is %+v, want %s, %d bytes", got.Descriptor, d, len(data))
	}
	if got.Data != nil && !bytes.Equal(got.Data, data) {
		t.Errorf("v1 came with other data")
	}
	if got.Asked.IsZero() {
		t.Error("a first answer does not say when the registry was asked")
	}

	// Who knows nothing yet sees what a tag means now.
	d2, _ := addManifest(r, "v2")
	r.SetTag("acme/app", "v1", d2)
	if got, err := s.New(t, r, nobody()).Resolve(within(t), "acme/app", "v1"); err != nil || got.Digest != d2 {
		t.Errorf("v1 after it moved: %s, %v; want %s", got.Digest, err, d2)
	}
}

// Some registries leave Docker-Content-Digest out: then the manifest itself
// tells.
func testResolveNoDigest(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d, _ := addManifest(r, "v1")
	r.Inject(Match{Kind: Manifest}, 0, NoHeader("Docker-Content-Digest"))
	got, err := src.Resolve(within(t), "acme/app", "v1")
	if err != nil || got.Digest != d {
		t.Errorf("v1 is %s, %v; want %s", got.Digest, err, d)
	}
}

func testStat(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d, data := addManifest(r, "v1")
	b := r.AddNoise("acme/app", 1, 1000)
	for o, size := range map[oci.Object]int64{manifestOf(d): int64(len(data)), blobOf(b): 1000} {
		c, err := src.Stat(within(t), o)
		if err != nil {
			t.Errorf("stat of %s: %v", o.Kind, err)
			continue
		}
		checkContent(t, c, o, size)
		if c.Body != nil || c.Size != size {
			t.Errorf("stat of %s: size %d, want %d; body %T", o.Kind, c.Size, size, c.Body)
		}
	}
	if sent := r.BlobBytes(b); sent > 1 {
		t.Errorf("stat of a blob fetched %d bytes, want one", sent)
	}
}

func testOpenManifest(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d, data := addManifest(r, "v1")
	mustRead(t, src, manifestOf(d), oci.Range{}, data)
	c, err := src.Open(within(t), manifestOf(d), oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, c)
	if c.MediaType != v1.MediaTypeImageIndex || c.Size != int64(len(data)) || !bytes.Equal(c.Data, data) || c.Body != nil {
		t.Errorf("%s, %d bytes, %d of them in memory, body %T", c.MediaType, c.Size, len(c.Data), c.Body)
	}
}

func testOpenBlob(t *testing.T, s Suite) {
	r, src := s.open(t, Options{OneCopy: true}, nobody())
	d := r.AddNoise("acme/app", 1, 100_003)
	mustRead(t, src, blobOf(d), oci.Range{}, r.Bytes("acme/app", d))
}

func testOpenRanges(t *testing.T, s Suite) {
	const size = 300_007
	for name, o := range map[string]Options{"from the registry": {}, "from a cdn": {CDN: CDNSame}, "without ranges": {NoRange: true}} {
		t.Run(name, func(t *testing.T) {
			r, src := s.open(t, o, nobody())
			for i, rng := range []oci.Range{
				{}, {Start: 1}, {Length: 1}, {Start: 500, Length: 1000}, {Start: size - 1}, {Start: size - 1, Length: 1}, {Start: size - 10, Length: 100},
				{Length: size}, {Start: -1}, {Start: -500}, {Start: -size}, {Start: -2 * size}, {Start: 65_536, Length: 131_072}, {Start: 10, Length: 20, Sparse: true},
			} {
				d := r.AddNoise("acme/app", uint64(i), size) // each range by itself
				mustRead(t, src, blobOf(d), rng, r.Bytes("acme/app", d))
			}
			// And all kinds of pieces of one.
			d := r.AddNoise("acme/app", 99, size)
			for _, rng := range []oci.Range{{Start: -9}, {Start: 1000, Length: 9}, {Start: 5}, {}} {
				mustRead(t, src, blobOf(d), rng, r.Bytes("acme/app", d))
			}
		})
	}
}

// Nothing lies beyond the end: no byte of it, and no lie about it.
func testOpenBeyond(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d := r.AddNoise("acme/app", 1, 1000)
	for _, rng := range []oci.Range{{Start: 1000}, {Start: 5000, Length: 10}} {
		c, err := src.Open(within(t), blobOf(d), rng)
		if err != nil {
			if e := failed(t, err); e.Class.Refuses() {
				t.Errorf("%+v was refused as %s", rng, e.Class)
			}
			continue
		}
		checkContent(t, c, blobOf(d), 1000)
		if got, err := read(c, rng, 1000); err == nil && len(got) > 0 {
			t.Errorf("%+v of 1000 bytes has %d bytes", rng, len(got))
		}
		closeBody(t, c)
	}
}

func testOpenEmpty(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	mustRead(t, src, blobOf(r.AddBlob("acme/app", nil)), oci.Range{}, nil)
}

func testOpenSHA512(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	data := []byte("by another algorithm")
	d := digest.SHA512.FromBytes(data)
	r.SetBlob("acme/app", d, bytes.NewReader(data), int64(len(data)))
	mustRead(t, src, blobOf(d), oci.Range{}, data)
	_, data = addManifest(r, "v1")
	d = digest.SHA512.FromBytes(data)
	r.SetManifest("acme/app", d, v1.MediaTypeImageIndex, data)
	mustRead(t, src, manifestOf(d), oci.Range{}, data)
}

func testOpenLarge(t *testing.T, s Suite) {
	r, src := s.open(t, Options{CDN: CDNSame, OneCopy: true}, nobody())
	d := r.AddNoise("acme/app", 1, 6<<20+11)
	mustRead(t, src, blobOf(d), oci.Range{}, r.Bytes("acme/app", d))
}

func testOpenMany(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d := r.AddNoise("acme/app", 1, 5<<20+11)
	want := r.Bytes("acme/app", d)
	m, data := addManifest(r, "v1")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			mustRead(t, src, blobOf(d), oci.Range{Start: int64(i) * 1000}, want)
			mustRead(t, src, manifestOf(m), oci.Range{}, data)
		})
	}
	wg.Wait()
}

// A reader may leave before the end, or before the start, and the next one gets
// everything.
func testCloseEarly(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d := r.AddNoise("acme/app", 1, 5<<20)
	for _, n := range []int64{0, 1, 100_000} {
		c, err := src.Open(within(t), blobOf(d), oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, c.Body, n); err != nil {
			t.Errorf("reading %d bytes: %v", n, err)
		}
		closeBody(t, c)
		if k, err := c.Body.Read(make([]byte, 1)); err == nil || k != 0 {
			t.Errorf("a closed body gave %d bytes, %v", k, err)
		}
	}
	mustRead(t, src, blobOf(d), oci.Range{}, r.Bytes("acme/app", d))
}

// A body that seeks reaches the whole object and stands at its start.
func testSeek(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d := r.AddNoise("acme/app", 1, 200_000)
	want := r.Bytes("acme/app", d)
	c, err := src.Open(within(t), blobOf(d), oci.Range{Start: 100, Length: 50})
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, c)
	k, ok := c.Body.(io.ReadSeeker)
	if !ok {
		if c.Offset > 100 || c.Length >= 0 && c.Offset+c.Length < 150 {
			t.Errorf("a piece of %d bytes from %d on does not hold 100-149", c.Length, c.Offset)
		}
		return
	}
	if at, err := k.Seek(0, io.SeekCurrent); at != 0 || err != nil {
		t.Errorf("it stands at %d, %v; want 0", at, err)
	}
	if end, err := k.Seek(0, io.SeekEnd); end != 200_000 || err != nil {
		t.Errorf("it ends at %d, %v; want 200000", end, err)
	}
	for _, at := range []int64{150_000, 100, 0, 199_990} {
		if err := readsAt(k, at, want[at:at+10]); err != nil {
			t.Error(err)
		}
	}
	if _, err := k.Seek(-1, io.SeekStart); err == nil {
		t.Error("it seeks before its start")
	}
}

func readsAt(k io.ReadSeeker, at int64, want []byte) error {
	if _, err := k.Seek(at, io.SeekStart); err != nil {
		return fmt.Errorf("seeking to %d: %w", at, err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(k, got); err != nil {
		return fmt.Errorf("reading at %d: %w", at, err)
	}
	if !bytes.Equal(got, want) {
		return errors.New("seeking led to other bytes")
	}
	return nil
}

// Where a Content can be opened again, the piece is right, the registry is not
// asked, and an expired target proves nothing.
func testAgain(t *testing.T, s Suite) {
	r, src := s.open(t, Options{CDN: CDNSame}, nobody())
	d := r.AddNoise("acme/app", 1, 300_000)
	want := r.Bytes("acme/app", d)
	c, err := src.Open(within(t), blobOf(d), oci.Range{Length: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, c)
	if c.Again == nil {
		return
	}
	before := r.BlobGETs()
	rng := oci.Range{Start: 200_000, Length: 1000}
	again, err := c.Again(within(t), rng)
	if err != nil {
		t.Fatalf("opening another piece: %v", err)
	}
	defer closeBody(t, again)
	if got, err := read(again, rng, 300_000); err != nil || !bytes.Equal(got, want[200_000:201_000]) {
		t.Errorf("the other piece: %d bytes, %v", len(got), err)
	}
	if r.BlobGETs() != before {
		t.Error("the registry was asked for the other piece")
	}
	r.ExpireRedirects()
	if late, err := c.Again(within(t), rng); err == nil {
		closeBody(t, late)
		t.Error("an expired target gave a piece")
	}
}
