package cache_test

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"

	"berth/fleet/memfleet"
	"berth/fleet/seal"
	"berth/oci"
)

// over writes over all parts that lie in the bucket of what others have announced of o, as
// every node may.
func (r rogue) over(o oci.Object, change func(w seal.Writing, part int, sealed []byte) []byte) {
	r.t.Helper()
	found, err := r.at.Look(r.t.Context(), r.object(o))
	if err != nil || len(found.Writers) == 0 {
		r.t.Fatalf("%+v, %v", found, err)
	}
	for _, w := range found.Writers {
		for part := range w.Parts {
			key := seal.ObjectKey(r.object(o).Name, w.Writing, part)
			if err := r.bucket.Put(r.t.Context(), key, change(w.Writing, part, r.bucket.All()[key])); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// sealsWrong makes parts of o that open, and in which one byte of the object is wrong.
func (r rogue) sealsWrong(o oci.Object) func(w seal.Writing, part int, sealed []byte) []byte {
	size := int64(len(r.objects[o]))
	return func(w seal.Writing, part int, sealed []byte) []byte {
		from, to := seal.Range(part, size)
		if to < size {
			return sealed
		}
		plain := bytes.Clone(r.objects[o][from:to])
		plain[len(plain)-1] ^= 1
		return r.scope.Seal(nil, w, r.object(o).Name, part, size, plain)
	}
}

// A node writes over what another one has given, which any node may do in the bucket. The
// other one is not taken for a liar, what was changed comes from the registry, and an
// operator sees it.
func TestFleet_WhoeverIsWrittenOverIsNotBlamed(t *testing.T) {
	for what, c := range map[string]struct {
		// cutOff: the parts open, so that a client was given some of them.
		cutOff bool
		change func(r rogue, o oci.Object) func(seal.Writing, int, []byte) []byte
	}{
		"with garbage": {false, func(rogue, oci.Object) func(seal.Writing, int, []byte) []byte {
			return func(_ seal.Writing, _ int, b []byte) []byte { return bytes.Repeat([]byte{1}, len(b)) }
		}},
		"with nothing": {false, func(rogue, oci.Object) func(seal.Writing, int, []byte) []byte {
			return func(seal.Writing, int, []byte) []byte { return nil }
		}},
		"with more": {false, func(rogue, oci.Object) func(seal.Writing, int, []byte) []byte {
			return func(_ seal.Writing, _ int, b []byte) []byte { return append(bytes.Clone(b), 1) }
		}},
		"with one byte": {false, func(rogue, oci.Object) func(seal.Writing, int, []byte) []byte {
			return func(_ seal.Writing, _ int, b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }
		}},
		"with another part": {false, func(rogue, oci.Object) func(seal.Writing, int, []byte) []byte {
			var last []byte
			return func(_ seal.Writing, _ int, b []byte) []byte { b, last = last, b; return b }
		}},
		"with parts that open": {true, rogue.sealsWrong},
	} {
		for _, verified := range []bool{false, true} {
			t.Run(what+map[bool]string{true: ", verified"}[verified], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newCrowd(t, 1)
					w.verified = verified
					r := rogue{w, w.coordinator.Node("rogue"), seal.Public(key("everyone"))}
					late := w.add("late")
					for n := range 3 {
						blobs, manifest := w.image("library/app", random(uint64(n), 12*mib))
						if err := pullImage(t.Context(), w.nodes[0].as("", ""), "library/app", manifest, blobs); err != nil {
							t.Fatal(err)
						}
						w.sealedUp()
						r.over(blobs[0], c.change(r, blobs[0]))
						err := pullImage(t.Context(), late.as("", ""), "library/app", manifest, blobs)
						if cutOff := c.cutOff && !verified && n == 0; (err != nil) != cutOff {
							t.Errorf("image %d: %v", n, err)
						}
						if err := pullImage(t.Context(), late.as("", ""), "library/app", manifest, blobs); err != nil {
							t.Errorf("image %d, again: %v", n, err)
						}
						w.sealedUp()
						if seen := late.faults("other"); seen != float64(n+1) {
							t.Errorf("image %d: it was seen %v times", n, seen)
						}
					}
					for _, n := range []string{"node-0", "rogue"} {
						if seen := late.faults(n); seen != 0 {
							t.Errorf("%s is named %v times", n, seen)
						}
					}
				})
			})
		}
	}
}

