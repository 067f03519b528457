package cache_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"berth/cache"
)

// Whoever makes an index writes what he likes into it, and calls it by as many tags:
// the list of what is kept only grows by what is kept.
func TestImagesOfALargeIndex(t *testing.T) {
	const children, tags = 20_000, 400
	h := newHouse(t, cache.Options{})
	image := `{"schemaVersion":2,"config":{},"layers":[]}`
	child := h.addManifest("evil/app", "", image)
	var b strings.Builder
	fmt.Fprintf(&b, `{"schemaVersion":2,"manifests":[{"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"arm64"}}`, child.Digest, len(image))
	for i := range children {
		fmt.Fprintf(&b, `,{"digest":"sha256:%064x"}`, i)
	}
	index := h.addManifest("evil/app", "1", b.String()+"]}")
	s := h.source("evil", "e")
	read(t, s, index)
	read(t, s, child)
	h.cache.Settle()
	for i := range tags {
		tag := fmt.Sprint("tag", i)
		h.set(func() { h.tags["evil/app:"+tag] = index.Digest })
		if _, err := s.Resolve(t.Context(), "evil/app", tag); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	all, err := h.cache.Images(t.Context())
	runtime.ReadMemStats(&after)
	if err != nil || len(all) != 1 || all[0].Digest != child.Digest || len(all[0].Tags) != tags || all[0].Platform != "linux/arm64" {
		t.Errorf("%d images, %v", len(all), err)
	}
	if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 60 {
		t.Errorf("it took %d MiB", took)
	}
}
