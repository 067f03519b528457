package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// rawAnswer is an answer as it came over the wire: no HTTP client made it better.
type rawAnswer struct {
	status int
	header http.Header
	body   []byte
	// whole says that the answer ended as its header had promised.
	whole bool
}

// raw sends one GET over a connection of its own and reads until the other side
// closes it.
func (c *client) raw(path string, header ...string) rawAnswer {
	c.t.Helper()
	host := strings.TrimPrefix(c.base, "http://")
	var d net.Dialer
	conn, err := d.DialContext(soon(c.t), "tcp", host)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", path, host)
	for i := 0; i < len(header); i += 2 {
		fmt.Fprintf(conn, "%s: %s\r\n", header[i], header[i+1])
	}
	io.WriteString(conn, "\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		c.t.Fatalf("reading the header: %v", err)
	}
	defer resp.Body.Close()
	a := rawAnswer{status: resp.StatusCode, header: resp.Header}
	if resp.ContentLength >= 0 {
		a.body, err = io.ReadAll(r) // whatever comes, also beyond the length
		a.whole = err == nil && strconv.Itoa(len(a.body)) == resp.Header.Get("Content-Length")
	} else {
		a.body, err = io.ReadAll(resp.Body)
		a.whole = err == nil && len(resp.TransferEncoding) > 0
	}
	return a
}

// A layer is on its way to clients before all of it is here, so a wrong byte in
// it shows too late for an error. Then the answer must not end well: whoever
// gets 200 and the full length believes it. (Of some of these, berth makes the
// right thing.)
func TestWrongBytesNeverEndWell(t *testing.T) {
	t.Parallel()
	const size = 6<<20 + 77
	wrong := map[string]ocitest.Fault{
		"first byte":    ocitest.FlipBit(0),
		"in the middle": ocitest.FlipBit(3_000_000),
		"last byte":     ocitest.FlipBit(size - 1),
		"cut short":     {Cut: ocitest.CutEnd, CutAt: size - 1},
		"too much":      {Endless: true},
		"chunked":       {Chunked: true, Flip: true, FlipAt: size / 2},
		"no ranges":     {IgnoreRange: true, Flip: true, FlipAt: size / 2},
		"a page":        {Status: http.StatusOK, Body: []byte("<html>log in</html>"), Header: http.Header{"Content-Type": {"text/html"}}},
		"half a page":   {Status: http.StatusPartialContent, Body: make([]byte, 100), Header: http.Header{"Content-Range": {"bytes 0-99/100"}}},
	}
	for what, fault := range wrong {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			hub := ocitest.New(t, ocitest.Options{})
			d := hub.AddNoise("library/big", 5, size)
			h.registry("docker.io", hub)
			c := h.nobody(h.serve())
			path := "/v2/library/big/blobs/" + d.String()
			right := hub.Bytes("library/big", d)
			bad := hub.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, fault)
			for _, header := range [][]string{nil, {"Range", "bytes=0-"}, {"Range", "bytes=1000-"}, nil} {
				a := c.raw(path, header...)
				if a.status < 300 && a.whole && !bytes.HasSuffix(right, a.body) {
					t.Errorf("asked with %v: %d and all of %d bytes", header, a.status, len(a.body))
				}
				if a.status >= 300 && (a.status != http.StatusServiceUnavailable || !a.whole || a.header.Get("Retry-After") == "") {
					t.Errorf("asked with %v: %d, whole %t, %v", header, a.status, a.whole, a.header)
				}
			}
			for _, file := range h.kept(d.Encoded()) {
				if kept, err := os.ReadFile(file); err != nil || oci.DigestOf(kept) != d {
					t.Errorf("wrong bytes were kept in %s (%v)", file, err)
				}
			}
			// Twice wrong is left alone for a minute.
			bad.Remove()
			h.clock.forward(61e9)
			if a := c.get(path); a.status != http.StatusOK || a.err != nil || oci.DigestOf(a.body) != d {
				t.Errorf("when upstream is well again: status %d, %d bytes, %v", a.status, len(a.body), a.err)
			}
		})
	}
}

// One wrong copy costs those who got it another try, at once.
func TestOneWrongCopy(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	h.registry("docker.io", hub)
	c := h.nobody(h.serve())
	for seed := range uint64(10) {
		d := hub.AddNoise("library/big", seed, 4<<20+1000)
		hub.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: d}, 1, ocitest.FlipBit(4<<20))
		path := "/v2/library/big/blobs/" + d.String()
		right := func(p part) bool {
			return p.status == http.StatusOK && p.err == nil && fmt.Sprintf("%x", p.hash) == d.Encoded()
		}
		var failed atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				p := c.part(path)
				if right(p) {
					return
				}
				failed.Add(1)
				// 503 where the whole of it had come before the client got to read.
				if !errors.Is(p.err, io.ErrUnexpectedEOF) && p.status != http.StatusServiceUnavailable {
					t.Errorf("the wrong copy: status %d, %d bytes, %v", p.status, p.size, p.err)
				}
				if p = c.part(path); !right(p) {
					t.Errorf("the next: status %d, %d bytes, %v", p.status, p.size, p.err)
				}
			})
		}
		all.Wait()
		if failed.Load() == 0 {
			t.Error("nobody got the wrong copy")
		}
	}
}

// Up to 4 MiB are looked at before the first byte leaves, so that a wrong copy
// is replaced unseen.
func TestSmallWrongCopyIsNotSeen(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, 4000, 300_000, 4 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			hub := ocitest.New(t, ocitest.Options{})
			d := hub.AddNoise("library/small", uint64(size), size)
			h.registry("docker.io", hub)
			c := h.nobody(h.serve())
			in := hub.Inject(ocitest.Match{Kind: ocitest.Blob}, 1, ocitest.FlipBit(size-1))
			a := c.raw("/v2/library/small/blobs/" + d.String())
			if a.status != http.StatusOK || !a.whole || oci.DigestOf(a.body) != d {
				t.Errorf("status %d, %d bytes, whole %t", a.status, len(a.body), a.whole)
			}
			if in.Hits() != 1 {
				t.Error("there was no wrong copy")
			}
		})
	}
}

// Where every copy is wrong, the client hears so, and gets none of them.
func TestSmallWrongCopies(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/small", "1", ocitest.Image{Layers: []int64{100_000}})
	h.registry("docker.io", hub)
	c := h.nobody(h.serve())
	hub.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.FlipBit(10))
	hub.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 0, ocitest.FlipBit(10))
	for _, path := range []string{"blobs/" + image.Platforms[0].Layers[0].String(), "manifests/" + image.Digest.String(), "manifests/1"} {
		a := c.get("/v2/library/small/" + path)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || a.code() != string(oci.CodeUnknown) || len(a.body) > 1000 {
			t.Errorf("%s", a)
		}
	}
	if kept := h.kept(image.Digest.Encoded()); len(kept) > 0 {
		t.Errorf("a wrong manifest was kept in %v", kept)
	}
}
