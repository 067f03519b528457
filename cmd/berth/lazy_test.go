package main

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"sync"
	"testing"

	"berth/internal/ocitest"
)

// piece is a range of the layer, by what it should be.
func (l layer) piece(t testing.TB, from, size int64) []byte {
	t.Helper()
	want := make([]byte, size)
	if _, err := ocitest.Noise(layerSeed, l.size).ReadAt(want, from); err != nil {
		t.Fatal(err)
	}
	return want
}

func (c *client) wantPiece(l layer, header string, from, size int64) {
	c.t.Helper()
	if a := c.get(l.path, "Range", header); a.status != http.StatusPartialContent || !bytes.Equal(a.body, l.piece(c.t, from, size)) {
		c.t.Errorf("%s: status %d, %d bytes, %v", header, a.status, len(a.body), a.err)
	}
}

// The end of a large blob that nobody has is there long before the rest, also while
// somebody reads it from the start over all the connections that a blob may have.
func TestEndOfAColdBlob(t *testing.T) {
	t.Parallel()
	const size = 256 << 20
	for name, reading := range map[string]bool{"nobody reads it": false, "somebody does": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			l := newLayer(h, size)
			c := h.nobody(h.serve())
			rest := make(chan part, 1)
			var slow *ocitest.Injection
			most := int64(size / 20)
			if reading {
				// Four runs of 16 MiB, slowly: whoever waited for the end of one would
				// find all four nearly sent. A busy machine is no reason for that.
				most = 4 * 12 << 20
				slow = l.hub.Inject(ocitest.Match{Server: ocitest.CDNServer}, 0, ocitest.Slow(4<<20))
				go func() { rest <- c.part(l.path) }()
				if err := l.hub.WaitInFlight(soon(t), ocitest.Match{Server: ocitest.CDNServer}, 4); err != nil {
					t.Fatal(err)
				}
			}
			c.wantPiece(l, "bytes=-1000", size-1000, 1000)
			if sent := l.hub.BlobBytes(l.digest); sent > most {
				t.Errorf("upstream had sent %d bytes when the end was there, %.1f %%", sent, 100*float64(sent)/size)
			}
			if reading {
				slow.Remove()
				l.check(t, <-rest, 0)
				l.once(t)
			}
		})
	}
}

// containerd asks for a layer in four open-ended ranges at once, and hangs up
// where the next one begins.
func TestFourOpenEndedRanges(t *testing.T) {
	t.Parallel()
	const size = 64<<20 + 4321
	h := newHome(t)
	l := newLayerAt(h, size, ocitest.Options{CDN: ocitest.CDNSame})
	c := h.nobody(h.serve())
	var all sync.WaitGroup
	for i := range int64(4) {
		all.Go(func() {
			from, to := i*size/4, (i+1)*size/4
			resp, err := c.send(soon(t), http.MethodGet, l.path, "Range", fmt.Sprintf("bytes=%d-", from))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			n, sum, err := hashOf(io.LimitReader(resp.Body, to-from))
			_, want, _ := hashOf(io.NewSectionReader(ocitest.Noise(layerSeed, size), from, to-from)) // it is the same length
			if err != nil || n != to-from || sum != want {
				t.Errorf("from %d: %d of %d bytes, %v", from, n, to-from, err)
			}
		})
	}
	all.Wait()
	l.check(t, c.part(l.path), 0)
	if sent := l.hub.BlobBytes(l.digest); float64(sent) > 1.1*size {
		t.Errorf("upstream sent %.2f copies", float64(sent)/size)
	}
}

// What a lazy snapshotter does: two bytes to see that ranges work, the footer,
// the table of contents, scattered chunks, several at once; and the whole later.
func TestLazySnapshotter(t *testing.T) {
	t.Parallel()
	const size, mib = 64 << 20, 1 << 20
	h := newHome(t)
	l := newLayer(h, size)
	c := h.nobody(h.serve())
	c.wantPiece(l, "bytes=0-1", 0, 2)
	c.wantPiece(l, "bytes=-51", size-51, 51)
	c.wantPiece(l, fmt.Sprintf("bytes=%d-%d", size-300_000, size-52), size-300_000, 299_949)
	for _, at := range []int64{50 * mib, 3 * mib, 20*mib + 5, 33*mib - 10} {
		c.wantPiece(l, fmt.Sprintf("bytes=%d-%d", at, at+65_535), at, 65_536)
	}
	c.wantPieces(l, []int64{10 * mib, 40 * mib, 41*mib + 7, 60 * mib}, 20_000)
	if sent := l.hub.BlobBytes(l.digest); sent > 14*mib {
		t.Errorf("upstream sent %d bytes for a dozen pieces", sent)
	}
	l.check(t, c.part(l.path), 0)
	if sent := l.hub.BlobBytes(l.digest); sent > size+1 { // the first byte was asked for its size alone
		t.Errorf("upstream sent %d bytes of %d", sent, size)
	}
}

// wantPieces asks for several pieces of the same size in one request.
func (c *client) wantPieces(l layer, at []int64, size int64) {
	c.t.Helper()
	header := "bytes="
	for i, from := range at {
		if i > 0 {
			header += ","
		}
		header += fmt.Sprintf("%d-%d", from, from+size-1)
	}
	a := c.get(l.path, "Range", header)
	_, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil || a.status != http.StatusPartialContent {
		c.t.Fatalf("status %d, %v", a.status, err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, from := range at {
		p, err := parts.NextPart()
		if err != nil {
			c.t.Fatal(err)
		}
		got, err := io.ReadAll(p)
		if err != nil || !bytes.Equal(got, l.piece(c.t, from, size)) {
			c.t.Errorf("the piece at %d: %d bytes, %v", from, len(got), err)
		}
	}
}
