package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"berth/oci"
)

// TestMain runs a child of a test when asked to, else the tests.
func TestMain(m *testing.M) {
	if does, ok := children[os.Getenv(childDoes)]; ok {
		does(os.Getenv(childDir))
		return
	}
	goleak.VerifyTestMain(m)
}

// tb is what *testing.T and *rapid.T have in common.
type tb interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

const (
	here  = "registry.example-0123"
	there = "mirror.example-4567"
)

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // those that the test closed are closed again
	<-s.capacity.counted
	return s
}

func (s *Store) has(origin string, d oci.Digest) (size int64, ok bool) {
	size, _, err := s.Stat(origin, d)
	return size, err == nil
}

func (s *Store) removeBlob(origin string, d oci.Digest) error {
	if _, ok := s.has(origin, d); !ok {
		return fs.ErrNotExist
	}
	_, err := s.capacity.removeIf(s.path(origin, d), nil)
	return err
}

// leave parks b, and its readers learn of it.
func (b *Blocks) leave() {
	b.Park()
	b.Fail(ErrDiscarded)
}

func closeStore(t tb, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// random is n bytes, the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	_, _ = src.Read(b) // never fails
	return b
}

// newBlob is a blob of n bytes and its digest.
func newBlob(seed uint64, n int) ([]byte, oci.Digest) {
	b := random(seed, n)
	return b, oci.DigestOf(b)
}

// grown is data as a blob that is there in full and verified.
func grown(t tb, s *Store, origin string, data []byte) *Blocks {
	t.Helper()
	b, err := grow(s, origin, data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func grow(s *Store, origin string, data []byte) (*Blocks, error) {
	b, err := s.NewBlocks(Account{}, origin, oci.DigestOf(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	r := b.Claim(0, int64(len(data)))
	_, err = r.Write(data)
	r.Release()
	if err == nil {
		err = b.Hash(context.Background())
	}
	if err != nil {
		b.Discard()
		return nil, err
	}
	return b, nil
}

// keep publishes data under origin.
func keep(t tb, s *Store, origin string, data []byte) oci.Digest {
	t.Helper()
	if err := grown(t, s, origin, data).Publish(); err != nil {
		t.Fatal(err)
	}
	return oci.DigestOf(data)
}

func wantBlob(t tb, s *Store, origin string, data []byte) {
	t.Helper()
	f, size, err := s.OpenBlob(origin, oci.DigestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read from
	got, err := io.ReadAll(f)
	if err != nil || size != int64(len(data)) || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes of %d, said to be %d; %v", len(got), len(data), size, err)
	}
	if n, ok := s.has(origin, oci.DigestOf(data)); !ok || n != size {
		t.Fatalf("Has says %d, %v", n, ok)
	}
}

func wantNone(t tb, s *Store, origin string, d oci.Digest) {
	t.Helper()
	f, _, err := s.OpenBlob(origin, d)
	if err == nil {
		_ = f.Close() // the test has failed already
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("opening a blob that is not there: %v", err)
	}
	if _, ok := s.has(origin, d); ok {
		t.Fatal("Has says that it is there")
	}
}

// wantClean checks that nothing grows: no file, no room, and a right count.
func wantClean(t tb, s *Store) {
	t.Helper()
	if left, err := os.ReadDir(s.tmp()); err != nil || len(left) > 0 {
		t.Errorf("tmp holds %v, %v", left, err)
	}
	s.capacity.mu.Lock()
	growing, unwritten := s.capacity.growing, s.capacity.unwritten
	s.capacity.mu.Unlock()
	if growing != 0 || unwritten != 0 {
		t.Errorf("%d bytes are reserved, %d of them unwritten", growing, unwritten)
	}
	wantCounted(t, s)
}

// wantCounted compares what is counted with what is there.
func wantCounted(t tb, s *Store) {
	t.Helper()
	s.capacity.names.Lock()
	defer s.capacity.names.Unlock()
	bytes, blobs := onDisk(t, s)
	s.capacity.mu.Lock()
	defer s.capacity.mu.Unlock()
	if s.capacity.kept != bytes || s.capacity.blobCount != blobs {
		t.Errorf("%d bytes in %d blobs are counted, %d in %d are there", s.capacity.kept, s.capacity.blobCount, bytes, blobs)
	}
}

// onDisk sums up what lies where a blob can lie.
func onDisk(t tb, s *Store) (sum, n int64) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.dir, "blobs", "*", "sha[25][51][62]", "??", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		name, folder := filepath.Base(p), filepath.Base(filepath.Dir(p))
		target, _ := filepath.EvalSymlinks(p)
		info, err := os.Lstat(p)
		if err == nil && info.Mode().IsRegular() && target == p && len(name)%64 == 0 && name[:2] == folder && strings.ToLower(name) == name {
			sum += info.Size()
			n++
		}
	}
	return sum, n
}

// descriptors is how many files this process has open.
func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc:", err)
	}
	return len(all)
}

// path is where a blob lies.
func (s *Store) path(origin string, d oci.Digest) string { return s.capacity.path(origin, d) }

// done says whether the run is full.
func (r *Run) done() bool { return r.end >= 0 && r.pos >= r.end }
