package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
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

// queued holds what is asked for globex until it is for acme too, or for a minute.
func queued(c call) error {
	for range 600 {
		if c.principal.Organisation != "globex" || c.op != "open" || slices.Contains(c.along(), "acme") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// Whoever joins what another one has begun does not wait in that one's queue: the request
// that is already waiting there is told whom it is for by now. Blobs and manifests alike.
func TestDownload_WhoJoinsIsNotKeptByTheBeginnersQueue(t *testing.T) {
	for _, kind := range []oci.Kind{oci.Blob, oci.Manifest} {
		t.Run(kind.String(), func(t *testing.T) {
			in(t, func(t *testing.T, h *house) {
				obj := h.addBlob("acme/app", random(41, 6*mib))
				if kind == oci.Manifest {
					obj = h.addManifest("acme/app", "2", `{"schemaVersion":2,"manifests":[]}`)
				}
				for _, who := range []string{"acme", "globex"} { // both may read it
					if _, err := h.source(who, who).Stat(t.Context(), obj); err != nil {
						t.Fatal(err)
					}
				}
				h.set(func() { h.fault = queued })
				var all sync.WaitGroup
				for i, who := range []string{"globex", "acme"} {
					all.Go(func() {
						time.Sleep(time.Duration(i) * time.Second)
						begun := time.Now()
						c, err := h.source(who, who).Open(t.Context(), obj, oci.Range{})
						if err != nil {
							t.Errorf("%s: %v", who, err)
							return
						}
						if took := time.Since(begun); who == "acme" && took > 200*time.Millisecond {
							t.Errorf("it took %v", took)
						}
						if c.Body != nil {
							_, _ = io.Copy(io.Discard, c.Body)
							_ = c.Body.Close()
						}
					})
				}
				all.Wait()
				if n := h.count("open", kind); n != 1 {
					t.Errorf("it was fetched %d times", n)
				}
			})
		})
	}
}

// The registry fails for the account that began, at first or in the middle: who has joined
// gets the blob as himself.
func TestDownload_WhoJoinsIsNotKeptByTheBeginnersFaults(t *testing.T) {
	for name, from := range map[string]int64{"at first": 0, "in the middle": 16 * mib} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, h *house) {
				data := random(42, 20*mib)
				obj := h.addBlob("acme/app", data)
				for _, who := range []string{"acme", "globex"} {
					if _, err := h.source(who, who).Stat(t.Context(), obj); err != nil {
						t.Fatal(err)
					}
				}
				h.set(func() {
					h.fault = func(c call) error {
						if c.op != "open" {
							return nil
						}
						time.Sleep(2 * time.Second)
						if c.principal.Organisation == "globex" && c.rng.Start >= from {
							return &oci.Error{Class: oci.UpstreamError, Message: "502"}
						}
						return nil
					}
				})
				var all sync.WaitGroup
				for i, who := range []string{"globex", "acme"} {
					all.Go(func() {
						time.Sleep(time.Duration(i) * time.Second)
						c, err := h.source(who, who).Open(t.Context(), obj, oci.Range{})
						if err != nil {
							if who == "acme" {
								t.Errorf("%s: %v", who, err)
							}
							return
						}
						got, err := io.ReadAll(c.Body)
						if _ = c.Body.Close(); err != nil || !bytes.Equal(got, data) {
							t.Errorf("%s: %d bytes, %v", who, len(got), err)
						}
					})
				}
				all.Wait()
			})
		})
	}
}

// lent is a Memory. If it is full, whoever needs some gets what before says, or errFull.
type lent struct {
	full   bool
	needed int
}

var errFull = errors.New("no memory")

func (l *lent) Need(_ context.Context, before func() error) error {
	l.needed++
	if !l.full {
		return nil
	}
	if err := before(); err != nil {
		return err
	}
	return errFull
}

func (*lent) Keep() (release func(), ok bool) { return func() {}, true }

// What is read for a request is read into its share of memory, although the reading is
// nobody's: it outlasts a client who leaves, and so must the share.
func TestMemory_GoesWithWhatIsReadForARequest(t *testing.T) {
	h := newHouse(t, cache.Options{})
	obj := h.addManifest("acme/app", "1", `{"schemaVersion":2,"manifests":[]}`)
	acme, own := h.source("acme", "a"), &lent{}
	ctx := oci.WithMemory(t.Context(), own)
	if _, err := acme.Resolve(ctx, "acme/app", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := acme.Open(ctx, obj, oci.Range{}); err != nil {
		t.Fatal(err)
	}
	h.advance(time.Hour)
	if _, err := acme.Stat(ctx, obj); err != nil {
		t.Fatal(err)
	}
	for _, c := range h.calls {
		if c.memory != own && c.principal.Organisation == "acme" {
			t.Errorf("%s %s: read into %v", c.op, c.ref, c.memory)
		}
	}
	if len(h.calls) < 3 {
		t.Errorf("%d questions", len(h.calls))
	}
}

// What lies in memory needs none, whoever may have it. What does not does, and a stranger is
// told the same of both, although there is none.
func TestMemory_IsNeededForWhatIsNotInIt(t *testing.T) {
	h := newHouse(t, cache.Options{})
	hot := h.addManifest("acme/app", "1", `{"schemaVersion":2,"manifests":[]}`)
	cold := h.addManifest("acme/app", "2", `{"schemaVersion":2,"manifests":[ ]}`)
	h.set(func() { h.private["acme/app"] = []string{"acme"} })
	acme := h.source("acme", "a")
	open := func(s oci.Source, o oci.Object, m *lent) error {
		_, err := s.Open(oci.WithMemory(t.Context(), m), o, oci.Range{})
		return err
	}
	first := &lent{}
	if err := open(acme, hot, first); err != nil || first.needed == 0 {
		t.Fatalf("fetched into %d shares: %v", first.needed, err)
	}
	full := &lent{full: true}
	if err := open(acme, hot, full); err != nil || full.needed != 0 {
		t.Errorf("in memory, and %d shares were needed: %v", full.needed, err)
	}
	if err := open(acme, cold, full); !errors.Is(err, errFull) {
		t.Errorf("fetched without memory: %v", err)
	}
	stranger := h.source("globex", "g")
	a, b := open(stranger, hot, &lent{full: true}), open(stranger, cold, &lent{full: true})
	if oci.ClassOf(a) != oci.Denied || oci.ClassOf(b) != oci.ClassOf(a) {
		t.Errorf("a stranger is told %v, and of what is not here %v", a, b)
	}
}
