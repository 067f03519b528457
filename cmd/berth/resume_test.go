package main

import (
	"testing"

	"berth/internal/ocitest"
)

// Whatever ends the program in the middle of a download, what it had fetched is
// not fetched again by the next one.
func TestDownloadGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(n *running){
		"killed":  (*running).kill,
		"stopped": (*running).stop,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const size, had = 20<<20 + 12_345, 17<<20 + 777_777
			h := newHome(t)
			l := newLayerAt(h, size, ocitest.Options{CDN: ocitest.CDNSame})
			gate := l.holdAt(had)
			n := h.build()
			h.nobody(n).readAndLeave(l.path, had)
			end(n)
			gate.Open()
			l.hub.Forget()
			n = h.build()
			l.check(t, h.nobody(n).part(l.path), 0)
			if sent, most := l.hub.BlobBytes(l.digest), int64(size-17<<20); sent > most {
				t.Errorf("upstream sent %d bytes once more, want %d at most: %v", sent, most, l.hub.Requests(ocitest.Match{Kind: ocitest.Blob}))
			}
			if n := l.hub.Count(ocitest.Match{Kind: ocitest.Blob, Server: ocitest.RegistryServer}); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}
