package node

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"berth/internal/config"
	"berth/internal/fileid"
	"berth/internal/hung"
)

// owedEvery is how often drop-ins are tried again that could not be put in force,
// though nothing about them has changed: what stood in their way may be gone.
const owedEvery = 5 * time.Second

// goneAfter is how long the folder of drop-ins must be missing before that is
// believed: who replaces it takes it away first.
const goneAfter = 500 * time.Millisecond

// dropIns is what is known about the folder of drop-ins besides the configuration in
// force. That says what each drop-in was when it was read: what lies there now is held
// against it, so that no change is lost, whatever kept it from being put in force.
type dropIns struct {
	burst burst
	sweep sweep
	// tried are the drop-ins that were not in force when it was tried last, as they
	// were then.
	tried   map[string]fileid.Stamp
	triedAt time.Time

	missing time.Time // since when the folder is; zero: it is not
	trouble string    // with reading the folder, as last logged
	refused string    // why changes could not be put in force, as last logged
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

// lookInto puts in force those drop-ins that are not what the configuration in force
// was read from.
func (f *follower) lookInto(ctx context.Context, dir string, cfg *config.Config) (next time.Duration) {
	there, next, ok := f.list(dir, cfg)
	if !ok {
		return next
	}
	defer there.close()
	now := time.Now()
	owed := f.dropIns.sweep.next(f.node, cfg, there, now)
	var changed []string
	quiet := true
	for name, stamp := range owed {
		if before, ok := f.dropIns.tried[name]; ok && stamp.Same(before) {
			continue
		}
		changed = append(changed, name)
		quiet = quiet && !justChanged(stamp, now)
	}
	if f.dropIns.burst.wait(quiet, now) {
		return quietFor
	}
	if len(changed) > 0 || len(owed) > 0 && now.Sub(f.dropIns.triedAt) >= owedEvery {
		f.dropIns.tried, f.dropIns.triedAt = maps.Clone(owed), now
		f.putInForce(ctx, slices.Sorted(maps.Keys(owed)))
	}
	return pollEvery
}

// stampsOf are those of paths, but for those that hang: they are what they were.
func (n *node) stampsOf(paths []string, now time.Time) []hung.Result[fileid.Stamp] {
	return hung.Each(n.hung, hung.Limit, paths, func(path string) fileid.Stamp { return fileid.StampOf(path, now) })
}

// putInForce has the drop-ins read again. Why they could not be put in force is logged
// once.
func (f *follower) putInForce(ctx context.Context, names []string) {
	done, err := f.change(ctx)
	if err != nil {
		return // it ends
	}
	defer done()
	err = f.applyDropIns(names)
	if err == nil {
		f.dropIns.refused = ""
		return
	}
	if err.Error() != f.dropIns.refused {
		f.dropIns.refused = err.Error()
		f.log.Error("changed organisations cannot be put in force, the old ones stay", "err", err)
	}
}

// list gives the drop-ins that are there. Not ok: nothing can be said about them
// before next, so everything stays.
func (f *follower) list(dir string, cfg *config.Config) (there listing, next time.Duration, ok bool) {
	there, err := f.listDropIns(dir, f.dropIns.sweep.known(cfg))
	switch {
	case err == nil:
		f.dropIns.missing, f.dropIns.trouble = time.Time{}, ""
		return there, pollEvery, true
	case !errors.Is(err, fs.ErrNotExist):
		if err.Error() != f.dropIns.trouble {
			f.log.Error("the organisations' folder cannot be read, so they stay as they are", "err", err)
		}
		f.dropIns.missing, f.dropIns.trouble = time.Time{}, err.Error()
		return listing{}, pollEvery, false
	case f.dropIns.missing.IsZero():
		f.dropIns.missing = time.Now()
		return listing{}, goneAfter, false
	}
	if left := goneAfter - time.Since(f.dropIns.missing); left > 0 {
		return listing{}, left, false
	}
	return listing{listed: true}, pollEvery, true
}

// dropIns are those that are there, and those that were. Caller is changing the
// configuration.
func (n *node) dropIns() []string {
	there, err := n.listDropIns(dropInFolder(n.cfg), fileid.Stamp{})
	if err != nil {
		return nil // whoever follows the folder says so
	}
	defer there.close()
	names := there.names
	for name := range n.cfg.Files {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

const dropInSuffix = ".yaml"
