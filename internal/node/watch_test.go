package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/nodetest"
)

// sight is what a watcher's look saw last.
type sight struct {
	t    *testing.T
	seen chan string
}

// watching runs a watcher over a file's content until the test ends. It polls
// only if deaf: otherwise, events alone must do.
func watching(t *testing.T, deaf bool, file string, folder bool) *sight {
	t.Helper()
	s := &sight{t: t, seen: make(chan string, 1)}
	w := &watcher{
		paths: func() (files, folders []string) {
			if folder {
				return nil, []string{filepath.Dir(file)}
			}
			return []string{file}, nil
		},
		look: func() time.Duration {
			text, err := os.ReadFile(file)
			if err != nil {
				text = []byte("gone")
			}
			select {
			case <-s.seen: // only the last one counts
			default:
			}
			s.seen <- string(text)
			return 0
		},
		log: slog.New(slog.DiscardHandler), poll: time.Hour, deaf: deaf,
	}
	if deaf {
		w.poll = time.Millisecond
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return s
}

// sees waits until the watcher has seen want.
func (s *sight) sees(want string) {
	s.t.Helper()
	deadline := nodetest.Soon(s.t)
	got := ""
	for got != want {
		select {
		case got = <-s.seen:
		case <-deadline.Done():
			s.t.Fatalf("it never saw %q, but %q", want, got)
		}
	}
}

// Whatever way a file gets new content, it is seen.
func TestWatching(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ before, change []string }{
		"written in place": {[]string{"mkdir d", "write d/f one"}, []string{"write d/f two"}},
		"renamed over":     {[]string{"mkdir d", "write d/f one"}, []string{"write new two", "rename new d/f"}},
		"made":             {[]string{"mkdir d"}, []string{"write d/f two"}},
		"removed and made": {[]string{"mkdir d", "write d/f one"}, []string{"remove d/f", "write d/f two"}},
		"a link, swapped": {
			[]string{"mkdir d", "mkdir e", "write e/1 one", "write e/2 two", "link ../e/1 d/f"},
			[]string{"link ../e/2 d/new", "rename d/new d/f"},
		},
		"a link, its target written": {[]string{"mkdir d", "mkdir e", "write e/1 one", "link ../e/1 d/f"}, []string{"write e/1 two"}},
		"a link to a link":           {[]string{"mkdir d", "mkdir e", "write e/2 two", "write e/1 one", "link 1 e/l", "link ../e/l d/f"}, []string{"link 2 e/new", "rename e/new e/l"}},
		"kubernetes": {
			[]string{"mkdir d/..1", "write d/..1/f one", "link ..1 d/..data", "link ..data/f d/f"},
			[]string{"mkdir d/..2", "write d/..2/f two", "link ..2 d/..new", "rename d/..new d/..data", "remove d/..1"},
		},
		"the folder is replaced":         {[]string{"mkdir d", "write d/f one"}, []string{"mkdir new", "write new/f two", "rename d old", "rename new d"}},
		"the folder is removed and made": {[]string{"mkdir d", "write d/f one"}, []string{"remove d", "mkdir d", "write d/f two"}},
		"the folder is a link, swapped":  {[]string{"mkdir 1", "mkdir 2", "write 1/f one", "write 2/f two", "link 1 d"}, []string{"link 2 new", "rename new d"}},
		"a folder above is made":         {nil, []string{"mkdir d", "write d/f two"}},
		"what a link leads to is made":   {[]string{"mkdir d", "link ../e/f d/f"}, []string{"mkdir e", "write e/f two"}},
		"a folder above a link's is swapped": {
			[]string{"mkdir a1/b", "write a1/b/f one", "mkdir a2/b", "write a2/b/f two", "link a1 a", "mkdir d", "link ../a/b/f d/f"},
			[]string{"link a2 new", "rename new a"},
		},
	} {
		for _, deaf := range []bool{false, true} {
			for _, folder := range []bool{false, true} {
				t.Run(fmt.Sprint(name, ", deaf ", deaf, ", folder ", folder), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					nodetest.Do(t, dir, test.before...)
					s := watching(t, deaf, filepath.Join(dir, "d/f"), folder)
					first := "gone"
					if text, err := os.ReadFile(filepath.Join(dir, "d/f")); err == nil {
						first = string(text)
					}
					s.sees(first)
					nodetest.Do(t, dir, test.change...)
					s.sees("two")
					// And it goes on seeing.
					nodetest.Do(t, dir, "write more three", "rename more d/f")
					s.sees("three")
					nodetest.Do(t, dir, "remove d/f")
					s.sees("gone")
				})
			}
		}
	}
}

