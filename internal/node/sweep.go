package node

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/internal/config"
	"berth/internal/fileid"
	"berth/internal/hung"
)

// mostLooked is how many drop-ins are looked at in one go while their folder is as it was,
// and how many files of secrets. The folder changes when a file is put there, renamed over
// another or removed, and then all drop-ins are looked at. What is written in place changes
// only itself, and is found when its turn has come: of ten thousand within five looks. To
// look at all of them each time took a twentieth of a core, for ever.
const mostLooked = 2000

// sweep goes through the drop-ins again and again. It lists them when it begins, whatever
// their folder says: network filesystems do not always date one.
type sweep struct {
	of     *config.Config // that they are held against
	folder fileid.Stamp   // as it was before they were listed
	rest   []string       // those that have not been looked at since
	// owed are those that look different from what of was read from.
	owed map[string]fileid.Stamp
}

// known is the folder as the sweep knows it; the zero Stamp if it has to begin anew.
func (s *sweep) known(cfg *config.Config) fileid.Stamp {
	if cfg != s.of || len(s.rest) == 0 {
		return fileid.Stamp{}
	}
	return s.folder
}

// next looks at the next drop-ins, and again at those that are owed. It gives all that are.
func (s *sweep) next(n *node, cfg *config.Config, there listing, now time.Time) (owed map[string]fileid.Stamp) {
	if there.listed {
		s.rest = there.names
	}
	names := s.rest[:min(mostLooked, len(s.rest))]
	if cfg != s.of || !there.stamp.Same(s.folder) {
		names, s.owed = s.rest, map[string]fileid.Stamp{}
	}
	s.rest = s.rest[len(names):]
	names = slices.AppendSeq(slices.Clip(names), maps.Keys(s.owed))
	s.of, s.folder = cfg, there.stamp
	s.look(n, there, names, now)
	if there.listed {
		s.miss(there)
	}
	return s.owed
}

func (s *sweep) look(n *node, there listing, names []string, now time.Time) {
	paths := make([]string, len(names))
	for i, name := range names {
		file, known := s.of.Files[name]
		if !known {
			file.Path = filepath.Join(there.path, name+dropInSuffix)
		}
		paths[i] = file.Path
	}
	stamps := hung.Each(n.hung, hung.Limit, paths, func(path string) fileid.Stamp {
		return fileid.StampIn(there.descriptor, filepath.Base(path), now)
	})
	for i, stamp := range stamps {
		file, known := s.of.Files[names[i]]
		switch {
		case !stamp.OK:
		case known && !stamp.Value.Same(file.Stamp) || !known && stamp.Value.ID != (fileid.ID{}):
			s.owed[names[i]] = stamp.Value
		default:
			delete(s.owed, names[i])
		}
	}
}

// miss notes those that the configuration was read from and that are not there.
func (s *sweep) miss(there listing) {
	names := make(map[string]bool, len(there.names))
	for _, name := range there.names {
		names[name] = true
	}
	for name := range s.of.Files {
		if name != "" && !names[name] {
			s.owed[name] = fileid.Stamp{Settled: true}
		}
	}
}

// listing is the folder of drop-ins. It stays open, so that its files can be looked at in it.
type listing struct {
	path  string
	dir   *os.File     // nil: there is no folder
	stamp fileid.Stamp // before it was listed

	listed bool
	names  []string // the organisations that have a file in it

	// descriptor is dir's. A look that hangs may outlive dir; what it sees then is dropped.
	descriptor int
}

func (l listing) close() {
	if l.dir != nil {
		_ = l.dir.Close() // nothing was written
	}
}

// listDropIns opens the folder at path, and lists the organisations that have a file in
// it unless it is as known says. Hidden files are none: editors and Kubernetes put their
// own between the drop-ins.
func (n *node) listDropIns(path string, known fileid.Stamp) (listing, error) {
	return hung.Do(n.hung, hung.Limit, path, func() (listing, error) {
		dir, err := os.Open(path)
		if err != nil {
			return listing{}, err
		}
		l := listing{path: path, dir: dir, descriptor: int(dir.Fd())}
		if err := l.list(known); err != nil {
			l.close()
			return listing{}, err
		}
		return l, nil
	})
}

func (l *listing) list(known fileid.Stamp) error {
	info, err := l.dir.Stat()
	if err != nil {
		return err
	}
	id := fileid.Of(info)
	l.stamp = fileid.Stamp{ID: id, Settled: id.Settled(time.Now())}
	if l.stamp.Same(known) {
		return nil
	}
	files, err := l.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	l.listed, l.names = true, files[:0]
	for _, file := range files {
		name, ok := strings.CutSuffix(file, dropInSuffix)
		if ok && name != "" && name[0] != '.' {
			l.names = append(l.names, name)
		}
	}
	return nil
}
