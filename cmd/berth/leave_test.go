package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// layer is a large blob of a registry that complains when it has to send a byte
// twice.
type layer struct {
	hub    *ocitest.Registry
	digest oci.Digest
	size   int64
	path   string
}

const layerSeed = 3

func newLayer(h *home, size int64) layer {
	h.t.Helper()
	return newLayerAt(h, size, ocitest.Options{OneCopy: true, CDN: ocitest.CDNSame})
}

func newLayerAt(h *home, size int64, o ocitest.Options) layer {
	h.t.Helper()
	l := layer{hub: ocitest.New(h.t, o), size: size}
	l.digest = l.hub.AddNoise("library/big", layerSeed, size)
	l.path = "/v2/library/big/blobs/" + l.digest.String()
	h.registry("docker.io", l.hub, "allow_private: [127.0.0.0/8]")
	return l
}

// part is a piece of a blob as it arrived, by its hash.
type part struct {
	what   string
	status int
	size   int64
	hash   [sha256.Size]byte
	err    error
}

// part gets path and keeps nothing of it.
func (c *client) part(path string, header ...string) part {
	p := part{what: fmt.Sprint(path, " ", header)}
	resp, err := c.send(context.WithoutCancel(c.t.Context()), http.MethodGet, path, header...)
	if err != nil {
		p.err = err
		return p
	}
	defer resp.Body.Close()
	p.status = resp.StatusCode
	p.size, p.hash, p.err = hashOf(resp.Body)
	return p
}

func hashOf(r io.Reader) (n int64, sum [sha256.Size]byte, err error) {
	h := sha256.New()
	n, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return n, [sha256.Size]byte(h.Sum(nil)), err
}

// check wants all of it, or what is there from an offset on.
func (l layer) check(t testing.TB, p part, from int64) {
	t.Helper()
	_, want, err := hashOf(io.NewSectionReader(ocitest.Noise(layerSeed, l.size), from, l.size-from))
	if err != nil {
		t.Fatal(err)
	}
	if p.err != nil || p.hash != want {
		t.Errorf("%s: status %d, %d of %d bytes, error %v", p.what, p.status, p.size, l.size-from, p.err)
	}
}

// once wants every byte to have been sent once.
func (l layer) once(t testing.TB) {
	t.Helper()
	if sent := l.hub.BlobBytes(l.digest); sent != l.size {
		t.Errorf("upstream sent %d bytes of %d: %v", sent, l.size, l.hub.Requests(ocitest.Match{Kind: ocitest.Blob}))
	}
}

// readAndLeave reads n bytes of path and hangs up.
func (c *client) readAndLeave(path string, n int64) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(soon(c.t))
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.CopyN(io.Discard, resp.Body, n); err != nil {
		c.t.Fatalf("after %d bytes: %v", got, err)
	}
}

// The first client starts the download, and it may leave at any point: those
// who wait with it lose nothing, those who come later find what it had fetched,
// and no byte comes twice.
func TestFirstClientLeaves(t *testing.T) {
	t.Parallel()
	const size = 20<<20 + 12_345
	for _, after := range []int64{1, 1<<20 - 1, 1 << 20, 5_000_000, 16<<20 + 1, size - 1} {
		t.Run(fmt.Sprint("others wait/", after), func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			l := newLayer(h, size)
			c := h.nobody(h.serve())
			gate := l.holdAt(after)
			others := make(chan part)
			for range 3 {
				go func() { others <- c.part(l.path) }()
			}
			c.readAndLeave(l.path, after)
			gate.Open()
			for range 3 {
				l.check(t, <-others, 0)
			}
			l.once(t)
		})
		t.Run(fmt.Sprint("others come later/", after), func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			l := newLayer(h, size)
			c := h.nobody(h.serve())
			gate := l.holdAt(after)
			c.readAndLeave(l.path, after)
			resumed := make(chan part)
			go func() { resumed <- c.part(l.path, "Range", fmt.Sprintf("bytes=%d-", after)) }()
			gate.Open()
			l.check(t, <-resumed, after)
			l.check(t, c.part(l.path), 0)
			l.once(t)
		})
	}
}

// holdAt holds the download back until a little behind n bytes of the blob.
func (l layer) holdAt(n int64) *ocitest.Gate {
	const run = 16 << 20 // what is asked for at once
	g := ocitest.NewGate()
	start := n / run * run
	l.hub.Inject(ocitest.Match{Server: ocitest.CDNServer, Where: func(r ocitest.Request) bool {
		var from int64
		_, err := fmt.Sscanf(r.Range, "bytes=%d-", &from)
		return err == nil && from >= start
	}}, 0, ocitest.Fault{HoldBody: g, HoldAt: min(n-start+1000, l.size-start-1)})
	return g
}

// It may also leave before there is anything to read.
func TestFirstClientLeavesBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	l := newLayer(h, 6<<20)
	c := h.nobody(h.serve())
	gate := l.hub.Hold(ocitest.Match{Server: ocitest.CDNServer})
	ctx, leave := context.WithCancel(t.Context())
	first, second := make(chan error), make(chan part)
	go func() {
		resp, err := c.send(ctx, http.MethodGet, l.path)
		if err == nil {
			resp.Body.Close()
		}
		first <- err
	}()
	if err := gate.Wait(soon(t), 1); err != nil {
		t.Fatal(err)
	}
	leave()
	if err := <-first; err == nil {
		t.Error("the first client had an answer, though upstream had sent nothing")
	}
	go func() { second <- c.part(l.path) }()
	gate.Open()
	l.check(t, <-second, 0)
	l.once(t)
}

// Upstream cuts the body off. Clients get it all, and what came is not fetched
// again.
func TestUpstreamCutsOff(t *testing.T) {
	t.Parallel()
	for _, after := range []int64{0, 1, 1<<20 - 1, 1 << 20, 3_333_333, 16<<20 - 1} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			l := newLayer(h, 20<<20)
			l.hub.Inject(ocitest.Match{Server: ocitest.CDNServer}, 1, ocitest.CutAfter(after, ocitest.CutClose))
			l.check(t, h.nobody(h.serve()).part(l.path), 0)
			l.once(t)
		})
	}
}

// A large blob comes over several connections at once: leaving and coming back
// costs nothing there either.
func TestFirstClientLeavesALargeDownload(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	l := newLayer(h, 70<<20)
	l.hub.Inject(ocitest.Match{Server: ocitest.CDNServer}, 0, ocitest.Slow(60<<20))
	c := h.nobody(h.serve())
	c.readAndLeave(l.path, 2<<20)
	rest := make(chan part)
	go func() { rest <- c.part(l.path, "Range", fmt.Sprintf("bytes=%d-", 40<<20)) }()
	l.check(t, <-rest, 40<<20)
	l.check(t, c.part(l.path), 0)
	l.once(t)
}

// Who takes next to nothing of a download slows down nobody who joins it, though
// it came first.
func TestIdleReaderSlowsNobody(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	l := newLayer(h, 64<<20)
	c := h.nobody(h.serve())
	idle, err := c.send(soon(t), http.MethodGet, l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Body.Close()
	if _, err := io.ReadFull(idle.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.check(t, c.part(l.path), 0)
	l.once(t)
	// What it has not taken is still there for it.
	n, _, err := hashOf(idle.Body)
	if n != l.size-1 || err != nil {
		t.Errorf("the rest: %d bytes, %v", n, err)
	}
}
