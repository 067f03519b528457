package node

import (
	"context"
	"slices"
	"time"

	"berth/cache/download"
	"berth/internal/admin"
)

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
