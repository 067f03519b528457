package setup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxFile is far above what anybody writes into a client's file.
const maxFile = 1 << 20

// Written is what became of a client's file.
type Written struct {
	Path string `json:"path"`
	// Backup is the file as it was; empty if there was none, or nothing to change.
	Backup string `json:"backup,omitempty"`
	// Changed says whether the file was written at all.
	Changed bool `json:"changed"`
	// Removed says that nothing was left in it.
	Removed bool `json:"removed,omitempty"`
	// OtherMirrors were there before, and are asked when this node is in trouble.
	OtherMirrors []string `json:"other_mirrors"`
}

// Write puts what is berth's into the files of the plan, and takes it out of those that
// have no part in it any more. Each file is replaced as a whole, by a rename; a copy of
// one that had nothing of berth's stays beside it. All are read before the first is
// written, and if one cannot be none is.
func (p Plan) Write(now time.Time) ([]Written, error) {
	all, err := p.change(func(f File, before string) (edit, error) { return f.put(before) })
	if err != nil {
		return nil, err
	}
	return apply(all, now)
}

// Undo takes what is berth's out of the client's files, which keep the rest. What was
// berth's alone is deleted.
func (p Plan) Undo(now time.Time) ([]Written, error) {
	all, err := p.change(func(f File, before string) (edit, error) {
		text, err := f.take(before)
		return edit{text: text}, err
	})
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].ours = true // of which no copy is wanted
	}
	return apply(all, now)
}

// change is one file with what it is to become.
type change struct {
	path   string
	before []byte
	info   fs.FileInfo // nil: there is no file
	after  edit
	ours   bool // there was something of berth's in it before
}

func (p Plan) change(to func(File, string) (edit, error)) (all []change, err error) {
	planned := map[string]bool{}
	for _, f := range slices.Concat(p.Files, p.unshown) {
		if f.put == nil {
			continue
		}
		planned[f.Path] = true
		c, err := f.change(to)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	stale, _ := filepath.Glob(p.stale)
	for _, path := range stale {
		text, _, err := readFile(path)
		if planned[path] || err != nil || !strings.Contains(string(text), tomlBegin) {
			continue
		}
		c, err := File{Path: path}.change(func(_ File, before string) (edit, error) { return edit{text: takeTOML(before)}, nil })
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (f File) change(to func(File, string) (edit, error)) (c change, err error) {
	c.path = f.Path
	if c.before, c.info, err = readFile(f.Path); err != nil {
		return c, err
	}
	if c.after, err = to(f, string(c.before)); err != nil {
		return c, fmt.Errorf("%s: %w: mend it first, nothing was written", f.Path, err)
	}
	c.ours = f.take == nil
	if !c.ours {
		without, err := f.take(string(c.before))
		c.ours = err == nil && without != string(c.before)
	}
	return c, nil
}

func apply(all []change, now time.Time) (done []Written, err error) {
	for _, c := range all {
		w := Written{Path: c.path, OtherMirrors: orEmpty(c.after.others)}
		text := c.after.text
		switch {
		case text == string(c.before) && (c.info == nil || !c.after.secret || c.info.Mode().Perm()&0o077 == 0):
		case strings.TrimSpace(text) == "" && c.info != nil:
			if err := os.Remove(c.path); err != nil {
				return done, err
			}
			w.Changed, w.Removed = true, true
			if filepath.Base(c.path) == "hosts.toml" {
				_ = os.Remove(filepath.Dir(c.path)) // if there is nothing else of that registry's
			}
		default:
			if err := w.put(c, now); err != nil {
				return done, err
			}
		}
		done = append(done, w)
	}
	return done, nil
}

// readFile gives a nil info where there is no file. A link is not followed: whoever
// could write it would have root write somewhere else.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	} else if errors.Is(err, syscall.ELOOP) {
		return nil, nil, fmt.Errorf("%s is a link, which is not followed: put a file in its place, or name the file it leads to with --file", path)
	} else if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no file: nothing was written", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes: nothing was written", path, maxFile)
	}
	return text, info, err
}

// put writes a file, and keeps what was there where that was nobody's but the operator's.
// Clients take no notice of the copy: of folders they read those files only that end in
// .conf or .toml.
func (w *Written) put(c change, now time.Time) error {
	if c.info != nil && !c.ours {
		backup := c.path + ".before-berth-" + now.UTC().Format("20060102T150405Z")
		if err := writeNew(backup, c.before, c.info, c.info.Mode().Perm()); err != nil {
			return fmt.Errorf("keeping a copy: %w: nothing was written", err)
		}
		w.Backup = backup
	}
	mode, like := fs.FileMode(0o644), c.info
	if like != nil {
		mode = like.Mode().Perm()
	}
	if c.after.secret {
		mode, like = mode&0o600, nil // whoever runs this, which is root
	}
	if err := replace(c.path, []byte(c.after.text), like, mode); err != nil {
		return fmt.Errorf("writing %s: %w", c.path, err)
	}
	w.Changed = true
	return nil
}

// replace puts text in the place of path, with the owner of like.
func replace(path string, text []byte, like fs.FileInfo, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // G301: as Docker's package makes it; there is no secret in it
		return err
	}
	beside := path + ".berth-new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(beside, text, like, mode); err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// writeNew makes a file that is not there yet, with the owner of like.
func writeNew(path string, text []byte, like fs.FileInfo, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode))
	if like != nil {
		if st, ok := like.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
			err = errors.Join(err, f.Chown(int(st.Uid), int(st.Gid)))
		}
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
