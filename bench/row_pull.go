package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// pulls are the rows in which a real containerd fetches images: what users wait for.
func pulls() []row {
	var all []row
	for _, rate := range []int{60, 16} { // MB/s a connection
		for _, of := range []struct {
			name, title string
			layers      int
			size        int64
		}{
			{"ten", "ten layers of 100 MB", 10, 100e6},
			{"one", "one layer of 300 MB", 1, 300e6},
			{"sixty", "sixty layers of 300 KB", 60, 300e3},
		} {
			all = append(all, row{
				name:  fmt.Sprintf("pull-%s-%d", of.name, rate),
				title: fmt.Sprintf("containerd fetches %s, upstream %d ms away, %d MB/s per connection", of.title, farAway, rate),
				columns: []column{
					{"cold s", 2, true}, {"warm s", 2, true}, {"cold CPU s", 2, true}, {"warm CPU s", 2, true},
					{"cold upstream requests", 0, true}, {"warm upstream requests", 0, true},
				},
				needs:    findEngine,
				upstream: conditions{LatencyMS: farAway, ConnectMS: farAway, PerConnection: rate * 1e6},
				measure:  pull(of.layers, of.size),
			})
		}
	}
	return all
}

// pull measures an image that nobody has seen, by a peer that has just been started
// and asks the registry for the first time; then the same image once more. Each time
// containerd is a new one, that has nothing.
func pull(layers int, size int64) func(context.Context, *bench, *peer) (figures, error) {
	return func(ctx context.Context, b *bench, p *peer) (f figures, err error) {
		b.engine.pulls++
		i, err := b.upstream.image(ctx, fmt.Sprintf("pull-%d", b.engine.pulls), layers, size)
		if err != nil {
			return nil, err
		}
		at, done, err := p.forPull(ctx, i)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, done()) }()
		f = figures{}
		if p.name != "bare" { // which fetches nothing
			if err := p.fetchImage(ctx, at, i, "cold ", f); err != nil {
				return nil, fmt.Errorf("cold: %w", err)
			}
		}
		if p.name != "direct" { // which keeps nothing
			if err := p.fetchImage(ctx, at, i, "warm ", f); err != nil {
				return nil, fmt.Errorf("warm: %w", err)
			}
		}
		return f, nil
	}
}

// forPull is a peer that keeps nothing of earlier images. Bare's files are put where
// it looks.
func (p *peer) forPull(ctx context.Context, i image) (at *instance, done func() error, err error) {
	switch p.name {
	case "direct":
		return p.plain, func() error { return nil }, nil
	case "bare":
		// It is not the way there that is measured.
		if err := p.b.upstream.set(ctx, conditions{}); err != nil {
			return nil, nil, err
		}
		files := append([]string{i.Tag, i.Manifest}, i.Blobs...)
		done := func() (err error) {
			for _, name := range files {
				err = errors.Join(err, ignoreGone(os.Remove(p.file(name))))
			}
			return err
		}
		for n, name := range files {
			kind := "blobs"
			if n < 2 {
				kind = "manifests"
			}
			if err := p.put(ctx, kind, name); err != nil {
				return nil, nil, errors.Join(err, done())
			}
		}
		return p.plain, done, nil
	}
	at, err = p.start(ctx, p.b.origin(false))
	if err != nil {
		return nil, nil, err
	}
	return at, func() error {
		at.stop()
		return os.RemoveAll(at.dir)
	}, nil
}

// fetchImage has a new containerd fetch i, and puts what that took into f.
func (p *peer) fetchImage(ctx context.Context, at *instance, i image, state string, f figures) (err error) {
	c, err := p.b.engine.start(ctx, p.b.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.remove()) }()
	settle()
	if _, err := p.b.upstream.counts(ctx); err != nil {
		return err
	}
	before, began := cpu(at.pid()), time.Now()
	if err := c.fetch(ctx, at.address+"/"+p.prefix+"team/app:"+i.Tag); err != nil {
		return err
	}
	f[state+"s"] = time.Since(began).Seconds()
	if p.name != "direct" { // whose process is the registry's
		f[state+"CPU s"] = (cpu(at.pid()) - before).Seconds()
	}
	up, err := p.b.upstream.counts(ctx)
	if err != nil {
		return err
	}
	f[state+"upstream requests"] = float64(up.Requests)
	return c.has(append([]string{i.Manifest}, i.Blobs...))
}
