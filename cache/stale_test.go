package cache_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/internal/registry"
	"berth/oci"
)

// in runs f with a house in a bubble, so that waiting costs nothing.
func in(t *testing.T, f func(t *testing.T, h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
		c, err := cache.New(cache.Options{Dir: t.TempDir(), Now: h.clock})
		if err != nil {
			t.Fatal(err)
		}
		h.cache = c
		f(t, h)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// silent answers nothing, until the request gives up after d.
func silent(d time.Duration) func(call) error {
	return func(call) error {
		time.Sleep(d)
		return &oci.Error{Class: oci.Timeout, Message: "no answer"}
	}
}

// staleAll wants all of an image from the cache, marked, and says how long it took.
func staleAll(t *testing.T, s oci.Source, objects []oci.Object) time.Duration {
	t.Helper()
	start := time.Now()
	r, err := s.Resolve(t.Context(), "acme/app", "1")
	if err != nil || r.Result != oci.Stale || r.Warning == "" || r.Digest != objects[0].Digest {
		t.Errorf("the tag: %+v, %v", r, err)
	}
	for _, o := range objects {
		c, err := s.Open(t.Context(), o, oci.Range{})
		if err != nil || c.Result != oci.Stale || c.Warning == "" {
			t.Fatalf("%v: %v", o, err)
		}
		c.Close()
	}
	return time.Since(start)
}

// A registry that is silent costs whoever has a copy some seconds once, and
// nothing afterwards. What it says in the end counts.
func TestSilentRegistry(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		objects := h.image("acme/app", "1", 3)
		acme := h.source("acme", "a")
		pull(t, acme, "acme/app", "1", objects)
		h.advance(time.Hour)
		h.set(func() { h.fault = silent(15 * time.Second) })
		if took := staleAll(t, acme, objects); took > 5*time.Second {
			t.Errorf("the first pull took %v", took)
		}
		if took := staleAll(t, acme, objects); took != 0 {
			t.Errorf("the second pull took %v", took)
		}
		start := time.Now()
		if _, err := h.source("globex", "g").Resolve(t.Context(), "acme/app", "1"); oci.ClassOf(err) != oci.Timeout || time.Since(start) < 15*time.Second {
			t.Errorf("who has nothing waits for the answer: %v after %v", err, time.Since(start))
		}
		h.set(func() { h.fault = nil })
		synctest.Wait()
		if r, err := acme.Resolve(t.Context(), "acme/app", "1"); err != nil || r.Result != oci.Stale { // it has just waited, and asks in the background
			t.Errorf("%+v, %v", r, err)
		}
		synctest.Wait()
		if r, err := acme.Resolve(t.Context(), "acme/app", "1"); err != nil || r.Result != oci.Hit || r.Warning != "" {
			t.Errorf("after it came back: %+v, %v", r, err)
		}
	})
}

// A denial that comes late is a denial.
func TestLateDenial(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		objects := h.image("acme/app", "1", 1)
		acme := h.source("acme", "a")
		pull(t, acme, "acme/app", "1", objects)
		h.advance(time.Hour)
		h.set(func() {
			h.fault = func(call) error {
				time.Sleep(10 * time.Second)
				return &oci.Error{Class: oci.Denied, Message: "no more"}
			}
		})
		staleAll(t, acme, objects)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, o := range objects {
			if _, err := acme.Open(t.Context(), o, oci.Range{}); oci.ClassOf(err) != oci.Denied {
				t.Errorf("%v: %v", o, err)
			}
		}
	})
}

// knowing is a Source that knows when its registry is in trouble.
type knowing struct {
	oci.Source

	err atomic.Pointer[oci.Error]
}

func (k *knowing) Trouble(string) error {
	if e := k.err.Load(); e != nil {
		return e
	}
	return nil
}

