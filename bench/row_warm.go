package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// warm is what the warm rows ask for, and who has it already.
type warm struct {
	large    string
	manifest string
	blobs    []string
	filled   map[string]bool // peer and set
}

const (
	warmTag     = "warm"
	warmClients = 16
	warmSize    = 512 << 20
	smallCount  = 32
	// smallClients is how many ask for small things at once.
	smallClients = 32
)

// stock makes the objects of the warm rows.
func (b *bench) stock(ctx context.Context) (*warm, error) {
	if b.warm != nil {
		return b.warm, nil
	}
	w := &warm{filled: map[string]bool{}}
	for range smallCount {
		d, err := b.upstream.blob(ctx, smallBlob)
		if err != nil {
			return nil, err
		}
		w.blobs = append(w.blobs, d)
	}
	var err error
	if w.manifest, err = b.upstream.manifest(ctx, warmTag); err != nil {
		return nil, err
	}
	if w.large, err = b.upstream.blob(ctx, warmSize); err != nil {
		return nil, err
	}
	b.warm = w
	return w, nil
}

// warmSmall has the peer fetch the small objects, and checks what it gives.
func warmSmall(ctx context.Context, b *bench, p *peer) error {
	w, err := b.stock(ctx)
	if err != nil {
		return err
	}
	if w.filled[p.name+" small"] {
		_, err = p.get(ctx, "manifests", warmTag) // proofs and tags have a time
		return err
	}
	w.filled[p.name+" small"] = true
	for _, reference := range []string{warmTag, w.manifest} {
		if err := p.fill(ctx, "manifests", reference, w.manifest); err != nil {
			return err
		}
	}
	for _, d := range w.blobs {
		if err := p.fill(ctx, "blobs", d, d); err != nil {
			return err
		}
	}
	return nil
}

func warmLarge(ctx context.Context, b *bench, p *peer) error {
	w, err := b.stock(ctx)
	if err != nil || w.filled[p.name+" large"] {
		return err
	}
	w.filled[p.name+" large"] = true
	if err := p.fill(ctx, "blobs", w.large, w.large); err != nil {
		return err
	}
	time.Sleep(time.Second) // some publish behind the answer
	return nil
}

// fill gets an object through the peer, and checks it. Bare fetches nothing: its
// files are put where it looks.
func (p *peer) fill(ctx context.Context, kind, reference, digest string) error {
	if p.name == "bare" {
		return p.put(ctx, kind, reference)
	}
	got, err := p.get(ctx, kind, reference)
	if err == nil && got != digest {
		err = fmt.Errorf("%s gave %s for %s", p.name, got, reference)
	}
	return err
}

// get downloads an object, and gives the digest of what came.
func (p *peer) get(ctx context.Context, kind, reference string) (string, error) {
	t, err := p.target(ctx, false, kind, reference)
	if err != nil {
		return "", err
	}
	t.into = sha256.New()
	_, err = fetch(ctx, t)
	return fmt.Sprintf("sha256:%x", t.into.Sum(nil)), err
}

// put writes an object of the registry into bare's folder.
func (p *peer) put(ctx context.Context, kind, reference string) error {
	f, err := os.Create(p.file(reference))
	if err != nil {
		return err
	}
	defer f.Close()
	t := target{address: p.b.upstream.Plain, path: "/v2/team/app/" + kind + "/" + reference, into: fileHash{f}}
	_, err = fetch(ctx, t)
	return err
}

// file is where bare looks for an object.
func (p *peer) file(reference string) string {
	return filepath.Join(p.plain.dir, filepath.Base(reference))
}

// fileHash writes a download to a file.
type fileHash struct{ *os.File }

// Sum is not asked for.
func (fileHash) Sum([]byte) []byte { return nil }

// Reset is not called.
func (fileHash) Reset() {}

// Size is not asked for.
func (fileHash) Size() int { return 0 }

// BlockSize is not asked for.
func (fileHash) BlockSize() int { return 1 }

func largeBlob(ctx context.Context, b *bench, p *peer) (figures, error) {
	t, err := p.target(ctx, false, "blobs", b.warm.large)
	if err != nil {
		return nil, err
	}
	before, start := cpu(p.plain.pid()), time.Now()
	all, err := fetchAll(ctx, t, warmClients)
	if err != nil {
		return nil, err
	}
	took, used := time.Since(start), cpu(p.plain.pid())-before
	size := total(all)
	return figures{"MB/s": float64(size) / 1e6 / took.Seconds(), "CPU s/GB": used.Seconds() / float64(size) * 1e9}, nil
}

// small measures small objects: references of the given kind, in turn.
func small(kind string, references func(*warm) []string) func(context.Context, *bench, *peer) (figures, error) {
	return func(ctx context.Context, b *bench, p *peer) (figures, error) {
		var requests [][]byte
		for _, reference := range references(b.warm) {
			requests = append(requests, request(p.plain.address, p.path(kind, reference)))
		}
		if _, err := pound(ctx, p.plain.address, requests, smallClients, smallFor/8); err != nil {
			return nil, err
		}
		if _, err := b.upstream.counts(ctx); err != nil {
			return nil, err
		}
		before := cpu(p.plain.pid())
		got, err := pound(ctx, p.plain.address, requests, smallClients, smallFor)
		if err != nil {
			return nil, err
		}
		used := cpu(p.plain.pid()) - before
		up, err := b.upstream.counts(ctx)
		return figures{
			"requests/s":  float64(got.requests) / got.took.Seconds(),
			"CPU us each": float64(used.Microseconds()) / float64(got.requests),
			"p50 us":      float64(got.p50.Microseconds()), "p99 us": float64(got.p99.Microseconds()),
			"upstream requests": float64(up.Requests),
		}, err
	}
}
