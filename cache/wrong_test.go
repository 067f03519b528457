package cache_test

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/oci"
)

// An answer that proves nothing lets nobody read what another's request brings,
// although it began the download.
func TestAsker_AnswerThatProvesNothing(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(60, 6*mib)
	obj := h.addBlob("acme/app", data)
	h.unproven = func(c call) bool { return c.principal.Organisation == "globex" }
	h.fault = func(c call) error {
		if c.principal.Organisation == "globex" && c.op != "open" {
			return &oci.Error{Class: oci.Denied, Message: "globex may not read acme/app"}
		}
		return nil
	}
	if got, err := get(t.Context(), h.source("globex", "g"), obj, oci.Range{}); oci.ClassOf(err) != oci.Denied {
		t.Errorf("globex, whose answer proved nothing, and then was denied: %d bytes, %v", len(got), err)
	}
	if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
		t.Error("wrong bytes")
	}
	if got, err := get(t.Context(), h.source("globex", "g"), obj, oci.Range{}); oci.ClassOf(err) != oci.Denied {
		t.Errorf("globex, of what is there: %d bytes, %v", len(got), err)
	}
}

// garbageFor sends wrong bytes to these organisations.
func garbageFor(organisations ...string) func(call, []byte) io.Reader {
	wrong := map[string]bool{}
	for _, o := range organisations {
		wrong[o] = true
	}
	return func(c call, b []byte) io.Reader {
		if wrong[c.principal.Organisation] && c.kind == oci.Blob {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 4
		}
		return bytes.NewReader(b)
	}
}

// A registry that answers one account with garbage keeps the blob from that account,
// and from nobody else.
func TestCorrupt_ForOneAccount(t *testing.T) {
	for name, size := range map[string]int{"small": 3 * mib, "large": 6 * mib} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, cache.Options{})
			data := random(61, size)
			obj := h.addBlob("acme/app", data)
			h.body = garbageFor("globex")
			globex := h.source("globex", "g")
			for range 4 {
				if got, err := get(t.Context(), globex, obj, oci.Range{}); oci.ClassOf(err) != oci.Corrupt {
					t.Fatalf("globex: %d bytes, %v", len(got), err)
				}
			}
			before := h.count("open", oci.Blob)
			if _, err := globex.Open(t.Context(), obj, oci.Range{}); oci.ClassOf(err) != oci.Corrupt {
				t.Errorf("globex again: %v", err)
			}
			if n := h.count("open", oci.Blob); n != before {
				t.Error("the registry was asked again for somebody who got garbage twice")
			}
			if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
				t.Error("acme: wrong bytes")
			}
		})
	}
}

// Whoever is told that a download failed, and comes back at once as somebody else,
// finds another one: also a reader that came while the wrong bytes were being deleted.
func TestCorrupt_FailedDownloadIsNotFoundAgain(t *testing.T) {
	h := newHouse(t, cache.Options{})
	h.body = garbageFor("globex")
	for round := range 6 {
		data := random(uint64(100+round), 4*mib+1)
		obj := h.addBlob("acme/app", data)
		var readers sync.WaitGroup
		for range 8 {
			readers.Go(func() {
				_, _ = get(t.Context(), h.source("globex", "g"), obj, oci.Range{}) // it may join acme's
				if _, err := get(t.Context(), h.source("acme", "a"), obj, oci.Range{Length: 1}); err != nil {
					t.Errorf("acme: %v", err)
				}
			})
		}
		readers.Wait()
	}
}

// Two accounts that got wrong bytes, each its own, speak for everyone.
func TestCorrupt_ForTwoAccounts(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(62, 6*mib)
	obj := h.addBlob("acme/app", data)
	h.body = garbageFor("globex", "initech")
	for _, who := range []string{"globex", "initech"} {
		if got, err := get(t.Context(), h.source(who, "s"), obj, oci.Range{}); oci.ClassOf(err) != oci.Corrupt {
			t.Fatalf("%s: %d bytes, %v", who, len(got), err)
		}
	}
	before := h.count("open", oci.Blob)
	acme := h.source("acme", "a")
	if _, err := acme.Open(t.Context(), obj, oci.Range{}); oci.ClassOf(err) != oci.Corrupt {
		t.Errorf("acme, after two others: %v", err)
	}
	if n := h.count("open", oci.Blob); n != before {
		t.Error("the registry was asked again after two accounts had got wrong bytes")
	}
	h.advance(time.Minute)
	if got := read(t, acme, obj); !bytes.Equal(got, data) {
		t.Error("acme, a minute later: wrong bytes")
	}
}

// Whoever joined the download of an account that gets garbage gets the blob: it is
// asked for as him.
func TestCorrupt_OfWhomOneJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, cache.Options{})
		data := random(63, 3*mib)
		obj := h.addBlob("acme/app", data)
		both, garbage := make(chan struct{}), garbageFor("globex")
		h.body = func(c call, b []byte) io.Reader {
			return &gated{r: garbage(c, b), open: both, ctx: t.Context()}
		}
		var wg sync.WaitGroup
		results := map[string]error{}
		var mu sync.Mutex
		pull := func(who string) {
			wg.Go(func() {
				got, err := get(t.Context(), h.source(who, "s"), obj, oci.Range{})
				if err == nil && !bytes.Equal(got, data) {
					t.Errorf("%s: wrong bytes", who)
				}
				mu.Lock()
				defer mu.Unlock()
				results[who] = err
			})
		}
		pull("globex")
		synctest.Wait()
		pull("acme")
		synctest.Wait()
		close(both)
		wg.Wait()
		if err := results["acme"]; err != nil {
			t.Errorf("acme: %v", err)
		}
		if err := results["globex"]; oci.ClassOf(err) != oci.Corrupt {
			t.Errorf("globex: %v", err)
		}
	})
}

// An answer that is neither yes nor no, in the middle of a blob, is about whose request
// it was: whoever joined reads on.
func TestRequester_RiddleToOne(t *testing.T) {
	for name, size := range map[string]int{"before anything has come": 3 * mib, "in the middle": 6 * mib} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, cache.Options{})
				data := random(64, size)
				obj := h.addBlob("acme/app", data)
				gate := make(chan struct{})
				riddles := false
				h.body = func(c call, b []byte) io.Reader {
					if c.principal.Organisation == "globex" {
						return io.MultiReader(bytes.NewReader(b[:mib]), &gated{r: bytes.NewReader(nil), open: gate, ctx: t.Context()})
					}
					return bytes.NewReader(b)
				}
				h.fault = func(c call) error {
					if riddles && c.principal.Organisation == "globex" {
						return &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: "a login page"}
					}
					return nil
				}
				var wg sync.WaitGroup
				var globex, acme error
				wg.Go(func() { _, globex = get(t.Context(), h.source("globex", "g"), obj, oci.Range{}) })
				synctest.Wait()
				wg.Go(func() {
					var got []byte
					if got, acme = get(t.Context(), h.source("acme", "a"), obj, oci.Range{}); acme == nil && !bytes.Equal(got, data) {
						t.Error("wrong bytes")
					}
				})
				synctest.Wait()
				riddles = true
				begun := time.Now()
				close(gate)
				wg.Wait()
				if acme != nil {
					t.Errorf("acme, whom the registry answers: %v", acme)
				}
				if waited := time.Since(begun); waited > time.Second { // the cut itself is followed by a pause
					t.Errorf("it was asked for as globex again and again, for %v", waited)
				}
				if size < 4*mib && globex == nil {
					t.Error("globex got it")
				}
			})
		})
	}
}
