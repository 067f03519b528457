package cache_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/fleet/seal"
	"berth/oci"
)

// What a tag is held to stays here, also where it came from another node.
func TestFleet_HeldStays(t *testing.T) {
	for _, held := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newCrowd(t, 1)
			blobs, manifest := w.image("library/app", random(1, 3*mib))
			if err := pullImage(t.Context(), w.nodes[0].as("", ""), "library/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
			w.sealedUp()
			w.more = func(o *cache.Options) {
				o.MaxSize = 16 * mib
				o.Held = func(_ context.Context, keep func(string, oci.Digest)) {
					if held {
						keep(w.id.Dir(), manifest.Digest)
					}
				}
			}
			late := w.add("late")
			if err := pullImage(t.Context(), late.as("", ""), "library/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
			for i := range 6 {
				time.Sleep(time.Hour)
				repo := fmt.Sprintf("library/other-%d", i)
				blobs, manifest := w.image(repo, random(uint64(10+i), 4*mib))
				if err := pullImage(t.Context(), late.as("", ""), repo, manifest, blobs); err != nil {
					t.Fatal(err)
				}
				w.sealedUp()
				late.cache.Settle()
			}
			hex := blobs[0].Digest.Encoded()
			_, err := os.Stat(filepath.Join(late.dir, "blobs", w.id.Dir()+"+"+seal.Public(key("everyone")).ID(), "sha256", hex[:2], hex))
			if here := err == nil; here != held {
				t.Errorf("held %v: %v", held, err)
			}
		})
	}
}
