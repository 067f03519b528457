package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

// bring writes the named blocks of data.
func bring(t *testing.T, b *Blocks, data []byte, blocks ...int64) {
	t.Helper()
	for _, block := range blocks {
		from, to := block*BlockSize, min((block+1)*BlockSize, int64(len(data)))
		r := b.Claim(from, to)
		if _, err := r.Write(data[from:to]); err != nil {
			t.Fatal(err)
		}
		r.Release()
	}
}

// begun has the named blocks of data on their way.
func begun(t *testing.T, s *Store, data []byte, blocks ...int64) *Blocks {
	t.Helper()
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	bring(t, b, data, blocks...)
	return b
}

// tookUp takes up what was left of data: exactly the named blocks.
func tookUp(t *testing.T, s *Store, data []byte, blocks ...int64) *Blocks {
	t.Helper()
	b, ok := s.Resume(here, "", oci.DigestOf(data))
	if !ok {
		t.Fatal("nothing is left")
	}
	var have int64
	for _, block := range blocks {
		have += min(BlockSize, int64(len(data))-block*BlockSize)
		if n, err := b.Ready(block*BlockSize, false); n == 0 || err != nil {
			t.Errorf("block %d: %d bytes, %v", block, n, err)
		}
	}
	if b.Have() != have {
		t.Errorf("%d bytes are left, want %d", b.Have(), have)
	}
	return b
}

// finish brings what is missing, and publishes.
func finish(t *testing.T, b *Blocks, data []byte) {
	t.Helper()
	for run, ok := b.Take(0, -1, BlockSize); ok; run, ok = b.Take(0, -1, BlockSize) {
		if _, err := run.Write(data[run.Pos():run.End()]); err != nil {
			t.Fatal(err)
		}
		run.Release()
	}
	if err := errors.Join(b.Hash(t.Context()), b.Publish()); err != nil {
		t.Fatal(err)
	}
}

// What is left of a blob is gone on with: in the same process, after a good end
// and after none at all.
func TestResume(t *testing.T) {
	data := random(1, 6*BlockSize+77)
	for name, next := range map[string]func(t *testing.T, s *Store, b *Blocks) *Store{
		"the same process": func(_ *testing.T, s *Store, b *Blocks) *Store { b.leave(); return s },
		"after a good end": func(t *testing.T, s *Store, b *Blocks) *Store {
			b.leave()
			closeStore(t, s)
			return open(t, s.dir, Options{MaxSize: 8 << 20})
		},
		"after none": func(t *testing.T, s *Store, b *Blocks) *Store {
			closeStore(t, s) // all that is left of this process is its descriptors
			t.Cleanup(b.Discard)
			return open(t, s.dir, Options{MaxSize: 8 << 20})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), Options{MaxSize: 8 << 20})
			b := begun(t, s, data, 0, 3, 6)
			if _, err := b.Claim(4*BlockSize, 5*BlockSize).Write(data[4*BlockSize:][:1000]); err != nil {
				t.Fatal(err)
			}
			s = next(t, s, b)
			if name == "the same process" {
				b, ok := s.Resume(here, "", oci.DigestOf(data))
				if !ok || b.Have() != 2*BlockSize+77+1000 {
					t.Fatal(ok, b.Have())
				}
				b.leave()
			} else {
				tookUp(t, s, data, 0, 3, 6).leave()
			}
			b, _ = s.Resume(here, "", oci.DigestOf(data))
			if _, ok := s.Resume(here, "", oci.DigestOf(data)); ok {
				t.Error("two have what is left")
			}
			finish(t, b, data)
			wantBlob(t, s, here, data)
			wantClean(t, s)
		})
	}
}

// Who reads what was left reads on, beside the one who goes on with it: from what
// there was, and no further.
func TestReadersOfWhatWasLeft(t *testing.T) {
	data := random(1, 6*BlockSize)
	s := open(t, t.TempDir(), Options{})
	left := begun(t, s, data, 0)
	left.leave()
	b := tookUp(t, s, data, 0)
	var reading sync.WaitGroup
	reading.Go(func() {
		for range 100 {
			if n, err := left.Ready(0, false); n != BlockSize || err != nil {
				t.Errorf("of what was left: %d bytes, %v", n, err)
			}
		}
	})
	bring(t, b, data, 1)
	reading.Wait()
	if n, err := left.Ready(BlockSize, false); n != 0 || !errors.Is(err, ErrDiscarded) {
		t.Errorf("of what came later: %d bytes, %v", n, err)
	}
	finish(t, b, data)
	wantBlob(t, s, here, data)
}

// What another boot of the kernel has left may be torn: it is not used.
func TestLeftByAnotherBoot(t *testing.T) {
	data := random(1, 6*BlockSize)
	s := open(t, t.TempDir(), Options{Boot: "one"})
	begun(t, s, data, 0, 1).leave()
	closeStore(t, s)
	s = open(t, s.dir, Options{Boot: "two"})
	if _, ok := s.Resume(here, "", oci.DigestOf(data)); ok {
		t.Error("it is used")
	}
	wantClean(t, s)
}

// A day later it is gone, also from a process that goes on.
func TestLeftTooLong(t *testing.T) {
	data := random(1, 6*BlockSize)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, Options{})
		begun(t, s, data, 0, 1).leave()
		time.Sleep(partialLife - time.Minute)
		tookUp(t, s, data, 0, 1).leave()
		time.Sleep(partialLife + 2*time.Hour)
		synctest.Wait()
		wantClean(t, s)
		closeStore(t, s)
	})
	s := open(t, dir, Options{})
	b := begun(t, s, data, 0, 1)
	b.leave()
	closeStore(t, s)
	old := time.Now().Add(-partialLife - time.Minute)
	if err := os.Chtimes(b.tmp, old, old); err != nil {
		t.Fatal(err)
	}
	wantClean(t, open(t, dir, Options{}))
}

