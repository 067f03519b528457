package cache_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"berth/cache"
	"berth/oci"
)

// A stranger makes the fill run and leaves before the registry was asked for it;
// somebody who is known to have the right brings it on. The stranger comes back
// and is still one: that it was there first proves nothing.
func TestStrangerThatCameFirst(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(40, 6*mib)
	obj := h.addBlob("acme/app", data)
	acme, globex := h.source("acme", "a"), h.source("globex", "g")
	if _, err := acme.Stat(t.Context(), obj); err != nil { // access and membership are proven, and nothing is kept
		t.Fatal(err)
	}
	h.set(func() { h.private["acme/app"] = []string{"acme"} })
	gate := make(chan struct{})
	h.body = func(_ call, b []byte) io.Reader {
		return &gated{r: bytes.NewReader(b), open: gate, upTo: mib, ctx: t.Context()}
	}

	// On one processor the fill's worker starts only when this goroutine waits.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := globex.Open(gone, obj, oci.Range{}); err == nil {
		t.Fatal("somebody who had left got an answer")
	}
	c, err := acme.Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	again, err := globex.Open(short, obj, oci.Range{})
	if oci.ClassOf(err) != oci.Denied {
		t.Errorf("globex, which may not read: %v", err)
	}
	if again != nil {
		again.Close() // it should not be there
	}
	// The same one is let in as soon as the registry says so.
	h.set(func() { h.private["acme/app"] = []string{"acme", "globex"} })
	h.advance(time.Second)
	late, err := globex.Open(short, obj, oci.Range{})
	if err != nil {
		t.Fatalf("globex, which may read by now: %v", err)
	}
	late.Close()
	close(gate)
	if got, err := io.ReadAll(c.Body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("acme: %d bytes, %v", len(got), err)
	}
	if err := c.Body.Close(); err != nil {
		t.Error(err)
	}
}
