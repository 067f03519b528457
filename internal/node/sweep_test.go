package node

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/config"
	"berth/internal/fileid"
	"berth/internal/hung"
)

// many is a folder with more drop-ins than one look takes, all of which are in force and
// were written a while ago.
type many struct {
	follower

	t   *testing.T
	dir string
	cfg *config.Config

	looked atomic.Int64 // at how many files
}

const manyDropIns, oneSweep = 2*mostLooked + 1, 3 // files, looks

func newMany(t *testing.T) *many {
	m := &many{t: t, dir: t.TempDir(), cfg: &config.Config{Files: map[string]config.File{"": {}}}}
	table := &hung.Table{Fault: func(what string) {
		if what != m.dir {
			m.looked.Add(1)
		}
	}}
	m.node = &node{setup: setup{log: slog.New(slog.DiscardHandler), hung: table}}
	for i := range manyDropIns {
		m.write(fmt.Sprint("o", i), "x")
	}
	for i := range manyDropIns {
		m.force(fmt.Sprint("o", i))
	}
	return m
}

func (m *many) path(name string) string { return filepath.Join(m.dir, name+dropInSuffix) }

func (m *many) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *many) rename(from, to string) {
	m.t.Helper()
	if err := os.Rename(m.path(from), m.path(to)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *many) remove(name string) {
	m.t.Helper()
	if err := os.Remove(m.path(name)); err != nil {
		m.t.Fatal(err)
	}
}

// force has what lies there now in force.
func (m *many) force(name string) {
	stamp := fileid.StampOf(m.path(name), time.Now())
	stamp.Settled = true
	m.cfg.Files[name] = config.File{Path: m.path(name), Stamp: stamp}
}

// settle makes the folder one that was changed long ago, so that its date tells of every
// later change, and in which the sweep has begun.
func (m *many) settle() {
	m.t.Helper()
	ago := time.Now().Add(-time.Hour)
	if err := os.Chtimes(m.dir, ago, ago); err != nil {
		m.t.Fatal(err)
	}
	m.dropIns.sweep.folder = m.folder()
}

func (m *many) folder() fileid.Stamp {
	m.t.Helper()
	info, err := os.Stat(m.dir)
	if err != nil {
		m.t.Fatal(err)
	}
	return fileid.Stamp{ID: fileid.Of(info), Settled: true}
}

// look gives what is owed after one look, and how many files it took.
func (m *many) look() (owed []string, files int64) {
	m.t.Helper()
	before := m.looked.Load()
	there, _, ok := m.list(m.dir, m.cfg)
	if !ok {
		m.t.Fatal("the folder cannot be read")
	}
	defer there.close()
	for name := range m.dropIns.sweep.next(m.node, m.cfg, there, time.Now()) {
		owed = append(owed, name)
	}
	m.dropIns.sweep.folder.Settled = true // as it is two seconds later
	slices.Sort(owed)
	return owed, m.looked.Load() - before
}

// A node with many drop-ins does not look at all of them each time, but at each of them
// within a few looks.
func TestSweep_LooksAtSome(t *testing.T) {
	t.Parallel()
	m := newMany(t)
	if owed, files := m.look(); len(owed) > 0 || files != manyDropIns {
		t.Errorf("at first: %d files; owed: %q", files, owed)
	}
	m.dropIns.sweep.folder.Settled = false
	if _, files := m.look(); files != manyDropIns {
		t.Errorf("the folder has just changed: %d files", files)
	}
	m.settle()
	var all int64
	for i := range 2 * oneSweep {
		owed, files := m.look()
		if files > mostLooked || len(owed) > 0 {
			t.Errorf("look %d: %d files; owed: %q", i, files, owed)
		}
		all += files
	}
	if all != 2*manyDropIns {
		t.Errorf("in two sweeps: %d files", all)
	}
	m.cfg = &config.Config{Files: m.cfg.Files}
	if _, files := m.look(); files != manyDropIns {
		t.Errorf("with another configuration: %d files", files)
	}
}

// Each kind of change is seen: that of the folder at once, that of a file alone within one
// sweep, wherever that stands; and it stays owed until it is in force.
func TestSweep_SeesEveryChange(t *testing.T) {
	t.Parallel()
	m := newMany(t)
	m.look()
	for i, c := range []struct {
		what   string
		change func()
		owed   []string
		within int
	}{
		{"in place, the first", func() { m.write("o0", "in place") }, []string{"o0"}, oneSweep},
		{"in place, another", func() { m.write("o2345", "longer") }, []string{"o2345"}, oneSweep},
		{"in place, two", func() { m.write("o1", "in"); m.write("o4000", "place") }, []string{"o1", "o4000"}, oneSweep},
		{"renamed over", func() { m.write("new", "other"); m.rename("new", "o3000") }, []string{"o3000"}, 1},
		{"removed", func() { m.remove("o17") }, []string{"o17"}, 1},
		{"put there", func() { m.write("p1", "new") }, []string{"p1"}, 1},
	} {
		m.settle()
		for range i % oneSweep {
			m.look()
		}
		c.change()
		owed, files := m.look()
		looks := 1
		for ; !slices.Equal(owed, c.owed) && looks < c.within; looks++ {
			owed, _ = m.look()
		}
		if !slices.Equal(owed, c.owed) || c.within > 1 && files > mostLooked {
			t.Errorf("%s: owed after %d looks: %q; the first was at %d files", c.what, looks, owed, files)
		}
		for range oneSweep {
			if owed, _ = m.look(); !slices.Equal(owed, c.owed) {
				t.Errorf("%s: owed later: %q", c.what, owed)
			}
		}
		for _, name := range owed {
			if m.force(name); m.cfg.Files[name].Stamp.ID == (fileid.ID{}) {
				delete(m.cfg.Files, name)
			}
		}
		if owed, _ = m.look(); len(owed) > 0 {
			t.Errorf("%s: in force, and owed: %q", c.what, owed)
		}
	}
}

// Where a folder's date says nothing, as on some network filesystems, the next sweep sees
// what has come and what has gone.
func TestSweep_DoesNotTrustTheFolderForLong(t *testing.T) {
	t.Parallel()
	m := newMany(t)
	m.look()
	m.settle()
	m.look() // it is in the midst of one
	m.write("p1", "new")
	m.remove("o17")
	m.dropIns.sweep.folder = m.folder()
	var owed []string
	looks := 0
	for ; len(owed) < 2 && looks < 2*oneSweep; looks++ {
		owed, _ = m.look()
	}
	if !slices.Equal(owed, []string{"o17", "p1"}) || looks == 1 {
		t.Errorf("owed after %d looks: %q", looks, owed)
	}
}

// Of many files of secrets some are looked at each time, and the secrets are read when one
// of those has changed. A change is not passed over while it goes on.
func TestSweep_OfSecrets(t *testing.T) {
	t.Parallel()
	m := newMany(t)
	organisation := config.Organisation{}
	for i := range manyDropIns {
		organisation.Credentials = append(organisation.Credentials, config.Credential{Account: config.Account{PasswordFile: m.path(fmt.Sprint("o", i))}})
	}
	m.node.cfg = &config.Config{Organisations: map[string]config.Organisation{"acme": organisation}}
	m.secretsDue = make(chan struct{}, 1)
	m.secretsRead = time.Now().Add(time.Hour) // not since time has gone by
	look := func() (read bool, files int64) {
		before := m.looked.Load()
		for m.lookAtSecrets() == quietFor {
			time.Sleep(quietFor)
			before = m.looked.Load()
		}
		select {
		case <-m.secretsDue:
			m.secretsRead = time.Now().Add(time.Hour)
			read = true
		default:
		}
		return read, m.looked.Load() - before
	}
	settled := func() { // as it is two seconds later
		for path, stamp := range m.secretFiles.seen {
			stamp.Settled = true
			m.secretFiles.seen[path] = stamp
		}
	}
	for range oneSweep {
		look() // at first all are new
	}
	settled()
	var all int64
	for range oneSweep {
		read, files := look()
		if read || files > mostLooked {
			t.Errorf("nothing has changed: read %t, %d files", read, files)
		}
		all += files
	}
	if all != manyDropIns {
		t.Errorf("in one sweep: %d files", all)
	}
	for _, name := range []string{"o0", "o2345", fmt.Sprint("o", manyDropIns-1)} {
		m.write(name, "another")
		reads := 0
		for range oneSweep {
			if read, _ := look(); read {
				reads++
			}
		}
		if reads != 1 {
			t.Errorf("%s was written: read in %d of %d looks", name, reads, oneSweep)
		}
		settled()
	}
}
