package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"berth/auth/caller"
	"berth/cache/download"
	"berth/internal/admin"
	"berth/internal/config"
	"berth/oci"
)

const (
	// prewarmBlobs are fetched at once for one image, as clients do.
	prewarmBlobs = 3
	// prewarmTold is how often somebody hears how far it is.
	prewarmTold = 200 * time.Millisecond
)

// prewarming is one image on its way into the cache: a pull whose bytes go nowhere.
type prewarming struct {
	source   oci.Source
	registry string
	repo     string
	ref      string
	platform oci.Platform
	hear     func(admin.Progress)
	who      string

	mu       sync.Mutex // guards all below
	progress admin.Progress
	told     time.Time
}

func (n *node) newPrewarming(r admin.PrewarmRequest, hear func(admin.Progress)) (*prewarming, error) {
	platform, err := wantedPlatform(r.Platform)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	g := n.current
	_, in := n.cfg.Organisations[r.Organisation]
	n.mu.Unlock()
	if r.Organisation != "" && (!config.ValidOrganisation(r.Organisation) || !in) {
		return nil, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %.100q on this node: berth status lists them", r.Organisation)}
	}
	route, ref, err := g.route(r.Image, r.Organisation)
	if err != nil {
		return nil, err
	}
	source, err := g.source(caller.Caller{Organisation: r.Organisation, Account: r.Account}, route.Registry)
	if err != nil {
		return nil, err
	}
	return &prewarming{source: source, registry: route.Registry.Name, repo: route.Repo, ref: ref, platform: platform, hear: hear, who: r.Organisation}, nil
}

// run pulls the image. Its error is for people.
func (p *prewarming) run(ctx context.Context) error {
	d, err := p.resolve(ctx)
	if err == nil {
		err = p.image(ctx, d)
	}
	if err != nil && ctx.Err() == nil {
		return oci.AsError(err).For(p.who)
	}
	return err
}

func (p *prewarming) resolve(ctx context.Context) (oci.Digest, error) {
	if strings.Contains(p.ref, ":") { // a tag has none
		return oci.ParseDigest(p.ref)
	}
	r, err := p.source.Resolve(ctx, p.repo, p.ref)
	return r.Digest, err
}

// image fetches what d names: an image, or that of the platform in an index.
func (p *prewarming) image(ctx context.Context, d oci.Digest) error {
	for range 2 {
		text, err := p.manifest(ctx, d)
		if err != nil {
			return err
		}
		doc, err := oci.ParseManifest(text)
		if err != nil {
			return fmt.Errorf("%s@%s cannot be used as an image: %w", p.repo, d, err)
		}
		if !doc.Index() {
			return p.blobs(ctx, doc.Blobs())
		}
		if d, _ = oci.ChoosePlatform(doc.Manifests, p.platform); d == "" {
			return &oci.Error{Class: oci.WrongPlatform, Message: fmt.Sprintf("%s has no image for %s: name another with --platform", p.repo, p.platform)}
		}
	}
	return &oci.Error{Class: oci.UpstreamError, Message: p.repo + " has an index within an index, which no client pulls"}
}

func (p *prewarming) manifest(ctx context.Context, d oci.Digest) ([]byte, error) {
	d, err := oci.ParseDigest(d.String())
	if err != nil {
		return nil, err
	}
	c, err := p.source.Open(ctx, oci.Object{Repo: p.repo, Kind: oci.Manifest, Digest: d}, oci.Range{})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress.Digest = d.String()
	p.progress.Total += int64(len(c.Data))
	p.add(int64(len(c.Data)), c.Result)
	return c.Data, nil
}

// blobs fetches all but what clients fetch from elsewhere.
func (p *prewarming) blobs(ctx context.Context, all []oci.Entry) error {
	all = slices.DeleteFunc(all, func(d oci.Entry) bool { return len(d.URLs) > 0 })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(prewarmBlobs)
	for _, b := range all {
		p.mu.Lock()
		p.progress.Total += max(b.Size, 0)
		p.mu.Unlock()
	}
	for _, b := range all {
		g.Go(func() error { return p.blob(ctx, b) })
	}
	return g.Wait()
}

func (p *prewarming) blob(ctx context.Context, b oci.Entry) error {
	d, err := oci.ParseDigest(string(b.Digest))
	if err != nil {
		return err
	}
	c, err := p.source.Open(ctx, oci.Object{Repo: p.repo, Kind: oci.Blob, Digest: d}, oci.Range{})
	if err != nil {
		return err
	}
	defer c.Close()
	if c.Data != nil || c.Result == oci.Hit || c.Result == oci.Revalidated || c.Result == oci.Stale { // it need not be read
		p.count(c.Size, c.Result)
		return nil
	}
	_, err = io.Copy(counting{p, c.Result}, c.Body)
	return err
}

// counting counts the bytes of one blob.
type counting struct {
	w      *prewarming
	result oci.Result
}

// Write takes bytes that were read and checked, and drops them.
func (c counting) Write(p []byte) (int, error) {
	c.w.count(int64(len(p)), c.result)
	return len(p), nil
}

func (p *prewarming) count(n int64, result oci.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(n, result)
}

// add counts, and tells now and then. Caller holds mu.
func (p *prewarming) add(n int64, result oci.Result) {
	p.progress.Bytes += n
	if result == oci.Fill || result == oci.Pass || result == oci.Join {
		p.progress.Fetched += n
	}
	if now := time.Now(); now.Sub(p.told) >= prewarmTold {
		p.told = now
		p.hear(p.progress)
	}
}

// settleFor bounds the wait for the disk after a prewarming.
const settleFor = 5 * time.Second

// prewarm answers berth prewarm.
func (n *node) prewarm(ctx context.Context, r admin.PrewarmRequest, hear func(admin.Progress)) (admin.Progress, error) {
	w, err := n.newPrewarming(r, hear)
	if err != nil {
		return admin.Progress{}, err
	}
	if err = w.run(ctx); err == nil {
		n.settled(ctx, w)
	}
	return w.progress, err
}

// settled waits until what was fetched lies in the cache: the last byte of a
// download is there before its name is. It may lie past it, on a bad disk.
func (n *node) settled(ctx context.Context, w *prewarming) {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	mine := func(d download.Progress) bool { return d.Registry == w.registry && d.Repository == w.repo }
	for slices.ContainsFunc(n.cache.Downloads(), mine) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
