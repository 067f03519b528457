package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/oci"
)

// turnstile counts who is let in, and complains about who leaves twice.
type turnstile struct {
	t      *testing.T
	mu     sync.Mutex
	inside map[string]int
	most   map[string]int
	refuse error
}

func newTurnstile(t *testing.T) *turnstile {
	t.Helper()
	return &turnstile{t: t, inside: map[string]int{}, most: map[string]int{}}
}

func (c *turnstile) turn(_ context.Context, organisation string) (func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.inside[organisation]++
	c.most[organisation] = max(c.most[organisation], c.inside[organisation])
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.inside[organisation]--
		if c.inside[organisation] < 0 {
			c.t.Errorf("a turn of %s ended twice", organisation)
		}
	}, nil
}

func (c *turnstile) now(organisation string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inside[organisation]
}

// turns is a cache with a turnstile, and one more organisation's source of it.
func turns(t *testing.T, dir string) (*house, *turnstile, func(organisation string) oci.Source) {
	t.Helper()
	gate := newTurnstile(t)
	h := newHouse(t, cache.Options{Dir: dir, Admit: gate.turn, ParkAfter: 30 * time.Second})
	return h, gate, func(organisation string) oci.Source {
		u := h.upstream(organisation, organisation+"'s")
		u.Organisation = organisation
		return h.cache.Through(u)
	}
}

// Only what makes a download run takes a turn, and gives it back at the end
// however that comes about.
func TestTurnsOfDownloads(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h, gate, as := turns(t, dir)
		data := random(31, 6*mib)
		obj := h.addBlob("acme/app", data)
		open := make(chan struct{})
		h.body = func(_ call, b []byte) io.Reader {
			return &gated{r: bytes.NewReader(b), open: open, upTo: mib, ctx: t.Context()}
		}

		wait := readers(t, as("acme"), obj, 1)
		synctest.Wait()
		more := readers(t, as("acme"), obj, 3)
		others := readers(t, as("globex"), obj, 2)
		synctest.Wait()
		if gate.now("acme") != 1 || gate.most["globex"] != 0 {
			t.Errorf("inside while one download goes on: %v", gate.inside)
		}
		close(open)
		wantAll(t, slices.Concat(wait(), more(), others()))
		synctest.Wait()
		if gate.now("acme") != 0 {
			t.Errorf("after the end: %v", gate.inside)
		}

		read(t, as("acme"), obj)
		read(t, as("acme"), h.addManifest("acme/app", "1", `{"schemaVersion":2,"layers":[]}`))
		if gate.most["acme"] != 1 {
			t.Errorf("what is there, or a manifest, took a turn: %v", gate.most)
		}

		gone := h.addBlob("acme/app", random(32, 100))
		h.set(func() { delete(h.objects, gone) })
		if err := check(t.Context(), as("acme"), gone); oci.ClassOf(err) != oci.NotFound {
			t.Errorf("a blob that is gone: %v", err)
		}
		synctest.Wait()
		if gate.now("acme") != 0 || gate.most["acme"] != 1 {
			t.Errorf("after a failure: %v", gate.inside)
		}
	})
}

// Whoever waits for a turn for what somebody else begins to download joins that.
func TestJoinInsteadOfATurn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		turn := func(ctx context.Context, organisation string) (func(), error) {
			if organisation == "globex" {
				return func() {}, nil
			}
			select {
			case <-gate:
				t.Error("acme had its turn")
			case <-ctx.Done():
			}
			return nil, context.Cause(ctx)
		}
		h := newHouse(t, cache.Options{Dir: dir, Admit: turn})
		as := func(organisation string) oci.Source {
			u := h.upstream(organisation, organisation+"'s")
			u.Organisation = organisation
			return h.cache.Through(u)
		}
		obj := h.addBlob("acme/app", random(36, 5*mib))
		wait := readers(t, as("acme"), obj, 3)
		synctest.Wait()
		if h.count("open", 0) != 0 {
			t.Error("acme did not wait")
		}
		wantAll(t, readers(t, as("globex"), obj, 1)())
		wantAll(t, wait())
		if n := h.count("open", 0); n != 1 {
			t.Errorf("%d downloads", n)
		}
	})
}

