package node

import (
	"context"
	"slices"
	"time"
)

const (
	// pollEvery is how often files are looked at, without opening them; what has
	// changed is promised to be in force within a second. There are no file
	// notifications here: network file systems send none, their queue overflows, and
	// with links on the way to a file (Kubernetes swaps the folder ..data) every
	// folder on every way has to be watched. So a poll is needed anyway, and it is
	// cheap: a look at a thousand files takes some milliseconds.
	pollEvery = 400 * time.Millisecond
	// A file that has changed within quietFor may be one that is being written, or the
	// first of two that belong together. It is looked at again before it is read, for
	// at most burstFor.
	quietFor = 50 * time.Millisecond
	burstFor = 250 * time.Millisecond
)

// watch puts in force what changes on the disk, until ctx ends.
func (n *node) watch(ctx context.Context) {
	f := follower{node: n}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(f.look())
		}
	}
}

// tracker tells which files have changed since it looked last.
type tracker struct {
	seen  map[string]glance // by path
	burst time.Time         // since when changes are left for later; zero: none is
}

// changes are those of paths that look different from last time, the gone included:
// at first, all that are there. quiet false: something is changing just now, so all
// is left for the next time, which should be after quietFor.
func (t *tracker) changes(paths []string, now time.Time) (changed []string, quiet bool) {
	seen := make(map[string]glance, len(paths))
	quiet = true
	for _, path := range paths {
		g := glanceAt(path, now)
		seen[path] = g
		if before, ok := t.seen[path]; !ok || !g.same(before) {
			changed = append(changed, path)
			quiet = quiet && !g.justChanged(now)
		}
	}
	for path := range t.seen {
		if _, ok := seen[path]; !ok {
			changed = append(changed, path)
		}
	}
	if t.burst.IsZero() {
		t.burst = now
	}
	if !quiet && now.Sub(t.burst) < burstFor {
		return nil, false
	}
	t.seen, t.burst = seen, time.Time{}
	slices.Sort(changed)
	return changed, true
}

// reread makes path look changed the next time: it could not be read.
func (t *tracker) reread(path string) { delete(t.seen, path) }