// With a registry that is known to be in trouble one request waits for a second to find
// out, and nobody else does. Every request still asks.
func TestKnownTrouble(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		objects := h.image("acme/app", "1", 2)
		k := &knowing{Source: h.as("acme", "a")}
		u := h.upstream("acme", "a")
		u.As = k
		acme := h.cache.Through(u)
		pull(t, acme, "acme/app", "1", objects)
		h.advance(time.Hour)
		h.set(func() { h.fault = silent(3 * time.Second); h.calls = nil })
		k.err.Store(&oci.Error{Class: oci.Unreachable, Message: "the registry is down"})
		for i := range 100 {
			if took := staleAll(t, acme, objects); took > time.Second || i > 0 && took != 0 {
				t.Fatalf("it took %v", took)
			}
		}
		synctest.Wait()
		if n := h.total(); n != 1+len(objects) {
			t.Errorf("%d questions, want one for each", n)
		}
		time.Sleep(4 * time.Second)
		h.advance(4 * time.Second)
		h.set(func() { h.fault = nil })
		if r, err := acme.Resolve(t.Context(), "acme/app", "1"); err != nil || r.Result != oci.Revalidated || r.Warning != "" {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// A secret that is changed while its answer is on the way costs nobody an error.
func TestChangedSecretIsAskedAgain(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("acme/app", "1", 1)
	acme, credential := rotatingAcme(h)
	for name, do := range map[string]func() error{
		"resolve": func() error { _, err := acme.Resolve(t.Context(), "acme/app", "1"); return err },
		"open":    func() error { _, err := get(t.Context(), acme, objects[0], oci.Range{}); return err },
		"stat":    func() error { _, err := acme.Stat(t.Context(), objects[1]); return err },
		"warm":    func() error { _, err := get(t.Context(), acme, objects[0], oci.Range{}); return err },
	} {
		var once atomic.Bool
		h.set(func() {
			h.after = func(call) {
				if once.CompareAndSwap(false, true) {
					credential.rotate("after " + name)
				}
			}
		})
		h.advance(time.Hour)
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !once.Load() {
			t.Errorf("%s: nothing was asked", name)
		}
	}
}

// What the registry no longer has is kept where that is wanted: for those who had it,
// however long ago, as long as it shows them something else of the repository, and until
// it denies them.
func TestKeep(t *testing.T) {
	h := newHouse(t, cache.Options{})
	h.private["acme/app"] = []string{"acme", "globex"}
	objects := h.image("acme/app", "1", 2)
	other := h.addManifest("acme/app", "2", `{"schemaVersion":2,"manifests":[]}`)
	keeping := func(organisation, secret string) oci.Source {
		u := h.upstream(organisation, secret)
		u.Spec.OnNotFound = registry.Keep
		return h.cache.Through(u)
	}
	acme, refusing := keeping("acme", "a"), h.source("globex", "g")
	pull(t, acme, "acme/app", "1", objects)
	pull(t, refusing, "acme/app", "1", objects)
	read(t, acme, other)
	h.set(func() {
		clear(h.tags)
		for k := range h.objects {
			if k.Digest != other.Digest {
				delete(h.objects, k)
			}
		}
	})
	gone := func(who string, s oci.Source, class oci.Class) {
		t.Helper()
		if _, err := s.Resolve(t.Context(), "acme/app", "1"); oci.ClassOf(err) != class {
			t.Errorf("%s, the tag: %v", who, err)
		}
		for _, o := range objects {
			if _, err := s.Open(t.Context(), o, oci.Range{}); oci.ClassOf(err) != class {
				t.Errorf("%s, %v: %v", who, o, err)
			}
		}
	}
	h.advance(time.Hour)
	gone("globex, where it is not kept", refusing, oci.NotFound)
	for range 3 {
		h.advance(24 * time.Hour) // and so beyond grace
		staleAll(t, acme, objects)
	}
	gone("globex, who had it, and was refused since", keeping("globex", "g"), oci.NotFound)
	gone("acme with another secret", keeping("acme", "a2"), oci.NotFound)
	gone("initech", keeping("initech", "i"), oci.Denied)
	if _, err := acme.Resolve(t.Context(), "acme/app", "mistyped"); oci.ClassOf(err) != oci.NotFound {
		t.Errorf("a tag that never was: %v", err)
	}
	h.set(func() { h.fault = func(call) error { return &oci.Error{Class: oci.NotFound, Message: "not found"} } })
	h.advance(23 * time.Hour)
	staleAll(t, acme, objects) // the right may be gone: for grace
	h.advance(2 * time.Hour)
	gone("acme, who is shown nothing of the repository", acme, oci.NotFound)
	h.set(func() { h.fault = nil })
	h.advance(time.Minute)
	staleAll(t, acme, objects)
	h.advance(time.Minute)
	h.set(func() {
		h.fault = func(call) error {
			return &oci.Error{Class: oci.NotFound, Code: oci.CodeNameUnknown, Message: "no such repository"}
		}
	})
	gone("acme, without the repository", acme, oci.NotFound)
	h.advance(time.Minute)
	h.set(func() { h.fault = nil })
	gone("acme, after that", acme, oci.NotFound)
}

// What a limit of ours keeps from being asked is no silence of the registry's: there is
// no stale copy for it, however long the registry takes at other times. Once it has gone
// out, silence is silence.
func TestServed_NothingStaleForOurOwnQueue(t *testing.T) {
	for _, slow := range []bool{false, true} {
		in(t, func(t *testing.T, h *house) {
			objects := h.image("acme/app", "1", 1)
			acme := h.source("acme", "a")
			pull(t, acme, "acme/app", "1", objects)
			h.advance(time.Hour)
			if slow {
				h.set(func() { h.fault = silent(15 * time.Second) })
				staleAll(t, acme, objects)
				time.Sleep(25 * time.Second)
				h.advance(25 * time.Second)
			}
			queue := 8 * time.Second
			h.set(func() {
				h.fault = func(c call) error {
					if !c.past() {
						time.Sleep(queue)
						c.gone()
					}
					return silent(15 * time.Second)(c)
				}
			})
			staleAll(t, acme, objects[:1]) // the one question that goes past each limit is put
			time.Sleep(30 * time.Second)
			h.advance(30 * time.Second)
			synctest.Wait()
			if _, err := acme.Resolve(t.Context(), "acme/app", "1"); oci.ClassOf(err) != oci.Policy || !strings.Contains(err.Error(), "could not be asked for yet") {
				t.Errorf("the tag: %v", err)
			}
			if _, err := acme.Open(t.Context(), objects[1], oci.Range{}); oci.ClassOf(err) != oci.Policy {
				t.Errorf("a blob: %v", err)
			}
			time.Sleep(30 * time.Second)
			synctest.Wait()
			queue = time.Second
			staleAll(t, acme, objects)
		})
	}
}

// The same a moment after the registry has been silent, while nobody is waited for as long.
func TestServed_NothingStaleForOurOwnQueueAfterSilence(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		objects := h.image("acme/app", "1", 1)
		acme := h.source("acme", "a")
		pull(t, acme, "acme/app", "1", objects)
		h.advance(time.Hour)
		h.set(func() {
			h.fault = func(c call) error {
				if !c.past() {
					time.Sleep(8 * time.Second)
					c.gone()
				}
				return silent(15 * time.Second)(c)
			}
		})
		staleAll(t, acme, objects[:1]) // the one question that goes past each limit is put
		time.Sleep(30 * time.Second)   // until both questions have ended
		h.advance(2 * time.Second)
		if _, err := acme.Open(t.Context(), objects[0], oci.Range{}); oci.ClassOf(err) != oci.Policy {
			t.Errorf("%v", err)
		}
		time.Sleep(30 * time.Second)
	})
}

// Nobody waits for a limit of another organisation's, or is refused by it, although what
// has no account is asked for as one.
func TestShare_AnothersQueueIsNotMine(t *testing.T) {
	for name, refused := range map[string]bool{"it waits": false, "it was refused": true} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, h *house) {
				h.image("library/app", "1", 1)
				var asked atomic.Int32
				h.set(func() {
					h.fault = func(c call) error {
						if asked.Add(1) > 1 {
							return nil
						}
						if !refused {
							c.past()
						}
						time.Sleep(10 * time.Second)
						return &oci.Error{Class: oci.Policy, Message: "organisation globex: too many"}
					}
				})
				go func() { _, _ = h.source("globex", "").Resolve(t.Context(), "library/app", "1") }()
				synctest.Wait()
				start := time.Now()
				if _, err := h.source("acme", "").Resolve(t.Context(), "library/app", "1"); err != nil {
					t.Errorf("%v", err)
				}
				if took := time.Since(start); took > 0 && !refused {
					t.Errorf("it took %v", took)
				}
				time.Sleep(11 * time.Second)
				synctest.Wait()
			})
		})
	}
}
