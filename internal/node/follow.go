package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/config"
	"berth/internal/descriptor"
	"berth/internal/fileid"
)

// goneAfter is how long the folder of drop-ins must be missing before that is
// believed: who replaces it takes it away first.
const goneAfter = 500 * time.Millisecond

// follower puts in force what changes on the disk: drop-ins and certificates.
// Secrets are read again where they are used; here only so that one that is gone or
// new shows without a pull.
type follower struct {
	*node

	seen    map[string]glance // drop-ins, by organisation
	missing time.Time         // since when the folder is; zero: it is not
	trouble string            // with reading the folder, as last logged
}

// watch follows until ctx ends.
func (n *node) watch(ctx context.Context) {
	f := follower{node: n, seen: map[string]glance{}}
	w := watcher{paths: n.watched, look: f.look, moved: n.moved, log: n.log}
	w.run(ctx)
}

// watched are the paths of what can change.
func (n *node) watched() (files, folders []string) {
	for _, f := range n.fronts {
		if f.cert != nil {
			files = append(files, f.cert.files.CertFile, f.cert.files.KeyFile)
		}
	}
	n.mu.Lock()
	files = append(files, secretFiles(n.cfg)...)
	n.mu.Unlock()
	if dir := n.dropInFolder(); dir != "" {
		folders = append(folders, dir)
	}
	return files, folders
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

// look puts in force what has changed.
func (f *follower) look() (again time.Duration) {
	select {
	case f.secretsDue <- struct{}{}: // whoever reads the secrets
	default: // it is known
	}
	settled := true
	for _, front := range f.fronts {
		if front.cert != nil {
			settled = f.lookAt(front) && settled
		}
	}
	if dir := f.dropInFolder(); dir != "" {
		again = f.lookInto(dir)
	}
	if !settled {
		again = max(again, fileid.Racy)
	}
	return again
}

func (f *follower) lookAt(front *front) (settled bool) {
	settled, err := front.cert.look(time.Now())
	switch {
	case errors.Is(err, errUnchanged):
	case err != nil:
		f.log.Error("a new certificate cannot be used, the old one stays", "address", front.address.String(), "err", err)
	default:
		f.log.Info("a new certificate is in use", "address", front.address.String(), "ends", front.cert.ends())
	}
	return settled
}

// lookInto reads those drop-ins again that look different from last time.
func (f *follower) lookInto(dir string) (again time.Duration) {
	names, again, ok := f.list(dir)
	if !ok {
		return again
	}
	now := time.Now()
	seen := make(map[string]glance, len(names))
	var changed []string
	for _, name := range names {
		g := glanceAt(filepath.Join(dir, name+dropInSuffix), now)
		seen[name] = g
		if before, ok := f.seen[name]; !ok || !g.same(before) {
			changed = append(changed, name)
		}
		if !g.settled {
			again = fileid.Racy
		}
	}
	for name := range f.seen {
		if _, ok := seen[name]; !ok {
			changed = append(changed, name)
		}
	}
	f.seen = seen
	if len(changed) > 0 {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.adoptDropIns(changed)
		for _, name := range changed {
			if g, ok := seen[name]; ok && descriptor.Exhausted(f.cfg.Broken[name]) {
				g.settled = false // it was not read: it is next time
				seen[name], again = g, fileid.Racy
			}
		}
	}
	return again
}

// list gives the drop-ins that are there. Not ok: nothing can be said about them
// now, so everything stays.
func (f *follower) list(dir string) (names []string, again time.Duration, ok bool) {
	names, err := dropInsIn(dir)
	switch {
	case err == nil:
		f.missing, f.trouble = time.Time{}, ""
		return names, 0, true
	case !errors.Is(err, fs.ErrNotExist):
		if err.Error() != f.trouble {
			f.log.Error("the organisations' folder cannot be read, so they stay as they are", "err", err)
		}
		f.missing, f.trouble = time.Time{}, err.Error()
		return nil, 0, false
	case f.missing.IsZero():
		f.missing = time.Now()
		return nil, goneAfter, false
	}
	if left := goneAfter - time.Since(f.missing); left > 0 {
		return nil, left, false
	}
	return nil, 0, true
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
