package fileid

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func of(t *testing.T, file string) ID {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return Of(info)
}

func TestID_SettlesByTheTimeOfTheChange(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	// mtime may be anything: cp -p and tar set it.
	for _, mtime := range []time.Time{written.Add(-time.Hour), written.Add(time.Hour), written} {
		if err := os.Chtimes(file, mtime, mtime); err != nil {
			t.Fatal(err)
		}
		id, now := of(t, file), time.Now()
		if id.Settled(now) || !id.Settled(now.Add(Racy+time.Second)) || id.Settled(now.Add(-time.Hour)) {
			t.Errorf("written now, dated %v: %+v", mtime, id)
		}
	}
	if old := (ID{mtime: written.UnixNano()}); old.Settled(written) || !old.Settled(written.Add(Racy+1)) {
		t.Error("without a ctime, mtime does not count")
	}
}

func TestID_ChangesWithTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	ids := map[ID]string{{}: "no file"}
	for how, change := range map[string]func() error{
		"written": func() error { return os.WriteFile(file, []byte("1"), 0o600) },
		"longer":  func() error { return os.WriteFile(file, []byte("123"), 0o600) },
		"renamed over": func() error {
			if err := os.WriteFile(file+"2", []byte("123"), 0o600); err != nil {
				return err
			}
			return os.Rename(file+"2", file)
		},
	} {
		if err := change(); err != nil {
			t.Fatal(how, err)
		}
		if before, ok := ids[of(t, file)]; ok {
			t.Errorf("%s is as %s", how, before)
		}
		ids[of(t, file)] = how
	}
}

// By whatever way a file is looked at, it is the same one.
func TestStamp_IsTheSameInAFolder(t *testing.T) {
	path := t.TempDir()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, err := range []error{
		os.WriteFile(filepath.Join(path, "f"), []byte("123"), 0o600), os.Mkdir(filepath.Join(path, "d"), 0o700),
		os.Symlink("f", filepath.Join(path, "link")), os.Symlink("nowhere", filepath.Join(path, "dangling")),
		os.Symlink("loop", filepath.Join(path, "loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := map[ID]int{}
	for _, now := range []time.Time{time.Now(), time.Now().Add(time.Hour)} {
		for _, name := range []string{"f", "d", "link", "dangling", "loop", "gone"} {
			in, of := StampIn(int(dir.Fd()), name, now), StampOf(filepath.Join(path, name), now)
			if in != of {
				t.Errorf("%s: %+v in its folder, else %+v", name, in, of)
			}
			seen[in.ID]++
		}
	}
	if len(seen) != 3 || seen[ID{}] != 6 { // the file, the folder, nothing
		t.Errorf("%v", seen)
	}
	// An open file has the same stamp as its path, by which reading goes.
	_, read, err := Read(filepath.Join(path, "f"), 10)
	if in := StampIn(int(dir.Fd()), "f", time.Now()); err != nil || in.ID != read.ID {
		t.Errorf("%+v when it is read, else %+v; %v", read, in, err)
	}
}
