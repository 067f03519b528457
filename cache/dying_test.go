package cache_test

import (
	"bytes"
	"testing"
	"testing/synctest"

	"berth/cache"
	"berth/cache/store"
	"berth/oci"
)

// Who joins a download just when its last sponsor has been refused does not get what
// the registry said to that one: the next download goes as whoever has come.
func TestJoinsAfterTheLastWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
		gate := make(chan struct{})
		c, err := cache.New(cache.Failing(cache.Options{Dir: t.TempDir(), Now: h.clock}, func(op store.Op, _ string) error {
			if op == store.OpRead {
				<-gate // so the first download takes its time to end
			}
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		h.cache = c
		data := random(93, 3*mib)
		obj := h.addBlob("acme/app", data)
		h.body = cut(1, 2*mib)
		h.after = func(call) { h.set(func() { h.private["acme/app"] = []string{"globex"} }) }
		refused := make(chan error, 1)
		go func() {
			_, err := get(t.Context(), h.source("acme", "a"), obj, oci.Range{})
			refused <- err
		}()
		synctest.Wait()
		var got []byte
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, err = get(t.Context(), h.source("globex", "g"), obj, oci.Range{})
		}()
		synctest.Wait()
		close(gate)
		<-done
		if err := <-refused; !oci.ClassOf(err).Refuses() {
			t.Errorf("acme: %v", err)
		}
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("globex: %d bytes, %v", len(got), err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
