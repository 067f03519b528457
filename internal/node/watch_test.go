package node

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/config"
	"berth/internal/fileid"
	"berth/internal/nodetest"
)

// looker looks at one file as the node does: by itself, or in a folder of drop-ins.
type looker struct {
	follower

	t      *testing.T
	file   string
	folder bool
}

// look is the content of the file if it is one of those to be read now.
func (l *looker) look() (text string, again bool) {
	if l.folder {
		return l.lookInto()
	}
	changed, _ := l.certificateFiles.changes(l.node, []string{l.file}, time.Now())
	if !slices.Contains(changed, l.file) {
		return "", false
	}
	content, err := os.ReadFile(l.file)
	if err != nil {
		return "gone", true
	}
	return string(content), true
}

// lookInto reads the drop-in again if it is owed, as a configuration does.
func (l *looker) lookInto() (text string, again bool) {
	dir, name := filepath.Dir(l.file), strings.TrimSuffix(filepath.Base(l.file), dropInSuffix)
	there, _, ok := l.list(dir, l.cfg)
	if !ok {
		return "", false
	}
	defer there.close()
	if _, owed := l.dropIns.sweep.next(l.node, l.cfg, there, time.Now())[name]; !owed {
		return "", false
	}
	content, stamp, err := fileid.Read(l.file, maxHashed)
	if err != nil {
		delete(l.cfg.Files, name)
		return "gone", true
	}
	l.cfg.Files[name] = config.File{Path: l.file, Stamp: stamp}
	return string(content), true
}

// sees looks until it has seen want.
func (l *looker) sees(want string) {
	l.t.Helper()
	deadline, got := nodetest.Soon(l.t), ""
	for got != want {
		if text, again := l.look(); again {
			got = text
		}
		select {
		case <-time.After(time.Millisecond):
		case <-deadline.Done():
			l.t.Fatalf("it never saw %q, but %q", want, got)
		}
	}
}

// theFile is the file of the operations below, as drop-ins are called.
var theFile = regexp.MustCompile(`/f( |$)`)

// Whatever way a file gets new content, it is seen.
func TestWatch_SeesEveryChange(t *testing.T) {
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
		for _, folder := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", folder ", folder), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				do := func(ops ...string) {
					t.Helper()
					for _, op := range ops {
						nodetest.Do(t, dir, theFile.ReplaceAllString(op, "/f"+dropInSuffix+"$1"))
					}
				}
				do(test.before...)
				l := looker{t: t, file: filepath.Join(dir, "d/f"+dropInSuffix), folder: folder}
				l.node = &node{setup: setup{log: slog.New(slog.DiscardHandler)}, cfg: &config.Config{Files: map[string]config.File{}}}
				if text, err := os.ReadFile(l.file); err == nil {
					l.sees(string(text))
				} else {
					l.look()
				}
				do(test.change...)
				l.sees("two")
				// And it goes on seeing.
				do("write more three", "rename more d/f")
				l.sees("three")
				do("remove d/f")
				l.sees("gone")
			})
		}
	}
}

// What is being written is not read before it is quiet, unless that takes too long.
func TestWatch_WaitsForTheEndOfAChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodetest.Do(t, dir, "write f one")
	paths := []string{filepath.Join(dir, "f")}
	written := fileid.StampOf(paths[0], time.Now()).ID.Changed()
	var files tracker
	for _, test := range []struct {
		after time.Duration
		quiet bool
	}{{0, false}, {quietFor - 1, false}, {quietFor, true}, {fileid.Racy, true}} {
		changed, quiet := files.changes(&node{}, paths, written.Add(test.after))
		if quiet != test.quiet || quiet != slices.Equal(changed, paths) {
			t.Errorf("after %v: %q, quiet: %t", test.after, changed, quiet)
		}
	}
	// Now it can be told from every later change.
	settled := written.Add(fileid.Racy + 1)
	if changed, _ := files.changes(&node{}, paths, settled); len(changed) != 1 {
		t.Errorf("the last time: %q", changed)
	}
	if changed, quiet := files.changes(&node{}, paths, settled); len(changed) != 0 || !quiet {
		t.Errorf("unchanged: %q, quiet: %t", changed, quiet)
	}
	files.reread(paths[0])
	if changed, _ := files.changes(&node{}, paths, settled); len(changed) != 1 {
		t.Errorf("what could not be read: %q", changed)
	}

	busy := tracker{burst: burst{written.Add(-burstFor)}}
	if changed, quiet := busy.changes(&node{}, paths, written); len(changed) != 1 || !quiet {
		t.Errorf("a file that never rests: %q, quiet: %t", changed, quiet)
	}
}

// A folder that is gone for a moment takes no organisation with it, nor does one
// that cannot be read.
func TestWatch_FolderIsGoneForAMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodetest.Do(t, dir, "mkdir d", "write d/acme.yaml x", "write d/.hidden.yaml x", "write d/notes.txt x", "mkdir d/acme", "write file x")
	synctest.Test(t, func(t *testing.T) {
		log := &strings.Builder{}
		f := follower{node: &node{setup: setup{log: slog.New(slog.NewTextHandler(log, nil))}}}
		lists := func(at string, want []string, wantAgain time.Duration, wantOK bool) {
			t.Helper()
			there, again, ok := f.list(filepath.Join(dir, at), nil)
			defer there.close()
			if names := there.names; !slices.Equal(names, want) || again != wantAgain || ok != wantOK {
				t.Errorf("%q, again in %v, ok %t", there.names, again, ok)
			}
		}
		lists("d", []string{"acme"}, pollEvery, true)
		nodetest.Do(t, dir, "rename d old")
		lists("d", nil, goneAfter, false)
		time.Sleep(goneAfter - time.Millisecond)
		lists("d", nil, time.Millisecond, false)
		nodetest.Do(t, dir, "rename old d")
		lists("d", []string{"acme"}, pollEvery, true)
		nodetest.Do(t, dir, "rename d old")
		lists("d", nil, goneAfter, false)
		time.Sleep(goneAfter)
		lists("d", nil, pollEvery, true)
		lists("d", nil, pollEvery, true)
		for range 3 {
			lists("file", nil, pollEvery, false)
		}
		if n := strings.Count(log.String(), "cannot be read"); n != 1 {
			t.Errorf("logged %d times: %s", n, log)
		}
	})
}

// A look that takes long is followed by a longer rest, but for what is changing.
func TestWatch_IsPaced(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ next, took, want time.Duration }{
		{pollEvery, time.Millisecond, pollEvery},
		{pollEvery, 15 * time.Millisecond, 450 * time.Millisecond},
		{pollEvery, time.Minute, pollAtMost},
		{quietFor, time.Minute, quietFor},
		{goneAfter, time.Millisecond, goneAfter},
	} {
		if got := paced(c.next, c.took); got != c.want {
			t.Errorf("%v after %v: %v, want %v", c.next, c.took, got, c.want)
		}
	}
}

// A look at a thousand drop-ins takes no time that anybody would notice.
func BenchmarkWatch_Look(b *testing.B) {
	dir := b.TempDir()
	for i := range 1000 {
		nodetest.Do(b, dir, fmt.Sprintf("write o%d.yaml x", i))
	}
	time.Sleep(fileid.Racy)
	f := follower{node: &node{setup: setup{log: slog.New(slog.DiscardHandler)}}}
	cfg := &config.Config{Files: map[string]config.File{}}
	for b.Loop() {
		there, _, _ := f.list(dir, cfg)
		f.dropIns.sweep.next(f.node, cfg, there, time.Now())
		there.close()
	}
}