func TestTrail(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	nodetest.Do(t, dir, "mkdir d/..1", "write d/..1/f one", "link ..1 d/..data", "link ..data/f d/f", "link loop loop", "link /nowhere/else far", "link ../../ d/..1/up")
	for path, want := range map[string][]string{
		"d/f":                 {"/d", "d/f", "d/..data", "d/..1", "d/..1/f"},
		"d/./..1//f":          {"/d", "d/..1", "d/..1/f"},
		"none/f":              {"/none"},
		"far/f":               {"/far", "nowhere"},
		"d/..1/up/d/..1/up/x": {"/d", "d/..1", "d/..1/up", "/d", "d/..1", "d/..1/up", "/x"},
		"d/../d/f/x":          {"/d", "/d", "d/f", "d/..data", "d/..1", "d/..1/f", "d/..1/f/x"},
	} {
		var got []string
		for _, s := range trail(filepath.Join(dir, "x")[:len(dir)+1] + path) {
			if s.dir == "/" && s.name == "nowhere" {
				got = append(got, s.name)
			} else if rel, err := filepath.Rel(dir, s.dir); err == nil && !strings.HasPrefix(rel, "..") || rel == "..1" {
				got = append(got, strings.TrimPrefix(rel, ".")+"/"+s.name)
			}
		}
		for i, s := range got { // "/d" is in dir itself
			if s == "./d" {
				got[i] = "/d"
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if n := len(trail(filepath.Join(dir, "loop/f"))); n > maxLinks+20 {
		t.Errorf("a loop of links has %d steps", n)
	}
}

// A watcher ends with its context, and leaves no goroutine (TestMain looks).
func TestWatcherIsBounded(t *testing.T) {
	t.Parallel()
	w := &watcher{names: map[string]map[string]bool{}}
	for i := range maxWatches {
		w.names[fmt.Sprint("/", i)] = nil
	}
	w.addTrail("/a/b/c")
	if len(w.names) != maxWatches {
		t.Errorf("%d folders", len(w.names))
	}
}

// When the paths change, what is at the new ones is seen, and watched.
func TestWatcherMoves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodetest.Do(t, dir, "write one 1", "mkdir d", "write d/two 2")
	var path atomic.Value
	path.Store(filepath.Join(dir, "one"))
	moved, seen := make(chan struct{}), make(chan string)
	w := &watcher{
		paths: func() (files, folders []string) { return []string{fmt.Sprint(path.Load())}, nil },
		look: func() time.Duration {
			text, _ := os.ReadFile(fmt.Sprint(path.Load()))
			seen <- string(text)
			return 0
		},
		moved: moved, log: slog.New(slog.DiscardHandler), poll: time.Hour,
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx) })
	sees := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("it saw %q, not %q", got, want)
			}
		case <-nodetest.Soon(t).Done():
			t.Fatalf("it never saw %q", want)
		}
	}
	sees("1")
	path.Store(filepath.Join(dir, "d/two"))
	moved <- struct{}{}
	sees("2")
	nodetest.Do(t, dir, "write new 3", "rename new d/two")
	sees("3")
	cancel()
	wg.Wait()
}

// A folder that is gone for a moment takes no organisation with it, nor does one
// that cannot be read.
func TestFolderOfDropInsIsGoneForAMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodetest.Do(t, dir, "mkdir d", "write d/acme.yaml x", "write d/.hidden.yaml x", "write d/notes.txt x", "mkdir d/acme", "write file x")
	synctest.Test(t, func(t *testing.T) {
		log := &strings.Builder{}
		f := follower{node: &node{log: slog.New(slog.NewTextHandler(log, nil))}}
		lists := func(at string, want []string, wantAgain time.Duration, wantOK bool) {
			t.Helper()
			names, again, ok := f.list(filepath.Join(dir, at))
			if !slices.Equal(names, want) || again != wantAgain || ok != wantOK {
				t.Errorf("%q, again in %v, ok %t", names, again, ok)
			}
		}
		lists("d", []string{"acme"}, 0, true)
		nodetest.Do(t, dir, "rename d old")
		lists("d", nil, goneAfter, false)
		time.Sleep(goneAfter - time.Millisecond)
		lists("d", nil, time.Millisecond, false)
		nodetest.Do(t, dir, "rename old d")
		lists("d", []string{"acme"}, 0, true)
		nodetest.Do(t, dir, "rename d old")
		lists("d", nil, goneAfter, false)
		time.Sleep(goneAfter)
		lists("d", nil, 0, true)
		lists("d", nil, 0, true)
		for range 3 {
			lists("file", nil, 0, false)
		}
		if n := strings.Count(log.String(), "cannot be read"); n != 1 {
			t.Errorf("logged %d times: %s", n, log)
		}
	})
}
