package setup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// maxDaemonJSON is far above what anybody writes there.
const maxDaemonJSON = 1 << 20

// Written is what WriteDaemonJSON did.
type Written struct {
	Path string `json:"path"`
	// Backup is the file as it was; empty if there was none, or nothing to change.
	Backup string `json:"backup,omitempty"`
	// Changed says whether the file was written at all.
	Changed bool `json:"changed"`
	// OtherMirrors were there before, and are asked when this node is in trouble.
	OtherMirrors []string `json:"other_mirrors"`
}

// WriteDaemonJSON puts keys into the file at path, which keeps all that it has
// besides, in its order. It is replaced as a whole, by a rename, and a copy of
// what was there stays beside it. A file that is not one JSON object is left
// alone.
func WriteDaemonJSON(path string, keys DaemonKeys, now time.Time) (Written, error) {
	w := Written{Path: path, OtherMirrors: []string{}}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link stays one
	}
	before, info, err := readDaemonJSON(path)
	if err != nil {
		return w, err
	}
	after, others, err := merge(before, keys)
	if err != nil {
		return w, fmt.Errorf("%s: %w: mend it first, nothing was written", path, err)
	}
	w.OtherMirrors = append(w.OtherMirrors, others...)
	if after == nil {
		return w, nil
	}
	if info != nil {
		w.Backup = path + ".before-berth-" + now.UTC().Format("20060102T150405Z")
		if err := writeNew(w.Backup, before, info); err != nil {
			return w, fmt.Errorf("keeping a copy: %w: nothing was written", err)
		}
	}
	if err := replace(path, after, info); err != nil {
		return w, fmt.Errorf("writing %s: %w", path, err)
	}
	w.Changed = true
	return w, nil
}

// readDaemonJSON gives a nil info where there is no file.
func readDaemonJSON(path string) ([]byte, fs.FileInfo, error) {
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
	text, err := io.ReadAll(io.LimitReader(f, maxDaemonJSON+1))
	if err == nil && len(text) > maxDaemonJSON {
		err = fmt.Errorf("%s has more than %d bytes: nothing was written", path, maxDaemonJSON)
	}
	return text, info, err
}

// member is one key of an object, with its value as it was written.
type member struct {
	key   string
	value json.RawMessage
}

// merge is text with keys in it, nil if they were there; others are the mirrors
// besides.
func merge(text []byte, keys DaemonKeys) (after []byte, others []string, err error) {
	members, err := object(text)
	if err != nil {
		return nil, nil, err
	}
	changed := false
	put := func(key string, values []string, first bool) (rest []string, err error) {
		i := slices.IndexFunc(members, func(m member) bool { return m.key == key })
		var had []string
		if i >= 0 {
			if err := json.Unmarshal(members[i].value, &had); err != nil {
				return nil, fmt.Errorf("%s is no list of strings", key)
			}
		}
		rest = slices.DeleteFunc(slices.Clone(had), func(s string) bool { return slices.Contains(values, s) })
		want := slices.Concat(rest, values)
		if first {
			want = slices.Concat(values, rest)
		}
		if len(values) == 0 || slices.Equal(had, want) {
			return rest, nil
		}
		changed = true
		value, err := json.Marshal(want)
		if i < 0 {
			members = append(members, member{key, value})
		} else {
			members[i].value = value
		}
		return rest, err
	}
	if others, err = put("registry-mirrors", keys.Mirrors, true); err != nil {
		return nil, nil, err
	}
	if _, err = put("insecure-registries", keys.Insecure, false); err != nil || !changed {
		return nil, others, err
	}
	after, err = written(members)
	return after, others, err
}

// object reads the members of a JSON object in their order; of nothing there are
// none.
func object(text []byte) ([]member, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	var all []member
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("it is no JSON: %w", err)
		}
		key, _ := t.(string)
		if slices.ContainsFunc(all, func(m member) bool { return m.key == key }) {
			return nil, fmt.Errorf("%.100q is there twice", key)
		}
		m := member{key: key}
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("it is no JSON: %w", err)
		}
		all = append(all, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("it is no JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the JSON object")
	}
	return all, nil
}

func written(members []member) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
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
