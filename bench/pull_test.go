package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimiter_Connect: the first read waits until the connection would be made, and
// the rate holds for what is sent.
func TestLimiter_Connect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		l.set(step*10, 20*time.Millisecond) // a step in 100 ms
		here, there := net.Pipe()
		defer here.Close()
		defer there.Close()
		began := time.Now()
		c := l.slow(there)
		go func() {
			for range 2 {
				_, _ = here.Write([]byte("x"))
			}
		}()
		for range 2 { // the second does not wait
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != 20*time.Millisecond {
				t.Errorf("a byte was read after %v", took)
			}
		}
		go func() { _, _ = c.Write(make([]byte, 3*step)) }()
		for range 3 * step / 1024 {
			if _, err := here.Read(make([]byte, 1024)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 220*time.Millisecond || took > 240*time.Millisecond {
			t.Errorf("three steps were sent by %v", took)
		}
	})
}

// TestRegistry_Image: an image's manifest names blobs that are there, none of them in
// another image.
func TestRegistry_Image(t *testing.T) {
	t.Parallel()
	r := newRegistry(1 << 20)
	s := httptest.NewServer(r)
	defer s.Close()
	get := func(path string) []byte {
		var body saved
		if _, err := fetch(t.Context(), target{address: s.Listener.Addr().String(), path: "/v2/team/app/" + path, into: &body}); err != nil {
			t.Fatal(err)
		}
		return body.data
	}
	made := func(tag, like string) image {
		i, err := r.addImage(tag, 3, 100_000, like)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	one, two, like := made("one", ""), made("two", ""), made("like", "one")
	if len(like.Blobs) != 4 || !slices.Equal(like.Blobs[1:3], one.Blobs[1:3]) || like.Blobs[3] == one.Blobs[3] || like.Manifest == one.Manifest {
		t.Errorf("like %q is %q", one.Blobs, like.Blobs)
	}
	if _, err := r.addImage("more", 4, 100_000, "one"); err == nil {
		t.Error("an image of four layers is like one of three")
	}
	if len(one.Blobs) != 4 || slices.ContainsFunc(one.Blobs, func(d string) bool { return slices.Contains(two.Blobs, d) }) {
		t.Errorf("%d blobs, and perhaps in both images: %q, %q", len(one.Blobs), one.Blobs, two.Blobs)
	}
	type part struct {
		MediaType, Digest string
		Size              int
	}
	var m struct {
		MediaType string
		Config    part
		Layers    []part
	}
	data := get("manifests/one")
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); got != one.Manifest || m.MediaType != manifestType {
		t.Errorf("the manifest is %s of type %s, want %s", got, m.MediaType, one.Manifest)
	}
	for i, p := range append([]part{m.Config}, m.Layers...) {
		data := get("blobs/" + p.Digest)
		if i > 0 {
			unpacks(t, data)
		}
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); got != one.Blobs[i] || got != p.Digest || len(data) != p.Size {
			t.Errorf("blob %d: %d bytes with %s, want %+v and %s", i, len(data), got, p, one.Blobs[i])
		}
	}
}

// unpacks: a layer is an archive of one file.
func unpacks(t *testing.T, layer []byte) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(layer))
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); err != nil || n != h.Size || n < 99_000 {
		t.Errorf("%d bytes of %d: %v", n, h.Size, err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("then: %v", err)
	}
}

// saved keeps what is downloaded.
type saved struct {
	fileHash

	data []byte
}

func (s *saved) Write(p []byte) (int, error) {
	s.data = append(s.data, p...)
	return len(p), nil
}

// TestEngine_Has: an image that containerd has in part was not fetched.
func TestEngine_Has(t *testing.T) {
	t.Parallel()
	c := containerd{dir: t.TempDir()}
	there := filepath.Join(c.dir, "root/io.containerd.content.v1.content/blobs/sha256")
	if err := os.MkdirAll(there, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(there, "aa"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.has(t.Context(), "", image{Manifest: "sha256:aa"}); err != nil {
		t.Error(err)
	}
	if err := c.has(t.Context(), "", image{Manifest: "sha256:aa", Blobs: []string{"sha256:bb"}}); err == nil || !strings.Contains(err.Error(), "sha256/bb") {
		t.Errorf("got %v for a blob that is not there", err)
	}
}

// TestReport_Absent: what a peer has no figure for is not printed as 0.
func TestReport_Absent(t *testing.T) {
	t.Parallel()
	r := pulls()[0]
	if line := (figures{"cold s": 2.5}).line(&r); line != "2.50 cold s" {
		t.Errorf("the line is %q", line)
	}
	one := &rowResult{row: &r}
	one.put("direct", figures{"cold s": 2.5})
	if text := (&result{Rows: []*rowResult{one}}).markdown(); !strings.Contains(text, "| direct | 2.50 | - | - | - | - | - |") {
		t.Errorf("the table is\n%s", text)
	}
}
