package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// pulled is what a row of pulls is about.
type pulled struct {
	layers int
	size   int64
	rate   int // MB/s a connection
	// client starts a client that has nothing.
	client func(ctx context.Context, b *bench) (puller, error)
	// changed: of the image that is pulled the client has all but one layer.
	changed bool
}

// pulls are the rows in which a real client pulls images: what users wait for.
func pulls() []row {
	var all []row
	for _, rate := range []int{60, 16} {
		for _, of := range []struct {
			name, title string
			layers      int
			size        int64
		}{
			{"ten", "ten layers of 100 MB", 10, 100e6},
			{"one", "one layer of 300 MB", 1, 300e6},
			{"sixty", "sixty layers of 300 KB", 60, 300e3},
		} {
			what := pulled{layers: of.layers, size: of.size, rate: rate, client: startContainerd}
			all = append(all, what.row("pull-"+of.name, "containerd fetches "+of.title, findEngine))
		}
	}
	change := pulled{layers: 10, size: 30e6, rate: 60, client: startContainerd, changed: true}
	all = append(all, change.row("pull-changed", "containerd has nine of ten layers of 30 MB and fetches the tenth", findEngine))
	for _, c := range clients() {
		what := pulled{layers: 5, size: 40e6, rate: 60, client: c.start}
		all = append(all, what.row("pull-"+c.name, c.title+" pulls and unpacks five layers of 40 MB", c.find))
	}
	return append(all, lazyRow())
}

func (p pulled) row(name, title string, needs func(context.Context, *bench) error) row {
	return row{
		name:  fmt.Sprintf("%s-%d", name, p.rate),
		title: fmt.Sprintf("%s, upstream %d ms away, %d MB/s per connection", title, farAway, p.rate),
		columns: []column{
			{"cold s", 2, true}, {"warm s", 2, true}, {"cold CPU s", 2, true}, {"warm CPU s", 2, true},
			{"cold upstream requests", 0, true}, {"warm upstream requests", 0, true},
		},
		needs:    needs,
		upstream: conditions{LatencyMS: farAway, ConnectMS: farAway, PerConnection: p.rate * 1e6},
		measure:  p.measure,
	}
}

// measure measures an image that nobody has seen, by a peer that has just been started
// and asks the registry for the first time; then the same image once more. Each time
// the client is a new one.
func (p pulled) measure(ctx context.Context, b *bench, at *peer) (f figures, err error) {
	var has image // what the client has before
	if p.changed {
		if has, err = p.image(ctx, b, ""); err != nil {
			return nil, err
		}
	}
	i, err := p.image(ctx, b, has.Tag)
	if err != nil {
		return nil, err
	}
	instance, done, err := at.forPull(ctx, has, i)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	f = figures{}
	if at.name != "bare" { // which fetches nothing
		if err := p.fetch(ctx, at, instance, "cold ", f, has, i); err != nil {
			return nil, fmt.Errorf("cold: %w", err)
		}
	}
	if at.name != "direct" { // which keeps nothing
		if err := p.fetch(ctx, at, instance, "warm ", f, has, i); err != nil {
			return nil, fmt.Errorf("warm: %w", err)
		}
	}
	return f, nil
}

func (p pulled) image(ctx context.Context, b *bench, like string) (image, error) {
	b.images++
	return b.upstream.image(ctx, fmt.Sprintf("pull-%d", b.images), p.layers, p.size, like)
}

// forPull is a peer that keeps nothing of earlier images. Bare's files are put where
// it looks.
func (p *peer) forPull(ctx context.Context, images ...image) (at *instance, done func() error, err error) {
	switch p.name {
	case "direct":
		return p.plain, func() error { return nil }, nil
	case "bare":
		return p.bareForPull(ctx, images)
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

func (p *peer) bareForPull(ctx context.Context, images []image) (at *instance, done func() error, err error) {
	// It is not the way there that is measured.
	if err := p.b.upstream.set(ctx, conditions{}); err != nil {
		return nil, nil, err
	}
	var files []string
	done = func() (err error) {
		for _, name := range files {
			err = errors.Join(err, ignoreGone(os.Remove(p.file(name))))
		}
		return err
	}
	for _, i := range images {
		if i.Tag == "" {
			continue
		}
		for n, name := range append([]string{i.Tag, i.Manifest}, i.Blobs...) {
			kind := "blobs"
			if n < 2 {
				kind = "manifests"
			}
			files = append(files, name)
			if err := p.put(ctx, kind, name); err != nil {
				return nil, nil, errors.Join(err, done())
			}
		}
	}
	return p.plain, done, nil
}

// fetch has a new client pull i, and puts what that took into f.
func (p pulled) fetch(ctx context.Context, from *peer, at *instance, state string, f figures, has, i image) (err error) {
	b := from.b
	c, err := p.client(ctx, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.remove()) }()
	name := func(i image) string { return at.address + "/" + from.prefix + "team/app:" + i.Tag }
	if has.Tag != "" {
		if err := c.fetch(ctx, name(has)); err != nil {
			return err
		}
	}
	settle()
	if _, err := b.upstream.counts(ctx); err != nil {
		return err
	}
	before, began := cpu(at.pid()), time.Now()
	if err := c.fetch(ctx, name(i)); err != nil {
		return err
	}
	f[state+"s"] = time.Since(began).Seconds()
	if from.name != "direct" { // whose process is the registry's
		f[state+"CPU s"] = (cpu(at.pid()) - before).Seconds()
	}
	up, err := b.upstream.counts(ctx)
	if err != nil {
		return err
	}
	f[state+"upstream requests"] = float64(up.Requests)
	return c.has(ctx, name(i), i)
}
