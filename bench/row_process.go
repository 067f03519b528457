package main

import (
	"context"
	"time"
)

// idleAfter is how long a server may take to come to rest.
const idleAfter = time.Second

// process starts another instance of the peer. The peak is that of the one that
// has done everything so far.
func process(ctx context.Context, b *bench, p *peer) (figures, error) {
	began := time.Now()
	i, err := p.start(ctx, b.origin(false))
	if err != nil {
		return nil, err
	}
	defer i.stop()
	took := time.Since(began)
	time.Sleep(idleAfter)
	return figures{
		"start ms": float64(took.Microseconds()) / 1000,
		"idle MiB": memory(i.pid(), "VmRSS"),
		"peak MiB": memory(p.plain.pid(), "VmHWM"),
	}, nil
}