// A parked download is nobody's; who takes it up again does so in a turn.
func TestTurnsOfParkedDownloads(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h, gate, as := turns(t, dir)
		data := random(33, 6*mib)
		obj := h.addBlob("acme/app", data)
		c, err := as("acme").Open(t.Context(), obj, oci.Range{Start: 5 * mib, Length: 10})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Body.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // fake time
		synctest.Wait()
		if gate.now("acme") != 0 {
			t.Errorf("a parked download is in a turn: %v", gate.inside)
		}
		// globex has to be admitted, which takes a request of its own.
		wantAll(t, readers(t, as("globex"), obj, 1)())
		if gate.most["globex"] != 1 {
			t.Errorf("taken up again outside of a turn: %v", gate.most)
		}
		synctest.Wait()
		if gate.now("globex") != 0 {
			t.Errorf("after the end: %v", gate.inside)
		}
	})
}

// Without a turn nothing is fetched, and what is there is served all the same. Of what no
// manifest lists the right is asked for first.
func TestNoTurn(t *testing.T) {
	h, gate, as := turns(t, "")
	there := h.addBlob("acme/app", random(34, 6*mib))
	read(t, as("acme"), there)
	obj := h.addBlob("acme/app", random(35, 100))
	opened, before := h.count("open", oci.Blob), h.total()
	gate.refuse = errors.New("too many")
	if err := check(t.Context(), as("acme"), obj); !errors.Is(err, gate.refuse) {
		t.Errorf("at the limit: %v", err)
	}
	if h.count("open", oci.Blob) != opened || h.total() != before+1 {
		t.Errorf("the registry was asked %d times", h.total()-before)
	}
	read(t, as("acme"), there)
}

// purse counts what an organisation spends.
type purse struct{ left, spent, undone int }

var errSpent = &oci.Error{Class: oci.RateLimited, Message: "it has used its share"}

func (p *purse) spend() (func(), error) {
	if p.left == 0 {
		return nil, errSpent
	}
	p.left--
	p.spent++
	return func() { p.left++; p.undone++ }, nil
}

// What is spent are manifests that somebody had to get as the shared principal.
func TestShareOfTheSharedView(t *testing.T) {
	h := newHouse(t, cache.Options{})
	as := func(organisation, secret string, p *purse) oci.Source {
		u := h.upstream(organisation, secret)
		u.Organisation, u.Spend = organisation, p.spend
		return h.cache.Through(u)
	}
	image := h.image("library/nginx", "1", 2)
	acme, globex, own := &purse{left: 2}, &purse{left: 2}, &purse{}
	for range 3 {
		pull(t, as("acme", "", acme), "library/nginx", "1", image)
	}
	pull(t, as("globex", "", globex), "library/nginx", "1", image)
	other := h.image("library/redis", "1", 1)
	pull(t, as("initech", "i", own), "library/redis", "1", other)
	if acme.spent != 2 || globex.spent != 0 || own.spent != 0 {
		t.Errorf("spent: acme %+v, globex %+v, with an account %+v", acme, globex, own)
	}

	next := h.image("library/caddy", "1", 1)
	before := h.count("open", oci.Manifest)
	if _, err := get(t.Context(), as("acme", "", acme), next[0], oci.Range{}); !errors.Is(err, errSpent) {
		t.Errorf("beyond its share: %v", err)
	}
	if h.count("open", oci.Manifest) != before {
		t.Error("the registry was asked")
	}
	pull(t, as("acme", "", acme), "library/nginx", "1", image) // what is there costs nothing

	h.set(func() { h.fault = down(oci.Unreachable) })
	if err := check(t.Context(), as("globex", "", globex), next[0]); oci.ClassOf(err) != oci.Unreachable {
		t.Errorf("%v", err)
	}
	h.set(func() { h.fault = nil })
	if globex.left != 2 || globex.undone != 1 {
		t.Errorf("what did not come was paid for: %+v", globex)
	}
	// What came and is of no use was counted by the registry.
	h.set(func() {
		h.fault = func(call) error {
			return &oci.Error{Class: oci.NotFound, Code: oci.CodeManifestUnknown, Message: "no use", Counted: true}
		}
	})
	if err := check(t.Context(), as("globex", "", globex), next[0]); oci.ClassOf(err) != oci.NotFound {
		t.Errorf("%v", err)
	}
	if globex.left != 1 || globex.undone != 1 {
		t.Errorf("what came and is of no use was given back: %+v", globex)
	}
}
