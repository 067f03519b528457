package cache

import (
	"slices"
	"strings"

	"berth/oci"
)

// Download is a fill, for people.
type Download struct {
	// Registry and Repository are where it is fetched from, as whoever came first
	// asked for it.
	Registry, Repository string
	Digest               oci.Digest
	// Have is how many bytes are there, of Size; -1: the registry has not said.
	Have, Size int64
	// Readers wait for it or read along.
	Readers int
}

// Downloads are the fills that run, or that somebody waits for.
func (c *Cache) Downloads() []Download {
	c.mu.Lock()
	fills := make([]*fill, 0, len(c.fills))
	for _, f := range c.fills {
		fills = append(fills, f)
	}
	c.mu.Unlock()
	var all []Download
	for _, f := range fills {
		if d, ok := f.shown(); ok {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Download) int {
		return strings.Compare(a.Registry+"/"+a.Repository+a.Digest.String(), b.Registry+"/"+b.Repository+b.Digest.String())
	})
	return all
}

func (f *fill) shown() (Download, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || !f.running && len(f.readers) == 0 || len(f.sponsors) == 0 {
		return Download{}, false
	}
	sp := f.sponsors[0]
	d := Download{Registry: sp.source.u.Name, Repository: sp.key.repo, Digest: f.key.digest, Size: -1, Readers: len(f.readers)}
	if f.blocks != nil {
		d.Have, d.Size = f.blocks.Have(), f.blocks.Size()
	}
	return d, true
}
