package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// What a lazy reader (eStargz, SOCI) asks for: the index at the end of the layer, and then
// what a program happens to read, a few pieces at once.
const (
	lazyLayer   = 300 << 20
	lazyIndex   = 1 << 20
	lazyPieces  = 64
	lazyPiece   = 256 << 10
	lazyAtOnce  = 4
	lazyRowRate = 16 // MB/s a connection
)

func lazyRow() row {
	return row{
		name:  fmt.Sprintf("pull-lazy-%d", lazyRowRate),
		title: fmt.Sprintf("a lazy reader takes 17 of 300 MiB in ranges, upstream %d ms away, %d MB/s per connection", farAway, lazyRowRate),
		columns: []column{
			{"index s", 2, true}, {"all s", 2, true}, {"CPU s", 2, true}, {"copies of the layer from upstream", 2, true},
		},
		without:  []string{"bare"},
		upstream: conditions{LatencyMS: farAway, ConnectMS: farAway, PerConnection: lazyRowRate * 1e6},
		measure:  lazy,
	}
}

// lazy reads from a layer that nobody has seen.
func lazy(ctx context.Context, b *bench, p *peer) (figures, error) {
	digest, err := b.upstream.blob(ctx, lazyLayer)
	if err != nil {
		return nil, err
	}
	at, done, err := p.forPull(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = done() }() // the folder of the run goes anyway
	read := func(ctx context.Context, from, n int64) error {
		return readRange(ctx, "http://"+at.address+p.path("blobs", digest), from, n)
	}
	if _, err := b.upstream.counts(ctx); err != nil {
		return nil, err
	}
	before, began := cpu(at.pid()), time.Now()
	if err := read(ctx, lazyLayer-lazyIndex, lazyIndex); err != nil {
		return nil, err
	}
	f := figures{"index s": time.Since(began).Seconds()}
	places := rand.New(rand.NewPCG(1, 2)).Perm(int((lazyLayer - lazyIndex) / lazyPiece))
	all, reading := errgroup.WithContext(ctx)
	all.SetLimit(lazyAtOnce)
	for _, place := range places[:lazyPieces] {
		all.Go(func() error { return read(reading, int64(place)*lazyPiece, lazyPiece) })
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	f["all s"] = time.Since(began).Seconds()
	if p.name != "direct" { // whose process is the registry's
		f["CPU s"] = (cpu(at.pid()) - before).Seconds()
	}
	up, err := b.upstream.counts(ctx)
	f["copies of the layer from upstream"] = float64(up.Bytes) / lazyLayer
	return f, err
}

// readRange reads n bytes from a place on, and checks that there are as many.
func readRange(ctx context.Context, url string, from, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	q.SetBasicAuth(upstreamUser, upstreamPassword)
	q.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+n-1))
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	got, err := io.Copy(sha256.New(), a.Body) // as whoever checks a piece has to
	if err == nil && (a.StatusCode != http.StatusPartialContent || got != n) {
		err = fmt.Errorf("%s with %d bytes for %d", a.Status, got, n)
	}
	return err
}
