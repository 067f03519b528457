package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const keySize = 32

// Key is what fingerprints are made with. It is made once per node; with
// another key every credential looks new, so that everything proven about
// access counts for nothing. It does not print, as a Secret does not.
// Keys are compared by what they make. The zero Key is for tests only.
type Key struct{ bytes Secret }

// NewKey makes a key from the system's random source.
func NewKey() Key {
	b := make([]byte, keySize)
	_, _ = rand.Read(b) // never fails: crypto/rand crashes the program instead
	return Key{bytes: NewSecret(string(b))}
}

// LoadKey reads the key at path, or makes one there: mode 0600, complete and
// durable before it has its name. It refuses a file that others may read or
// that is not a key; it never replaces one.
func LoadKey(path string) (Key, error) {
	k, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := keepKey(NewKey(), path); err != nil {
		return Key{}, fmt.Errorf("making the fingerprint key %s: %w", path, err)
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
		err = keepKey(k, path)
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
	return Key{bytes: NewSecret(string(content))}, nil
}

// keepKey gives a finished file its name by a hard link, which unlike a rename
// fails when another process was faster: then that one's key is used.
func keepKey(k Key, path string) error {
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
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Some file systems cannot sync a folder and say so; there is nothing more to do there.
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

func writeKey(k Key, dir string) (name string, err error) {
	tmp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = tmp.WriteString(k.bytes.Reveal())
	if err == nil {
		err = tmp.Sync()
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
