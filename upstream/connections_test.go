package upstream

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/oci"
)

// However many registries there are, idle connections to all of them together are bounded,
// and it is those of the registries that were asked longest ago that go.
func TestConnections_OfAllRegistriesTogether(t *testing.T) {
	const most, each, registries = 8, 4, 10
	open := &Connections{Most: most}
	up := ocitest.New(t, ocitest.Options{})
	img := up.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{1000}})
	var all []*Registry
	for range registries {
		r := newRegistry(t, Options{Origin: up.Origin(), CAs: up.CertPool(), Before: withoutAuth, Open: open})
		all = append(all, r)
		var wg sync.WaitGroup
		for range each {
			wg.Go(func() {
				c, err := r.As(Identity{}).Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: img.Platforms[0].Layers[0]}, oci.Range{})
				if err != nil {
					t.Error(err)
					return
				}
				readAll(t, c)
			})
		}
		wg.Wait()
	}
	if n := open.open.Load(); n > most {
		t.Errorf("%d connections stay open", n)
	}
	if n := all[registries-1].conns.current.open.Load(); n == 0 {
		t.Error("what was used last has none left")
	}
	if n := all[0].conns.current.open.Load(); n != 0 {
		t.Errorf("what was used longest ago has %d", n)
	}
	for _, r := range all {
		r.Close()
	}
	if n := len(open.all); n != 0 {
		t.Errorf("%d registries are still known", n)
	}
}

// shared is a Memory that says whether it is kept.
type shared struct{ kept, ever int }

func (*shared) Need(context.Context, func() error) error { return nil }

func (s *shared) Keep() (release func(), ok bool) {
	s.kept++
	s.ever++
	return func() { s.kept-- }, true
}

// A manifest is in memory as long as it is read, also where whoever asked has none of it.
func TestMemory_OfManifestsWhileTheyAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := inMemoryRegistry(t, func(req *http.Request) (*http.Response, error) {
			time.Sleep(4 * time.Second)
			return replyWith(404, ""), nil
		})
		r.memory = &limit.Pool{Most: 2 * maxSmall, Queue: 100, Wait: time.Minute}
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				o := oci.Object{Repo: fmt.Sprint("acme/", i), Kind: oci.Manifest, Digest: anObject.Digest}
				if _, err := r.As(Identity{Organisation: "acme"}).Open(t.Context(), o, oci.Range{}); oci.ClassOf(err) != oci.NotFound {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		if n := r.memory.Waiting()["acme"]; n != 6 {
			t.Errorf("%d wait for memory, want 6", n)
		}
		wg.Wait()
		if took := time.Since(begun); took < 16*time.Second {
			t.Errorf("all of it took %v", took)
		}
		own := &shared{}
		o := oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: anObject.Digest}
		slot := r.memory.Charge("acme", 2*maxSmall)
		_, _ = r.As(Identity{Organisation: "acme"}).Open(oci.WithMemory(t.Context(), own), o, oci.Range{}) // there is none
		if slot.Release(); own.ever != 1 || own.kept != 0 {
			t.Errorf("what the request has was kept %d times, and still is %d times", own.ever, own.kept)
		}
	})
}
