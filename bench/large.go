package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

// download is how a client got a large object.
type download struct {
	first, took time.Duration // until the first byte of the body, and the last
	size        int64
}

// target is what is downloaded, from whom.
type target struct {
	address, path string
	caFile        string // empty: plain HTTP
	into          hash.Hash
}

// target is an object at the peer, over its instance of that kind. Only the
// registry itself is reached over TLS by us.
func (p *peer) target(ctx context.Context, tls bool, kind, reference string) (target, error) {
	i, err := p.over(ctx, tls)
	if err != nil {
		return target{}, err
	}
	t := target{address: i.address, path: p.path(kind, reference)}
	if tls && i.server == p.b.upstream.server {
		t.caFile = p.b.upstream.caFile
	}
	return t, nil
}

// fetch downloads over a connection of its own.
func fetch(ctx context.Context, t target) (d download, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	start := time.Now()
	c, err := t.dial(ctx)
	if err != nil {
		return d, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.address+t.path, nil)
	if err != nil {
		return d, err
	}
	q.SetBasicAuth(upstreamUser, upstreamPassword) // for "direct"; the others don't look
	q.Header.Set("Accept", manifestType)
	if err := q.Write(c); err != nil {
		return d, err
	}
	a, err := http.ReadResponse(bufio.NewReader(c), q)
	if err != nil {
		return d, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(a.Body, 300))
		return d, fmt.Errorf("%s: %s", a.Status, text)
	}
	err = d.read(a.Body, start, t.into)
	if err == nil && a.ContentLength >= 0 && d.size != a.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	return d, err
}

// read reads to the end, in steps that cost little.
func (d *download) read(from io.Reader, start time.Time, into hash.Hash) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && d.size == 0 {
			d.first = time.Since(start)
		}
		d.size += int64(n)
		if into != nil {
			into.Write(buf[:n])
		}
		if errors.Is(err, io.EOF) {
			d.took = time.Since(start)
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", d.size, err)
		}
	}
}

func (t target) dial(ctx context.Context) (net.Conn, error) {
	if t.caFile == "" {
		return new(net.Dialer).DialContext(ctx, "tcp4", t.address)
	}
	pem, err := os.ReadFile(t.caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}}
	return d.DialContext(ctx, "tcp4", t.address)
}

// fetchAll is fetch for several clients at once.
func fetchAll(ctx context.Context, t target, clients int) ([]download, error) {
	all := make([]download, clients)
	g, ctx := errgroup.WithContext(ctx)
	for i := range all {
		g.Go(func() (err error) {
			all[i], err = fetch(ctx, t)
			return err
		})
	}
	return all, g.Wait()
}

// total is how much came altogether.
func total(all []download) (size int64) {
	for _, one := range all {
		size += one.size
	}
	return size
}