// Of the limit it is a part, and the first to go.
func TestLeftoversMakeRoom(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 20 << 20})
	kept := random(9, 8<<20)
	keep(t, s, here, kept)
	first, second := random(1, 6*BlockSize), random(2, 6*BlockSize)
	begun(t, s, first, 0, 1, 2, 3).leave()
	begun(t, s, second, 0, 1, 2).leave()
	if u := s.Usage(); u.Bytes != 15<<20 {
		t.Errorf("%+v", u)
	}
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 8<<20) // the older one must go for it
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Resume(here, "", oci.DigestOf(first)); ok {
		t.Error("the older one is still there")
	}
	b.Discard()
	tookUp(t, s, second, 0, 1, 2).leave()
	wantBlob(t, s, here, kept)
	if b, err = s.NewBlocks(Account{}, here, oci.DigestOf(nil), 20<<20); err != nil {
		t.Error("room of leftovers is not counted as possible:", err)
	} else {
		b.Discard()
	}
	wantClean(t, s)
}

// What is wrong, small, or of unknown length is not left.
func TestNotWorthLeaving(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	wrong := begun(t, s, random(1, 6*BlockSize), 0, 1)
	wrong.Fail(ErrMismatch)
	small := begun(t, s, random(2, 3*BlockSize), 0, 1)
	unknown, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unknown.Claim(0, -1).Write(random(3, 6*BlockSize)); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*Blocks{wrong, small, unknown} {
		b.leave()
	}
	wantClean(t, s)
}

// Notes that do not fit what lies beside them are no notes.
func TestBadNotes(t *testing.T) {
	data := random(1, 6*BlockSize)
	for name, spoil := range map[string]func(tmp, notes string, text []byte) error{
		"cut":   func(_, notes string, _ []byte) error { return os.Truncate(notes, 30) },
		"empty": func(_, notes string, _ []byte) error { return os.Truncate(notes, 0) },
		"without bits": func(_, notes string, text []byte) error {
			return os.Truncate(notes, int64(bytes.IndexByte(text, '\n')))
		},
		"too many bits":  func(_, notes string, text []byte) error { return os.WriteFile(notes, append(text, 1), 0o600) },
		"without a file": func(tmp, _ string, _ []byte) error { return os.Remove(tmp) },
		"another size":   func(tmp, _ string, _ []byte) error { return os.Truncate(tmp, 5*BlockSize) },
		"a link": func(tmp, _ string, _ []byte) error {
			return errors.Join(os.Rename(tmp, tmp+"x"), os.Symlink(tmp+"x", tmp))
		},
		"a folder": func(_, notes string, _ []byte) error { return errors.Join(os.Remove(notes), os.Mkdir(notes, 0o700)) },
		"another origin": func(_, notes string, text []byte) error {
			return os.WriteFile(notes, bytes.Replace(text, []byte(here), []byte("../../etc"), 1), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), Options{})
			b := begun(t, s, data, 0, 1)
			b.leave()
			closeStore(t, s)
			notes := b.tmp + notesSuffix
			text, err := os.ReadFile(notes)
			if err == nil {
				err = spoil(b.tmp, notes, text)
			}
			if err != nil {
				t.Fatal(err)
			}
			s = open(t, s.dir, Options{})
			if _, ok := s.Resume(here, "", oci.DigestOf(data)); ok {
				t.Error("they are used")
			}
			wantClean(t, s)
		})
	}
}

// Whatever notes say, they are refused or fit.
func FuzzNotes(f *testing.F) {
	line, err := json.Marshal(noted{Boot: "b", Origin: here, Digest: oci.DigestOf(nil), Size: 6*BlockSize + 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, "\n\x05"...))
	f.Add([]byte(`{"size":-1}` + "\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, bits, err := parseNotes(data)
		if err != nil {
			return
		}
		filled, have := filledBy(bits, n.Size)
		var sum int64
		for block, size := range filled {
			if block < 0 || block >= blocksOf(n.Size) || size <= 0 || size > BlockSize {
				t.Errorf("block %d has %d bytes", block, size)
			}
			sum += size
		}
		if sum != have || have > n.Size {
			t.Errorf("%d bytes of %d, %d are said", sum, n.Size, have)
		}
		if _, err := oci.ParseDigest(n.Digest.String()); err != nil {
			t.Error(err)
		}
	})
}

// What one repository has sent of a blob is nothing to go on with for another, which may
// only claim to have it: it stays for the first, also over a restart.
func TestResume_OfOneRepository(t *testing.T) {
	data := random(9, 8*BlockSize)
	s := open(t, t.TempDir(), Options{MaxSize: 64 << 20})
	b, err := s.NewBlocks(Account{Repo: "acme/app"}, here, oci.DigestOf(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	bring(t, b, data, 0, 1)
	for _, when := range []string{"at once", "after a restart"} {
		b.leave()
		if when != "at once" {
			closeStore(t, s)
			s = open(t, s.dir, Options{MaxSize: 64 << 20})
		}
		for _, repo := range []string{"", "bolt/own"} {
			if _, ok := s.Resume(here, repo, oci.DigestOf(data)); ok {
				t.Errorf("%s: %q goes on with what acme/app has sent", when, repo)
			}
		}
		other, err := s.NewBlocks(Account{Repo: "bolt/own"}, here, oci.DigestOf(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		other.Discard()
		var ok bool
		if b, ok = s.Resume(here, "acme/app", oci.DigestOf(data)); !ok || b.Have() != 2*BlockSize {
			t.Fatalf("%s: acme/app has to begin again", when)
		}
	}
	finish(t, b, data)
	wantClean(t, s)
}
