package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/ocitest"
)

// mount makes the home's cache folder a filesystem of its own.
func (h *home) mount(options string) {
	h.t.Helper()
	at := h.cacheDir()
	err := os.MkdirAll(at, 0o700)
	if err == nil {
		err = unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
	}
	if err != nil {
		h.t.Skip("cannot mount a small filesystem:", err)
	}
	h.t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // the test has unmounted it
			h.t.Error(err)
		}
	})
}

// Images that are many times larger than the disk, and disks that take nothing
// at all: every pull succeeds.
func TestSmallDisks(t *testing.T) {
	images, layer := 50, int64(2<<20)
	if os.Getenv("BERTH_LONG") != "" {
		images = 500
	}
	for name, c := range map[string]struct {
		options  string
		readOnly bool
		cache    map[string]string
	}{
		"32 MiB":               {options: "size=32m", cache: map[string]string{"max_size": "90%", "min_free": "5%"}},
		"32 MiB without limit": {options: "size=32m", cache: map[string]string{"max_size": "1TiB", "min_free": "0B"}},
		"128 inodes":           {options: "size=2g,nr_inodes=128", cache: map[string]string{"max_size": "90%", "min_free": "5%"}},
		"read-only":            {options: "size=32m", readOnly: true, cache: map[string]string{"max_size": "90%", "min_free": "5%"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			h.mount(c.options)
			h.cache = c.cache
			hub := ocitest.New(t, ocitest.Options{})
			all := make([]ocitest.Pushed, images)
			for i := range all {
				all[i] = hub.AddImage("library/app", fmt.Sprint(i), ocitest.Image{LayerBytes: [][]byte{ocitest.Compressed(uint64(i), layer)}, Seed: uint64(i)})
			}
			h.registry("docker.io", hub)
			n := h.serve()
			h.nobody(n).mustPull("app", all[0], "")
			if c.readOnly {
				n.stop()
				if err := unix.Mount("", h.cacheDir(), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
					t.Skip("cannot make a filesystem read-only:", err)
				}
				n = h.serve()
				hub.Forget()
				h.nobody(n).mustPull("app", all[0], "")
				if sent := hub.BlobBytes(all[0].Platforms[0].Layers[0]); sent > layer/8 { // pieces: nothing was noted of it
					t.Errorf("what is kept is fetched again: %d bytes", sent)
				}
			}
			work, errs := make(chan ocitest.Pushed), make(chan error, images)
			var pulls sync.WaitGroup
			for range 4 {
				pulls.Go(func() {
					for i := range work {
						p, err := h.nobody(n).pull("app", i.Tag, "")
						if err == nil && p.digest != i.Digest {
							err = errors.New("another image came")
						}
						errs <- err
					}
				})
			}
			for _, i := range all {
				work <- i
			}
			close(work)
			pulls.Wait()
			close(errs)
			for err := range errs {
				if err != nil {
					t.Error(err)
				}
			}
			t.Logf("%.0f objects are kept, %.0f requests went past the disk", n.sample("berth_cache_objects"), n.sample("berth_disk_bypass_total"))
			n.stop()
		})
	}
}
