package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"
)

// cold measures a blob that nobody has seen, for clients that want it at once.
func cold(size int64, clients int, tls bool) func(context.Context, *bench, *peer) (figures, error) {
	return func(ctx context.Context, b *bench, p *peer) (figures, error) {
		digest, err := b.upstream.blob(ctx, size)
		if err != nil {
			return nil, err
		}
		t, err := p.target(ctx, tls, "blobs", digest)
		if err != nil {
			return nil, err
		}
		instance, err := p.over(ctx, tls)
		if err != nil {
			return nil, err
		}
		if _, err := b.upstream.counts(ctx); err != nil {
			return nil, err
		}
		before, start := cpu(instance.pid()), time.Now()
		all, err := fetchAll(ctx, t, clients)
		if err != nil {
			return nil, err
		}
		took, used := time.Since(start), cpu(instance.pid())-before
		up, err := b.upstream.counts(ctx)
		if err == nil && instance.dir != "" {
			err = forget(instance.dir)
		}
		return figures{
			"s": took.Seconds(), "MB/s": float64(size) / 1e6 / took.Seconds(),
			"first byte ms, slowest client": slowest(all).Seconds() * 1000,
			"copies from upstream":          float64(up.Bytes) / float64(size),
			"CPU s/GB delivered":            used.Seconds() / float64(total(all)) * 1e9,
		}, err
	}
}

// slowest is when the last client had its first byte.
func slowest(all []download) (d time.Duration) {
	for _, one := range all {
		d = max(d, one.first)
	}
	return d
}

// faults asks once for a blob of 32 MiB under each kind of trouble.
func faults(ctx context.Context, b *bench, p *peer) (figures, error) {
	f := figures{}
	for name, trouble := range map[string]conditions{"cut": {Cut: 1}, "503 twice": {Busy: 2}, "429 once": {Limited: 1}} {
		digest, err := b.upstream.blob(ctx, 32<<20)
		if err != nil {
			return nil, err
		}
		if err := b.upstream.set(ctx, trouble); err != nil {
			return nil, err
		}
		t, err := p.target(ctx, false, "blobs", digest)
		if err != nil {
			return nil, err
		}
		t.into = sha256.New()
		f[name] = 0
		if _, err := fetch(ctx, t); err == nil && fmt.Sprintf("sha256:%x", t.into.Sum(nil)) == digest {
			f[name] = 1
		}
	}
	return f, nil
}
