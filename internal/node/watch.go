package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"berth/internal/config"
	"berth/internal/descriptor"
	"berth/internal/fileid"
	"berth/internal/hung"
)

const (
	// pollEvery is how often files are looked at, without opening them; what has
	// changed is promised to be in force within a second. There are no file
	// notifications here: network file systems send none, their queue overflows, and
	// with links on the way to a file (Kubernetes swaps the folder ..data) every
	// folder on every way has to be watched. So a poll is needed anyway, and it is
	// cheap: a look at a thousand files takes some milliseconds.
	pollEvery = 400 * time.Millisecond
	// Where it is not, such as on a slow filesystem, a look is followed by sparing times what
	// it took, up to pollAtMost. With the reading that follows it is still within a second.
	sparing, pollAtMost = 30, 600 * time.Millisecond
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
			timer.Reset(f.look(ctx))
		}
	}
}

// tracker tells which files have changed since it looked last.
type tracker struct {
	seen  map[string]fileid.Stamp // by path
	burst burst
}

// burst is since when changes are left for later; zero: none is.
type burst struct{ since time.Time }

// wait says whether what has changed is left for later. quiet: all of it did so a
// while ago.
func (b *burst) wait(quiet bool, now time.Time) bool {
	if b.since.IsZero() {
		b.since = now
	}
	if !quiet && now.Sub(b.since) < burstFor {
		return true
	}
	b.since = time.Time{}
	return false
}

// justChanged says that a file may be in the middle of a change. A change that has
// yet to come is another machine's clock, which says nothing.
func justChanged(s fileid.Stamp, now time.Time) bool {
	age := now.Sub(s.ID.Changed())
	return age >= 0 && age < quietFor
}

// changes are those of paths that look different from last time: at first, all of them.
// quiet false: something is changing just now, so all is left for the next time, which
// should be after quietFor.
func (t *tracker) changes(n *node, paths []string, now time.Time) (changed []string, quiet bool) {
	news := map[string]fileid.Stamp{}
	quiet = true
	stamps := n.stampsOf(paths, now)
	for i, path := range paths {
		before, known := t.seen[path]
		stamp := stamps[i]
		if stamp.OK && (!known || !stamp.Value.Same(before)) {
			news[path] = stamp.Value
			quiet = quiet && !justChanged(stamp.Value, now)
		}
	}
	if t.burst.wait(quiet, now) {
		return nil, false
	}
	if t.seen == nil {
		t.seen = map[string]fileid.Stamp{}
	}
	maps.Copy(t.seen, news)
	return slices.Sorted(maps.Keys(news)), true
}

// keep forgets all but paths.
func (t *tracker) keep(paths []string) {
	kept := make(map[string]fileid.Stamp, len(paths))
	for _, path := range paths {
		if stamp, ok := t.seen[path]; ok {
			kept[path] = stamp
		}
	}
	t.seen = kept
}

// reread makes path look changed the next time: it could not be read.
func (t *tracker) reread(path string) { delete(t.seen, path) }

// follower puts in force what changes on the disk: drop-ins and certificates.
// Secrets are read again where they are used; here only so that one that is gone or
// new shows without a pull.
type follower struct {
	*node

	certificateFiles, secretFiles tracker

	secretsOf   *config.Config // whose secrets secretPaths are
	secretPaths []string
	secretsNext int       // the first of them that is looked at next
	secretsRead time.Time // when the secrets were ordered to be read last

	dropIns dropIns
}

// look puts in force what has changed, and says when it wants to look again.
func (f *follower) look(ctx context.Context) (next time.Duration) {
	began := time.Now()
	next = min(f.lookAtCertificates(), f.lookAtSecrets())
	f.mu.Lock()
	cfg := f.cfg
	f.mu.Unlock()
	if dir := dropInFolder(cfg); dir != "" {
		next = min(next, f.lookInto(ctx, dir, cfg))
	}
	return paced(next, time.Since(began))
}

// paced is next, or longer where a look takes long and nothing is changing.
func paced(next, took time.Duration) time.Duration {
	if next < pollEvery {
		return next
	}
	return max(next, min(sparing*took, pollAtMost))
}

func (f *follower) lookAtCertificates() (next time.Duration) {
	var paths []string
	for _, front := range f.listeners {
		if front.cert != nil {
			paths = append(paths, front.cert.files.CertFile, front.cert.files.KeyFile)
		}
	}
	changed, quiet := f.certificateFiles.changes(f.node, paths, time.Now())
	if !quiet {
		return quietFor
	}
	for _, front := range f.listeners {
		if c := front.cert; c != nil && (slices.Contains(changed, c.files.CertFile) || slices.Contains(changed, c.files.KeyFile)) {
			f.renew(front)
		}
	}
	return pollEvery
}

func (f *follower) renew(front *listener) {
	_, err := hung.Do(f.hung, hung.Limit, front.cert.files.CertFile, func() (_ struct{}, err error) { return struct{}{}, front.cert.renew() })
	if _, hangs := errors.AsType[*hung.Error](err); hangs || descriptor.Exhausted(err) { // it was not read: it is next time
		f.certificateFiles.reread(front.cert.files.CertFile)
	}
	switch {
	case errors.Is(err, errUnchanged):
	case err != nil:
		f.log.Error("a new certificate cannot be used, the old one stays", "address", front.address.String(), "err", err)
	default:
		f.config.serves(front)
		f.log.Info("a new certificate is in use", "address", front.address.String(), "ends", front.cert.ends())
	}
}

// lookAtSecrets has them read when a file of theirs has changed, and now and then. Of many
// files it looks at some: this is not what a new secret waits for, a pull looks at its own.
func (f *follower) lookAtSecrets() (next time.Duration) {
	f.mu.Lock()
	cfg := f.cfg
	f.mu.Unlock()
	if cfg != f.secretsOf { // they are read anyway when it comes into force
		f.secretsOf, f.secretPaths, f.secretsNext = cfg, secretFiles(cfg), 0
		f.secretFiles.keep(f.secretPaths)
	}
	now := time.Now()
	rest := f.secretPaths[f.secretsNext:]
	rest = rest[:min(mostLooked, len(rest))]
	changed, quiet := f.secretFiles.changes(f.node, rest, now)
	if !quiet {
		return quietFor
	}
	if f.secretsNext += len(rest); f.secretsNext == len(f.secretPaths) {
		f.secretsNext = 0
	}
	if len(changed) > 0 || now.Sub(f.secretsRead) >= secretsEvery {
		f.secretsRead = now
		f.readSecretsSoon()
	}
	return pollEvery
}
