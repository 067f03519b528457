package credential

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"berth/oci"

	"berth/internal/secret"
)

func TestFingerprint(t *testing.T) {
	k := NewKey()
	o := oci.Origin{Scheme: "https", Host: "ghcr.io"}
	base := k.Fingerprint(o, "bot", secret.New("pw"))
	if b, err := hex.DecodeString(base); err != nil || len(b) != 16 {
		t.Fatalf("fingerprint %q is not 128 bits of hex", base)
	}
	if again := k.Fingerprint(o, "bot", secret.New("pw")); again != base {
		t.Error("the same credential has two fingerprints")
	}
	others := map[string]string{
		"key":             NewKey().Fingerprint(o, "bot", secret.New("pw")),
		"owner":           k.Fingerprint(oci.Origin{Owner: "acme", Scheme: "https", Host: "ghcr.io"}, "bot", secret.New("pw")),
		"scheme":          k.Fingerprint(oci.Origin{Scheme: "http", Host: "ghcr.io"}, "bot", secret.New("pw")),
		"host":            k.Fingerprint(oci.Origin{Scheme: "https", Host: "ghcr.io:444"}, "bot", secret.New("pw")),
		"user":            k.Fingerprint(o, "bob", secret.New("pw")),
		"secret":          k.Fingerprint(o, "bot", secret.New("pw2")),
		"moved boundary":  k.Fingerprint(o, "botp", secret.New("w")),
		"entry":           k.entryFingerprint(o, "", "bot"),
		"entry of a user": k.entryFingerprint(o, "bot", "bot"),
		"swapped":         k.Fingerprint(o, "pw", secret.New("bot")),
	}
	seen := map[string]string{base: "base"}
	for what, fp := range others {
		if was, ok := seen[fp]; ok {
			t.Errorf("%s and %s have one fingerprint", what, was)
		}
		seen[fp] = what
	}
}

func TestLoadKeyMakesOneOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	keys := make([]Key, 8)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = LoadKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	of := func(k Key) string { return k.Fingerprint(oci.Origin{}, "u", secret.New("p")) }
	for _, k := range keys {
		if of(k) != of(keys[0]) || of(k) == of(Key{}) {
			t.Fatal("several keys were made at once, or none")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != keySize {
		t.Errorf("key file: %v %v", info, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("other files are left: %v", left)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	write := func(t *testing.T, content string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := strings.Repeat("k", keySize)
	for name, tc := range map[string]struct{ path, says string }{
		"too short":      {write(t, good[1:], 0o600), "not 32 bytes"},
		"too long":       {write(t, good+"k", 0o600), "too large"},
		"empty":          {write(t, "", 0o600), "not 32 bytes"},
		"for others":     {write(t, good, 0o604), "chmod 0640"},
		"a folder":       {t.TempDir(), "not a regular file"},
		"no such folder": {filepath.Join(t.TempDir(), "a", "b"), "making the fingerprint key"},
	} {
		before, _ := os.ReadFile(tc.path)
		_, err := LoadKey(tc.path)
		if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), tc.path) {
			t.Errorf("%s: error %v, want one that names %s and says %q", name, err, tc.path, tc.says)
		}
		if after, _ := os.ReadFile(tc.path); string(after) != string(before) {
			t.Errorf("%s: the file was replaced", name)
		}
	}
}

// The key of an earlier start goes where keys are now, as it was, and only where
// there is none yet.
func TestMoveKey(t *testing.T) {
	of := func(path string) string {
		k, err := LoadKey(path)
		if err != nil {
			t.Fatal(err)
		}
		return k.Fingerprint(oci.Origin{}, "u", secret.New("p"))
	}
	former, path := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "key")
	if moved, err := MoveKey(former, path); moved || err != nil {
		t.Errorf("nothing was moved: %v, %v", moved, err)
	}
	before := of(former)
	if moved, err := MoveKey(former, path); !moved || err != nil {
		t.Errorf("%v, %v", moved, err)
	}
	if _, err := os.Stat(former); err == nil {
		t.Error("it is still there")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || of(path) != before {
		t.Errorf("it is not the same key: %v, %v", info, err)
	}

	other := of(former) // made anew
	if moved, err := MoveKey(former, path); moved || err != nil || of(path) != before || of(former) != other {
		t.Errorf("a key was replaced: %v, %v", moved, err)
	}

	bad, free := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "key")
	for content, mode := range map[string]os.FileMode{strings.Repeat("k", keySize): 0o644, "short": 0o600} {
		if err := os.WriteFile(bad, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if moved, err := MoveKey(bad, free); moved || err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%v, %v", moved, err)
		}
		if _, err := os.Stat(free); err == nil {
			t.Error("a bad key was taken over")
		}
		if err := os.Remove(bad); err != nil {
			t.Fatal(err)
		}
	}
}

// Where there are no hard links a key is made once all the same, whatever else is
// there, and one that is there is never replaced.
func TestKey_WithoutHardLinks(t *testing.T) {
	t.Parallel()
	refused := func(err error) func(string, string) error {
		return func(string, string) error { return &os.LinkError{Op: "link", Err: err} }
	}
	for name, ways := range map[string][]func(string, string) error{
		"no links":             {refused(syscall.EPERM), renameToFree, copyToFree},
		"no such rename":       {refused(syscall.EPERM), refused(syscall.EINVAL), copyToFree},
		"a system without any": {refused(syscall.ENOSYS), refused(syscall.ENOSYS), copyToFree},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := keepKey(NewKey(), path, ways...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		first, err := os.ReadFile(path)
		if info, serr := os.Stat(path); err != nil || serr != nil || info.Mode() != 0o600 || len(first) != keySize {
			t.Errorf("%s: %d bytes, %v, %v", name, len(first), err, serr)
		}
		if err := keepKey(NewKey(), path, ways...); err != nil {
			t.Errorf("%s: the second one: %v", name, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, first) {
			t.Errorf("%s: the key was replaced: %v", name, err)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
			t.Errorf("%s: other files are left: %v", name, left)
		}
	}
	if err := keepKey(NewKey(), filepath.Join(t.TempDir(), "key"), refused(syscall.EIO), copyToFree); !errors.Is(err, syscall.EIO) {
		t.Errorf("a disk that fails: %v", err)
	}
}

// A place that cannot be read or written can be told from a key that is refused:
// the one can be done without.
func TestKey_PlaceIsNoKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	short := filepath.Join(t.TempDir(), "key")
	for path, content := range map[string]string{file: "x", short: "short"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, place := range map[string]bool{
		filepath.Join(file, "key"):                   true, // a file for the folder
		filepath.Join(t.TempDir(), "missing", "key"): true,
		short: false,
	} {
		if _, err := LoadKey(path); err == nil || errors.Is(err, ErrNotKept) != place {
			t.Errorf("%s: %v", path, err)
		}
	}
}
