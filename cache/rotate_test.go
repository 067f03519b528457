package cache_test

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"berth/cache"
	"berth/oci"
)

// rotating is a Source whose credential is changed while it is in use.
type rotating struct {
	oci.Source

	principal atomic.Pointer[oci.Principal]
}

func (r *rotating) Principal(string) oci.Principal { return *r.principal.Load() }

func (r *rotating) rotate(fingerprint string) {
	r.principal.Store(&oci.Principal{Organisation: "acme", Fingerprint: fingerprint})
}

// rotatingAcme is acme with a credential that can be changed.
func rotatingAcme(h *house) (oci.Source, *rotating) {
	r := &rotating{Source: h.as("acme", "a")}
	r.rotate("a")
	u := h.upstream("acme", "a")
	u.As = r
	return h.cache.Through(u), r
}

// A download that is under way when the secret changes goes on to its end, also
// where the registry has to be asked for each piece.
func TestRotationInMidDownload(t *testing.T) {
	h := newHouse(t, cache.Options{Parallel: 1})
	data := random(41, 40*mib)
	obj := h.addBlob("acme/app", data)
	gate := make(chan struct{})
	h.body = func(c call, b []byte) io.Reader {
		if c.rng.Start == 0 {
			return &gated{r: bytes.NewReader(b), open: gate, upTo: mib, ctx: t.Context()}
		}
		return bytes.NewReader(b)
	}
	acme, credential := rotatingAcme(h)
	c, err := acme.Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	credential.rotate("b")
	close(gate)
	if got, err := io.ReadAll(c.Body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := c.Body.Close(); err != nil {
		t.Error(err)
	}
	// What was fetched with the new secret proved nothing for the old one, nor
	// for itself.
	h.set(func() { h.fault = down(oci.Unreachable) })
	if _, err := get(t.Context(), acme, obj, oci.Range{}); oci.ClassOf(err) != oci.Unreachable {
		t.Errorf("the new credential, of which nothing is proven: %v", err)
	}
}

// A secret that changes while the registry is asked fails nobody else's pull of
// the same blob.
func TestRotationFailsNobodyElse(t *testing.T) { synctest.Test(t, rotationFailsNobodyElse) }

func rotationFailsNobodyElse(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(42, 6*mib)
	obj := h.addBlob("acme/app", data)
	acme, credential := rotatingAcme(h)
	globex := h.source("globex", "g")
	if _, err := globex.Stat(t.Context(), obj); err != nil { // proves access
		t.Fatal(err)
	}
	answer := make(chan struct{})
	h.set(func() {
		h.after = func(c call) {
			if c.op == "open" && c.principal.Organisation == "acme" {
				<-answer
			}
		}
	})
	first := readers(t, acme, obj, 1)
	synctest.Wait()
	other := readers(t, globex, obj, 1)
	synctest.Wait()
	credential.rotate("b")
	close(answer)
	wantAll(t, other())
	wantAll(t, first()) // asked for once more, with the new secret
}
