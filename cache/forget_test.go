package cache_test

import (
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/oci"
)

// What was forgotten is proven again by one request, and by no grace; nobody
// else notices.
func TestForget(t *testing.T) {
	h := newHouse(t, cache.Options{})
	h.private["acme/app"] = []string{"acme", "globex"}
	objects := h.image("acme/app", "1", 2)
	acme, globex := h.source("acme", "a"), h.source("globex", "g")
	pull(t, acme, "acme/app", "1", objects)
	pull(t, globex, "acme/app", "1", objects)
	if _, err := acme.Resolve(t.Context(), "acme/app", "mistyped"); oci.ClassOf(err) != oci.NotFound {
		t.Fatalf("a tag that is not there: %v", err)
	}
	if err := h.cache.Forget("acme"); err != nil {
		t.Fatal(err)
	}
	h.advance(time.Second)
	if got := h.cost(func() { pull(t, globex, "acme/app", "1", objects) }); got != (cost{}) {
		t.Errorf("the other one's pull costs %+v", got)
	}
	if got, want := h.cost(func() { pull(t, acme, "acme/app", "1", objects) }), (cost{heads: 1}); got != want {
		t.Errorf("the next pull costs %+v, want %+v", got, want)
	}
	if got := h.cost(func() {
		if _, err := acme.Resolve(t.Context(), "acme/app", "mistyped"); oci.ClassOf(err) != oci.NotFound {
			t.Errorf("a tag that is not there: %v", err)
		}
	}); got.heads != 1 {
		t.Errorf("what is missing was remembered: %+v", got)
	}

	if err := h.cache.Forget("acme"); err != nil {
		t.Fatal(err)
	}
	h.fault = down(oci.Unreachable)
	if _, err := acme.Resolve(t.Context(), "acme/app", "1"); err == nil {
		t.Error("a forgotten tag was served in grace")
	}
	for _, o := range objects {
		if _, err := acme.Open(t.Context(), o, oci.Range{}); err == nil {
			t.Errorf("%v was served in grace though its proof was forgotten", o)
		}
	}
	pull(t, globex, "acme/app", "1", objects)
}

func TestSize(t *testing.T) {
	h := newHouse(t, cache.Options{MaxSize: 1 << 30})
	objects := h.image("acme/app", "1", 2)
	pull(t, h.source("acme", "a"), "acme/app", "1", objects)
	var want int64
	for _, o := range objects {
		c, err := h.source("acme", "a").Stat(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		want += c.Size
	}
	h.cache.Settle()
	if got, limit := h.cache.Size(); got != want || limit != 1<<30 {
		t.Errorf("%d bytes of %d, want %d", got, limit, want)
	}
}

// Who comes after it gets no answer to what was asked before it.
func TestForgetIsJoinedByNobody(t *testing.T) { synctest.Test(t, forgetIsJoinedByNobody) }

func forgetIsJoinedByNobody(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("acme/app", "1", 1)
	pull(t, h.source("globex", "g"), "acme/app", "1", objects) // the bytes are here
	acme := h.source("acme", "a")
	answer := make(chan struct{})
	h.set(func() { h.after = func(call) { <-answer } })
	asked := make(chan error, 2)
	go func() { _, err := acme.Stat(t.Context(), objects[1]); asked <- err }()
	go func() { _, err := acme.Resolve(t.Context(), "acme/app", "1"); asked <- err }()
	synctest.Wait()
	if err := h.cache.Forget("acme"); err != nil {
		t.Fatal(err)
	}
	h.set(func() { h.private["acme/app"] = []string{"globex"} })
	late := make(chan error, 2)
	go func() { _, err := acme.Stat(t.Context(), objects[1]); late <- err }()
	go func() { _, err := acme.Resolve(t.Context(), "acme/app", "1"); late <- err }()
	synctest.Wait()
	close(answer)
	for range 2 {
		if err := <-late; oci.ClassOf(err) != oci.Denied {
			t.Errorf("after the purge: %v", err)
		}
		<-asked
	}
}
