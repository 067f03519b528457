package setup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
	// OtherMirrors were there before, and are asked when this node is in trouble.
	OtherMirrors []string `json:"other_mirrors"`
}

// WriteFile puts text in the place of what is at path, a file of berth's own. It is
// replaced as a whole, by a rename, and a copy of what was there stays beside it.
func WriteFile(path, text string, now time.Time) (Written, error) {
	w := Written{Path: path, OtherMirrors: []string{}}
	path = target(path)
	before, info, err := readFile(path)
	if err != nil || info != nil && string(before) == text {
		return w, err
	}
	return w, w.put(path, before, []byte(text), info, now)
}

// target is what a link leads to: a link stays one.
func target(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return path
}

// readFile gives a nil info where there is no file.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes: nothing was written", path, maxFile)
	}
	return text, info, err
}

// put writes after, and keeps before where there was something. Clients take no
// notice of the copy: of folders they read those files only that end in .conf.
func (w *Written) put(path string, before, after []byte, like fs.FileInfo, now time.Time) error {
	if like != nil {
		backup := path + ".before-berth-" + now.UTC().Format("20060102T150405Z")
		if err := writeNew(backup, before, like); err != nil {
			return fmt.Errorf("keeping a copy: %w: nothing was written", err)
		}
		w.Backup = backup
	}
	if err := replace(path, after, like); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	w.Changed = true
	return nil
}

// replace puts text in the place of path, with the mode and owner of like.
func replace(path string, text []byte, like fs.FileInfo) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // G301: as Docker's package makes it; there is no secret in it
		return err
	}
	beside := path + ".berth-new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(beside, text, like); err != nil {
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

// writeNew makes a file that is not there yet, with the mode and owner of like.
func writeNew(path string, text []byte, like fs.FileInfo) error {
	mode := fs.FileMode(0o644)
	if like != nil {
		mode = like.Mode().Perm()
	}
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
