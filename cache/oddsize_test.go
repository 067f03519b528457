package cache_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/oci"
)

// A registry that ends every answer early, and cleanly since it does not say how
// long it is, is not asked for ever.
func TestEndsCleanlyTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, cache.Options{})
		data := random(90, 20*mib)
		obj := h.addBlob("acme/app", data)
		ctx, enough := context.WithCancel(t.Context())
		defer enough()
		h.body = func(c call, b []byte) io.Reader { return bytes.NewReader(b[:min(len(b), 2*mib)]) }
		h.after = func(call) {
			h.set(func() { h.noRange, h.noLength = true, true }) // but the first answer told the size
			if h.count("open", oci.Blob) > 20 {
				enough()
			}
		}
		if _, err := get(ctx, h.source("acme", "a"), obj, oci.Range{}); err == nil || ctx.Err() != nil {
			t.Errorf("after %d requests: %v", h.count("open", oci.Blob), err)
		}
	})
}

// A registry that does not say of how much a part is ("bytes 0-99/*") is asked for
// the whole.
func TestPartOfUnknownSize(t *testing.T) {
	for name, size := range map[string]int{"small": 1000, "in one part": 5 * mib, "in several": 40 * mib} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, cache.Options{})
				data := random(91, size)
				obj := h.addBlob("acme/app", data)
				h.noSize = true
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if got, err := get(ctx, h.source("acme", "a"), obj, oci.Range{}); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		})
	}
}

// Past the disk such a part is what it is, and no whole that is wrong.
func TestPartOfUnknownSizePastTheDisk(t *testing.T) {
	h := newHouse(t, cache.Options{MaxSize: 1})
	data := random(92, 5000)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	read(t, s, obj) // there is no room for it
	h.noSize = true
	h.cache.PastTheDisk()
	if got, err := get(t.Context(), s, obj, oci.Range{Length: 100}); err != nil || !bytes.Equal(got, data[:100]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What does not say how large it is, and turns out to be larger than there is room
// for, ends the pull that finds out; the next one goes past the disk.
func TestNoRoomForTheRestOfAStream(t *testing.T) {
	h := newHouse(t, cache.Options{MaxSize: 4 * mib})
	h.noLength = true
	data := random(94, 6*mib)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	if _, err := get(t.Context(), s, obj, oci.Range{}); oci.ClassOf(err) != oci.Disk {
		t.Errorf("the first pull: %v", err)
	}
	got, err := get(t.Context(), s, obj, oci.Range{})
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("the next one: %d bytes, %v", len(got), err)
	}
	small := h.addBlob("acme/app", random(95, mib))
	read(t, s, small)
	if n := h.cache.Numbers(); !n.Writable {
		t.Errorf("what there is room for: %+v", n)
	}
}
