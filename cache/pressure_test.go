package cache_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"berth/cache"
	"berth/internal/ocitest"
	"berth/oci"
)

// Fifty readers of ten times what fits: no read fails, and the limit holds at
// every moment.
func TestManyReadersLittleRoom(t *testing.T) {
	const limit, size = 15 * mib, 260 << 10
	reads, until := 4, time.Time{}
	if os.Getenv("BERTH_LONG") != "" {
		until = time.Now().Add(3 * time.Minute)
	}
	dir := ocitest.MemoryDir(t)
	h := newHouseIn(t, cache.Options{Dir: dir, MaxSize: limit, HotBytes: 1})
	var objects []oci.Object
	for i := range uint64(10 * limit / size) {
		objects = append(objects, h.addBlob("acme/app", random(i, size)))
	}
	h.chunk = size
	s := h.source("acme", "a")
	stop := make(chan struct{})
	var readers, watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if n := h.cache.Numbers(); n.Bytes > limit {
					t.Errorf("%d bytes of %d", n.Bytes, limit)
					return
				}
			}
		}
	})
	for r := range uint64(50) {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(r, 7))
			for i := 0; i < reads || time.Now().Before(until); i++ {
				obj := objects[random.IntN(len(objects))]
				got, err := get(t.Context(), s, obj, oci.Range{})
				if err != nil || !bytes.Equal(got, h.objects[obj]) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
		})
	}
	readers.Wait()
	close(stop)
	watcher.Wait()
	n := h.cache.Numbers()
	if n.Evicted == 0 {
		t.Errorf("nothing had to go: %+v", n)
	}
	t.Logf("%+v, %d fetched", n, h.count("open", oci.Blob))
}
