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
	// warmingBlobs are fetched at once for one image, as clients do.
	warmingBlobs = 3
	// warmingTold is how often somebody hears how far it is.
	warmingTold = 200 * time.Millisecond
	// maxWarmed bounds a manifest, as it does in a pull.
	maxWarmed = 4 << 20
)

// warming is one image on its way into the cache: a pull whose bytes go nowhere.
type warming struct {
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

func (n *node) newWarming(r admin.PrewarmRequest, hear func(admin.Progress)) (*warming, error) {
	platform, err := wantedPlatform(r.Platform)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	d := n.desk
	_, in := n.cfg.Organisations[r.Organisation]
	n.mu.Unlock()
	if r.Organisation != "" && (!config.ValidOrganisation(r.Organisation) || !in) {
		return nil, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %.100q on this node: berth status lists them", r.Organisation)}
	}
	route, ref, err := d.route(r.Image, r.Organisation)
	if err != nil {
		return nil, err
	}
	source, err := d.source(n.cache, caller.Caller{Organisation: r.Organisation, Account: r.Account}, route.Registry)
	if err != nil {
		return nil, err
	}
	return &warming{source: source, registry: route.Registry.Name, repo: route.Repo, ref: ref, platform: platform, hear: hear, who: r.Organisation}, nil
}

// run pulls the image. Its error is for people.
func (w *warming) run(ctx context.Context) error {
	d, err := w.resolve(ctx)
	if err == nil {
		err = w.image(ctx, d)
	}
	if err != nil && ctx.Err() == nil {
		return oci.AsError(err).For(w.who)
	}
	return err
}

func (w *warming) resolve(ctx context.Context) (oci.Digest, error) {
	if strings.Contains(w.ref, ":") { // a tag has none
		return oci.ParseDigest(w.ref)
	}
	r, err := w.source.Resolve(ctx, w.repo, w.ref)
	return r.Digest, err
}

// image fetches what d names: an image, or that of the platform in an index.
func (w *warming) image(ctx context.Context, d oci.Digest) error {
	for range 2 {
		text, err := w.manifest(ctx, d)
		if err != nil {
			return err
		}
		doc, err := oci.ParseManifest(text)
		if err != nil {
			return fmt.Errorf("%s@%s cannot be used as an image: %w", w.repo, d, err)
		}
		if !doc.Index() {
			return w.blobs(ctx, doc.Blobs())
		}
		if d, _ = oci.ChoosePlatform(doc.Manifests, w.platform); d == "" {
			return &oci.Error{Class: oci.WrongPlatform, Message: fmt.Sprintf("%s has no image for %s: name another with --platform", w.repo, w.platform)}
		}
	}
	return &oci.Error{Class: oci.UpstreamError, Message: w.repo + " has an index within an index, which no client pulls"}
}

func (w *warming) manifest(ctx context.Context, d oci.Digest) ([]byte, error) {
	d, err := oci.ParseDigest(d.String())
	if err != nil {
		return nil, err
	}
	c, err := w.source.Open(ctx, oci.Object{Repo: w.repo, Kind: oci.Manifest, Digest: d}, oci.Range{})
	if err != nil {
		return nil, err
	}
	if c.Body != nil {
		defer c.Body.Close()
	}
	text := c.Data
	if text == nil {
		if text, err = io.ReadAll(io.LimitReader(c.Body, maxWarmed)); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.Digest = d.String()
	w.progress.Total += int64(len(text))
	w.add(int64(len(text)), c.Result)
	return text, nil
}

// blobs fetches all but what clients fetch from elsewhere.
func (w *warming) blobs(ctx context.Context, all []oci.Entry) error {
	all = slices.DeleteFunc(all, func(d oci.Entry) bool { return len(d.URLs) > 0 })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(warmingBlobs)
	for _, b := range all {
		w.mu.Lock()
		w.progress.Total += max(b.Size, 0)
		w.mu.Unlock()
	}
	for _, b := range all {
		g.Go(func() error { return w.blob(ctx, b) })
	}
	return g.Wait()
}

func (w *warming) blob(ctx context.Context, b oci.Entry) error {
	d, err := oci.ParseDigest(string(b.Digest))
	if err != nil {
		return err
	}
	c, err := w.source.Open(ctx, oci.Object{Repo: w.repo, Kind: oci.Blob, Digest: d}, oci.Range{})
	if err != nil {
		return err
	}
	defer c.Body.Close()
	if c.Result == oci.Hit || c.Result == oci.Revalidated || c.Result == oci.Stale { // it need not be read
		w.count(c.Size, c.Result)
		return nil
	}
	_, err = io.Copy(counting{w, c.Result}, c.Body)
	return err
}

// counting counts the bytes of one blob.
type counting struct {
	w      *warming
	result oci.Result
}

// Write takes bytes that were read and checked, and drops them.
func (c counting) Write(p []byte) (int, error) {
	c.w.count(int64(len(p)), c.result)
	return len(p), nil
}

func (w *warming) count(n int64, result oci.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(n, result)
}

// add counts, and tells now and then. Caller holds mu.
func (w *warming) add(n int64, result oci.Result) {
	w.progress.Bytes += n
	if result == oci.Fill || result == oci.Pass || result == oci.Join {
		w.progress.Fetched += n
	}
	if now := time.Now(); now.Sub(w.told) >= warmingTold {
		w.told = now
		w.hear(w.progress)
	}
}

// settleFor bounds the wait for the disk after a prewarming.
const settleFor = 5 * time.Second

// prewarm answers berth prewarm.
func (n *node) prewarm(ctx context.Context, r admin.PrewarmRequest, hear func(admin.Progress)) (admin.Progress, error) {
	w, err := n.newWarming(r, hear)
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
func (n *node) settled(ctx context.Context, w *warming) {
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
