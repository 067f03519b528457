package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/internal/config"
	"berth/internal/descriptor"
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
	seen  map[string]fileStamp // by path
	burst time.Time            // since when changes are left for later; zero: none is
}

// changes are those of paths that look different from last time, the gone included:
// at first, all that are there. quiet false: something is changing just now, so all
// is left for the next time, which should be after quietFor.
func (t *tracker) changes(paths []string, now time.Time) (changed []string, quiet bool) {
	seen := make(map[string]fileStamp, len(paths))
	quiet = true
	for _, path := range paths {
		g := stampOf(path, now)
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

// goneAfter is how long the folder of drop-ins must be missing before that is
// believed: who replaces it takes it away first.
const goneAfter = 500 * time.Millisecond

// follower puts in force what changes on the disk: drop-ins and certificates.
// Secrets are read again where they are used; here only so that one that is gone or
// new shows without a pull.
type follower struct {
	*node

	certificateFiles, dropInFiles, secretFiles tracker

	secretsRead time.Time // when the secrets were ordered to be read last

	missing time.Time // since when the folder of drop-ins is; zero: it is not
	trouble string    // with reading the folder, as last logged
}

func (n *node) dropInFolder() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return dropInFolder(n.cfg)
}

// dropInFolder is where cfg's drop-ins are, or would be if there were any; empty
// without a main file.
func dropInFolder(cfg *config.Config) string {
	main, ok := cfg.Files[""]
	switch {
	case !ok:
		return ""
	case cfg.OrganisationsDirectory != "":
		return cfg.OrganisationsDirectory
	}
	dir, err := filepath.Abs(filepath.Dir(main.Path))
	if err != nil {
		return "" // the working directory is gone
	}
	return filepath.Join(dir, "organisations.d")
}

// look puts in force what has changed, and says when it wants to look again.
func (f *follower) look() (next time.Duration) {
	next = min(f.lookAtCertificates(), f.lookAtSecrets())
	if dir := f.dropInFolder(); dir != "" {
		next = min(next, f.lookInto(dir))
	}
	return next
}

func (f *follower) lookAtCertificates() (next time.Duration) {
	var paths []string
	for _, front := range f.listeners {
		if front.cert != nil {
			paths = append(paths, front.cert.files.CertFile, front.cert.files.KeyFile)
		}
	}
	changed, quiet := f.certificateFiles.changes(paths, time.Now())
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
	err := front.cert.renew()
	if descriptor.Exhausted(err) { // it was not read: it is next time
		f.certificateFiles.reread(front.cert.files.CertFile)
	}
	switch {
	case errors.Is(err, errUnchanged):
	case err != nil:
		f.log.Error("a new certificate cannot be used, the old one stays", "address", front.address.String(), "err", err)
	default:
		f.log.Info("a new certificate is in use", "address", front.address.String(), "ends", front.cert.ends())
	}
}

// lookAtSecrets has them read when a file of theirs has changed, and now and then.
func (f *follower) lookAtSecrets() (next time.Duration) {
	f.mu.Lock()
	paths := secretFiles(f.cfg)
	f.mu.Unlock()
	now := time.Now()
	changed, quiet := f.secretFiles.changes(paths, now)
	if !quiet {
		return quietFor
	}
	if len(changed) > 0 || now.Sub(f.secretsRead) >= secretsEvery {
		f.secretsRead = now
		f.readSecretsSoon()
	}
	return pollEvery
}

// lookInto reads those drop-ins again that look different from last time.
func (f *follower) lookInto(dir string) (next time.Duration) {
	names, next, ok := f.list(dir)
	if !ok {
		return next
	}
	path := func(name string) string { return filepath.Join(dir, name+dropInSuffix) }
	var paths []string
	for _, name := range names {
		paths = append(paths, path(name))
	}
	changed, quiet := f.dropInFiles.changes(paths, time.Now())
	if !quiet {
		return quietFor
	}
	if len(changed) == 0 {
		return pollEvery
	}
	for i, path := range changed {
		changed[i] = strings.TrimSuffix(filepath.Base(path), dropInSuffix)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applyDropIns(changed)
	for _, name := range changed {
		if descriptor.Exhausted(f.cfg.Broken[name]) { // it was not read: it is next time
			f.dropInFiles.reread(path(name))
		}
	}
	return pollEvery
}

// list gives the drop-ins that are there. Not ok: nothing can be said about them
// before next, so everything stays.
func (f *follower) list(dir string) (names []string, next time.Duration, ok bool) {
	names, err := dropInsIn(dir)
	switch {
	case err == nil:
		f.missing, f.trouble = time.Time{}, ""
		return names, pollEvery, true
	case !errors.Is(err, fs.ErrNotExist):
		if err.Error() != f.trouble {
			f.log.Error("the organisations' folder cannot be read, so they stay as they are", "err", err)
		}
		f.missing, f.trouble = time.Time{}, err.Error()
		return nil, pollEvery, false
	case f.missing.IsZero():
		f.missing = time.Now()
		return nil, goneAfter, false
	}
	if left := goneAfter - time.Since(f.missing); left > 0 {
		return nil, left, false
	}
	return nil, pollEvery, true
}

// dropIns are those that are there, and those that were. Caller holds mu.
func (n *node) dropIns() []string {
	names, err := dropInsIn(dropInFolder(n.cfg))
	if err != nil {
		return nil // whoever follows the folder says so
	}
	for name := range n.cfg.Files {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

const dropInSuffix = ".yaml"

// dropInsIn lists the organisations that have a file in dir. Hidden files are
// none: editors and Kubernetes put their own between the drop-ins.
func dropInsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), dropInSuffix)
		if ok && name != "" && name[0] != '.' {
			names = append(names, name)
		}
	}
	return names, nil
}
