package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// A burst of changes, such as a file being written or a folder being swapped,
	// is over when nothing more comes for quietFor, and is not waited for longer
	// than burstFor.
	quietFor = 50 * time.Millisecond
	burstFor = 250 * time.Millisecond
	// pollEvery is how often everything is looked at without having been told:
	// network file systems tell nothing, and a queue of events can overflow.
	pollEvery = 10 * time.Second
	// pollAlone is that without any events, where the system has none left.
	pollAlone = 500 * time.Millisecond
	// maxWatches bounds how many folders are watched. What is beyond is polled.
	maxWatches = 4096
)

// watcher tells when something about some paths may have changed. It tells no
// more than that: whoever is told looks for himself, so that an event that was
// lost, doubled or misread does no harm.
type watcher struct {
	// paths are what is watched now: files, and folders with all that is in them.
	paths func() (files, folders []string)
	// look is called at first and after each change. It says when it wants to be
	// called again at the latest; 0: no sooner than otherwise.
	look func() (again time.Duration)
	// moved says that paths would answer differently now.
	moved <-chan struct{}
	log   *slog.Logger
	// poll is how often look is called anyway. If 0, pollEvery.
	poll time.Duration
	// deaf does without events.
	deaf bool

	events  *fsnotify.Watcher          // nil: there are none
	names   map[string]map[string]bool // by watched folder: the names of interest; nil: all
	watched map[string]bool
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	w.names, w.watched = map[string]map[string]bool{}, map[string]bool{}
	events, trouble := w.open()
	if w.events != nil {
		defer w.events.Close()
	}
	var burst time.Time // when it began
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if !w.concerns(e) {
				continue
			}
		case err := <-trouble:
			w.log.Warn("watching files", "err", err) // an overflow, say: something was lost
		case <-w.moved:
		case <-timer.C:
			burst = time.Time{}
			timer.Reset(w.round())
			continue
		}
		if burst.IsZero() {
			burst = time.Now()
		}
		timer.Reset(max(0, min(quietFor, time.Until(burst.Add(burstFor)))))
	}
}

func (w *watcher) open() (chan fsnotify.Event, chan error) {
	if w.poll == 0 {
		w.poll = pollEvery
	}
	if w.deaf {
		return nil, nil
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("the system cannot tell when files change, so they are looked at twice a second", "err", err)
		w.poll = min(w.poll, pollAlone)
		return nil, nil
	}
	w.events = events
	return events.Events, events.Errors
}

// round looks. What is watched is set up before, so that no change falls between.
func (w *watcher) round() (next time.Duration) {
	w.follow()
	again := w.look()
	if again == 0 {
		return w.poll
	}
	return min(again, w.poll)
}

// concerns says whether an event is about something on the way to a path.
func (w *watcher) concerns(e fsnotify.Event) bool {
	names, ok := w.names[filepath.Dir(e.Name)]
	_, itself := w.names[e.Name]
	return itself || ok && (names == nil || names[filepath.Base(e.Name)])
}

// follow watches every folder on the way to the paths as that leads now.
func (w *watcher) follow() {
	w.names = map[string]map[string]bool{}
	files, folders := w.paths()
	for _, path := range slices.Concat(files, folders) {
		w.addTrail(path)
	}
	for _, path := range folders {
		w.addFolder(path)
	}
	if w.events == nil {
		return
	}
	for dir := range w.watched {
		if _, ok := w.names[dir]; !ok {
			w.drop(dir)
		}
	}
	for dir := range w.names {
		w.keep(dir)
	}
}

// addFolder adds a folder with all that is in it, and what links in it lead to.
func (w *watcher) addFolder(path string) {
	dir, err := filepath.EvalSymlinks(path)
	if err != nil {
		return // it is not there; its trail says when it is
	}
	w.names[dir] = nil
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the poll finds what comes
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			w.addTrail(filepath.Join(dir, e.Name()))
		}
	}
}

// addTrail adds every step on the way to path.
func (w *watcher) addTrail(path string) {
	for _, s := range trail(path) {
		names, ok := w.names[s.dir]
		switch {
		case !ok && len(w.names) >= maxWatches:
			return
		case !ok:
			w.names[s.dir] = map[string]bool{s.name: true}
		case names != nil:
			names[s.name] = true
		}
	}
}

// keep watches dir, also if it is watched already: another folder may lie there
// by now, and not even its inode's number would have to be another one.
func (w *watcher) keep(dir string) {
	if err := w.events.Add(dir); err != nil {
		w.log.Debug("a folder cannot be watched, and is polled", "folder", dir, "err", err)
		return
	}
	w.watched[dir] = true
}

func (w *watcher) drop(dir string) {
	delete(w.watched, dir)
	if err := w.events.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		w.log.Debug("a folder is watched for longer than needed", "folder", dir, "err", err)
	}
}

// step is one name that is looked up on the way to a path, in a folder without
// links in its own.
type step struct{ dir, name string }

// maxLinks is where Linux gives up too.
const maxLinks = 40

// trail are the steps to path as far as they exist, and the first one that does
// not: each is where a rename, a new link or a new folder would lead elsewhere.
// Kubernetes, for one, swaps the link ..data in the middle.
func trail(path string) (steps []step) {
	dir, rest, links := "/", split(path), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			dir = filepath.Dir(dir)
			continue
		}
		steps = append(steps, step{dir, name})
		at := filepath.Join(dir, name)
		target, err := os.Readlink(at)
		switch {
		case err == nil && links < maxLinks:
			links++
			if filepath.IsAbs(target) {
				dir = "/"
			}
			rest = append(split(target), rest...)
		case err == nil:
			return steps
		default:
			if _, err := os.Lstat(at); err != nil {
				return steps
			}
			dir = at
		}
	}
	return steps
}

func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}
