package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/ocitest"
)

// disk makes the home's cache folder an ext4 of its own, and gives what makes the
// kernel find a fault in that: from then on it is read-only, as it is when a real
// disk fails.
func (h *home) disk(size int64) (fails func()) {
	h.t.Helper()
	image := filepath.Join(h.t.TempDir(), "disk.img")
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(size)
		_ = f.Close() // it is empty
	}
	if err == nil {
		err = os.MkdirAll(h.cacheDir(), 0o700)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range [][]string{
		{"/usr/sbin/mkfs.ext4", "-q", "-F", image},
		{"mount", "-o", "loop,errors=remount-ro", image, h.cacheDir()},
	} {
		if out, err := exec.CommandContext(h.t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			h.t.Skipf("%s: %v: %s", c[0], err, out)
		}
	}
	h.t.Cleanup(func() {
		if err := unix.Unmount(h.cacheDir(), unix.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
	var at unix.Stat_t
	if err := unix.Stat(h.cacheDir(), &at); err != nil {
		h.t.Fatal(err)
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(at.Dev), unix.Minor(at.Dev)))
	if err != nil {
		h.t.Skip("cannot tell which device it is:", err)
	}
	return func() {
		h.t.Helper()
		trigger := filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error")
		if err := os.WriteFile(trigger, []byte("a test"), 0o200); err != nil {
			h.t.Skip("the kernel makes no faults here:", err)
		}
		if err := os.WriteFile(filepath.Join(h.cacheDir(), "probe"), nil, 0o600); err == nil {
			h.t.Fatal("the filesystem can still be written")
		}
	}
}

// The disk fails while berth runs: what is kept is served on, all else goes past
// it, each once, and no pull fails, whether it began before or comes later.
func TestDiskTurnsReadOnly(t *testing.T) {
	h := newHome(t)
	fails := h.disk(128 << 20)
	h.cache = map[string]string{"max_size": "90%", "min_free": "0B"}
	hub := ocitest.New(t, ocitest.Options{})
	all := make([]ocitest.Pushed, 20)
	for i := range all {
		all[i] = hub.AddImage("library/app", fmt.Sprint(i), ocitest.Image{Layers: []int64{2 << 20, 8 << 20}, Seed: uint64(i)})
	}
	h.registry("docker.io", hub)
	n := h.serve()
	h.nobody(n).mustPull("app", all[0], "")

	layer := all[1].Platforms[0].Layers[1]
	slow := hub.Inject(ocitest.Match{Digest: layer}, 0, ocitest.Slow(4<<20))
	var pulls sync.WaitGroup
	pulls.Go(func() { h.nobody(n).mustPull("app", all[1], "") })
	if err := hub.WaitSent(soon(t), ocitest.Match{Digest: layer}, 2<<20); err != nil {
		t.Fatal(err)
	}
	fails()
	slow.Remove()
	pulls.Wait()
	hub.Forget()
	for i, img := range all {
		pulls.Go(func() {
			h.nobody(n).mustPull("app", img, "")
			if sent := hub.BlobBytes(img.Platforms[0].Layers[1]); i == 0 && sent > 1 {
				t.Errorf("what is kept is fetched again: %d bytes", sent)
			}
		})
	}
	pulls.Wait()
	if past := n.sample("berth_disk_bypass_total"); past == 0 || n.sample("berth_cache_writable") != 0 {
		t.Errorf("%v requests went past the disk; writable: %v", past, n.sample("berth_cache_writable"))
	}

	n.clients.CloseIdleConnections()
	n.quit() // it says that it could not write all, and that is all that it cannot do
	<-n.ended
	if n.code != exitFailed || !strings.Contains(n.log.String(), "closing the cache") {
		t.Errorf("berth ended with %d:\n%s", n.code, n.log)
	}
	n.code = exitOK
}
