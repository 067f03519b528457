package cache_test

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"

	"berth/oci"
)

// The registry sends a wrong copy, of which some was given to the fleet at once: that is
// withdrawn, and nobody takes this node for a liar. A small blob is fetched again at once;
// of a large one the client has seen some bytes, and its pull fails.
func TestFleet_WrongCopyOfTheRegistryIsWithdrawn(t *testing.T) {
	for _, size := range []int{3 * mib, 7 * mib} {
		synctest.Test(t, func(t *testing.T) {
			w := newCrowd(t, 1)
			blobs, manifest := w.image("library/app", random(1, size))
			p, copies := &pace{second: 1e6}, 0
			w.set(func() {
				w.body = func(c call, data []byte) io.Reader {
					if c.kind != oci.Blob {
						return bytes.NewReader(data)
					}
					if copies++; copies == 1 {
						data = append([]byte{data[0] ^ 1}, data[1:]...)
					}
					return &pacedReader{p, func() bool { return false }, data}
				}
			})
			err := pullImage(t.Context(), w.nodes[0].as("", ""), "library/app", manifest, blobs)
			if failed := oci.ClassOf(err) == oci.Corrupt; failed != (size == 7*mib) {
				t.Fatalf("%d bytes: %v", size, err)
			}
			w.sealedUp()
			if w.bucket.Puts == 0 {
				t.Fatal("nothing was given to the fleet, so this test shows nothing")
			}
			late := w.add("late")
			if err := pullImage(t.Context(), late.as("", ""), "library/app", manifest, blobs); err != nil {
				t.Errorf("%d bytes, on another node: %v", size, err)
			}
			if n := late.faults(w.nodes[0].name); n != 0 {
				t.Errorf("%d bytes: %v faults of an honest node were counted", size, n)
			}
		})
	}
}
