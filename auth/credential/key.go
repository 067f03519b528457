package credential

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/internal/secret"
)

const keySize = 32

// Key is what fingerprints are made with. It is made once per node; with
// another key every credential looks new, so that everything proven about
// access counts for nothing. It does not print, as a secret.Text does not.
// Keys are compared by what they make. The zero Key is for tests only.
type Key struct{ bytes secret.Text }

// NewKey makes a key from the system's random source.
func NewKey() Key {
	b := make([]byte, keySize)
	_, _ = rand.Read(b) // never fails: crypto/rand crashes the program instead
	return Key{bytes: secret.New(string(b))}
}

// ErrNotKept is in an error about the place of a key: it can be neither read nor
// kept there, for reasons that are not the key's.
var ErrNotKept = errors.New("a key cannot be kept there")

// LoadKey reads the key at path, or makes one there: mode 0600, complete and
// durable before it has its name. It refuses a file that others may read or
// that is not a key; it never replaces one. What is in ErrNotKept's error can be
// done without: a NewKey serves until the next start.
func LoadKey(path string) (Key, error) {
	k, err := readKey(path)
	if _, system := errors.AsType[syscall.Errno](err); system && !errors.Is(err, fs.ErrNotExist) {
		return Key{}, fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := keepKey(NewKey(), path, os.Link, renameToFree, copyToFree); err != nil {
		return Key{}, fmt.Errorf("%w: making the fingerprint key %s: %w", ErrNotKept, path, err)
	}
	return readKey(path)
}

// MoveKey takes the key of an earlier start over to path, and says whether there was
// one to be taken: a key at path stands, and one that LoadKey would refuse stays where
// it is.
func MoveKey(former, path string) (bool, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	k, err := readKey(former)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = keepKey(k, path, os.Link, renameToFree, copyToFree)
	}
	if err != nil {
		return false, fmt.Errorf("moving the fingerprint key %s to %s: %w", former, path, err)
	}
	return true, os.Remove(former)
}

func readKey(path string) (Key, error) {
	content, _, err := File{Path: path}.read(keySize + 1)
	if err != nil {
		return Key{}, fmt.Errorf("the fingerprint key: %w", err)
	}
	if len(content) != keySize {
		return Key{}, fmt.Errorf("the fingerprint key %s is not %d bytes long: restore it, or remove it to have a new one made (all credentials then count as new)", path, keySize)
	}
	return Key{bytes: secret.New(string(content))}, nil
}

// keepKey gives a finished file its name in the first of the ways that the file
// system knows. Each fails where another process was faster: then that one's key
// is used. There are no hard links on FAT, CIFS and many FUSE file systems.
func keepKey(k Key, path string, ways ...func(from, to string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	tmp, err := writeKey(k, dir.Name())
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	// Where modes are not kept others could read it, and the next start would
	// refuse it.
	if err := (File{Path: tmp}).Check(); err != nil {
		return err
	}
	for _, way := range ways {
		if err = way(tmp, path); err == nil || errors.Is(err, fs.ErrExist) {
			return syncFile(dir)
		}
		if !unsupported(err) {
			return err
		}
	}
	return err
}

// renameToFree is os.Rename where to is free.
func renameToFree(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}

// copyToFree is for file systems that have neither of the other ways. A crash in
// the middle leaves a file that is refused at the next start.
func copyToFree(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = syncFile(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(to) // what failed above is the error
	}
	return err
}

// unsupported says that the file system does not know an operation.
func unsupported(err error) bool {
	for _, not := range [...]syscall.Errno{syscall.EPERM, syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.EINVAL, syscall.EMLINK} {
		if errors.Is(err, not) {
			return true
		}
	}
	return false
}

// syncFile makes f durable. Some file systems cannot, and say so; there is nothing
// more to do there.
func syncFile(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}

func writeKey(k Key, dir string) (name string, err error) {
	tmp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = tmp.WriteString(k.bytes.Reveal())
	if err == nil {
		err = syncFile(tmp)
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // what failed above is the error
		return "", err
	}
	return tmp.Name(), nil
}