// Whoever puts the right parts back after the wrong ones were read gets nobody named, and
// neither does a bucket that gives a wrong byte once.
func TestFleet_WhatWasPutBackNamesNobody(t *testing.T) {
	for what, opens := range map[string]bool{"opens": true, "does not open": false} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCrowd(t, 1)
				blobs, manifest := w.image("library/app", random(1, 12*mib))
				if err := pullImage(t.Context(), w.nodes[0].as("", ""), "library/app", manifest, blobs); err != nil {
					t.Fatal(err)
				}
				w.sealedUp()
				r := rogue{w, w.coordinator.Node("rogue"), seal.Public(key("everyone"))}
				wrong := map[string][]byte{}
				var mu sync.Mutex
				found, err := r.at.Look(t.Context(), r.object(blobs[0]))
				if err != nil {
					t.Fatal(err)
				}
				change := r.sealsWrong(blobs[0])
				if !opens {
					change = func(_ seal.Writing, _ int, b []byte) []byte { return bytes.Repeat([]byte{1}, len(b)) }
				}
				for part := range found.Writers[0].Parts {
					at := seal.ObjectKey(r.object(blobs[0]).Name, found.Writers[0].Writing, part)
					wrong[at] = change(found.Writers[0].Writing, part, w.bucket.All()[at])
				}
				w.bucket.Set(func(b *memfleet.Bucket) {
					b.Body = func(key string, right []byte) []byte {
						mu.Lock()
						defer mu.Unlock()
						once, ok := wrong[key]
						if delete(wrong, key); ok {
							return once
						}
						return right
					}
				})
				late := w.add("late")
				sent := w.bytesSent()
				if err := pullImage(t.Context(), late.as("", ""), "library/app", manifest, blobs); (err != nil) != opens {
					t.Error(err)
				}
				if !opens && w.bytesSent() != sent {
					t.Error("what was there the second time came from the registry")
				}
				w.sealedUp()
				if seen := late.faults("node-0"); seen != 0 {
					t.Errorf("the writer is named %v times", seen)
				}
			})
		})
	}
}

// After a download that was wrong all parts are hashed for an hour, so that clients see no
// more of it: and a liar is still named, and an honest node still read.
func TestFleet_IsCarefulAfterAWrongDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 1)
		r := rogue{w, w.coordinator.Node("rogue"), seal.Public(key("everyone"))}
		late := w.add("late")
		for n, attack := range []func(o oci.Object){
			func(o oci.Object) { r.over(o, r.sealsWrong(o)) },
			func(o oci.Object) { r.write(o, func(_ int, b []byte) []byte { return b[:len(b)-1] }) },
			func(oci.Object) {},
		} {
			blobs, manifest := w.image("library/app", random(uint64(n), 12*mib))
			if err := pullImage(t.Context(), w.nodes[0].as("", ""), "library/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
			w.sealedUp()
			attack(blobs[0])
			sent := w.bytesSent()
			if err := pullImage(t.Context(), late.as("", ""), "library/app", manifest, blobs); (err != nil) != (n == 0) {
				t.Errorf("image %d: %v", n, err)
			}
			if n > 0 && w.bytesSent() != sent {
				t.Errorf("image %d came from the registry, though one node has it right", n)
			}
			w.sealedUp()
		}
		if late.faults("rogue") != 1 || late.faults("node-0") != 0 {
			t.Errorf("the rogue is named %v times, and an honest node %v times", late.faults("rogue"), late.faults("node-0"))
		}
	})
}
