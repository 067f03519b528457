package store

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// short lets a store find no descriptor for what ops do, while it is on.
type short struct{ on atomic.Bool }

func (s *short) of(ops ...Op) func(Op, string) error {
	refuse := refusing(unix.EMFILE, ops...)
	return func(op Op, path string) error {
		if !s.on.Load() {
			return nil
		}
		return refuse(op, path)
	}
}

// What is left of a download stays where descriptors have run out when it is wanted:
// nothing of it is fetched again.
func TestStore_NoDescriptorForWhatIsLeft(t *testing.T) {
	var lack short
	s := open(t, t.TempDir(), Options{Fault: lack.of(OpOpen)})
	data := random(1, 6*BlockSize)
	begun(t, s, data, 0, 3).leave()
	used := s.Usage()
	lack.on.Store(true)
	if _, ok := s.Resume(here, "", oci.DigestOf(data)); ok {
		t.Fatal("it was opened")
	}
	lack.on.Store(false)
	if now := s.Usage(); now != used {
		t.Errorf("%+v is used, it was %+v", now, used)
	}
	finish(t, tookUp(t, s, data, 0, 3), data)
	wantBlob(t, s, here, data)
	wantClean(t, s)
}

// A blob that is on the disk is kept though there is no descriptor to sync its
// folder with, and the disk has not failed.
func TestStore_NoDescriptorForAFolder(t *testing.T) {
	var lack short
	s := open(t, t.TempDir(), Options{Fault: func(op Op, path string) error {
		if filepath.Base(filepath.Dir(path)) == "tmp" {
			return nil
		}
		return lack.of(OpOpen)(op, path)
	}})
	data := random(1, BlockSize+1)
	b := begun(t, s, data, 0, 1)
	lack.on.Store(true)
	finish(t, b, data)
	small := random(2, 1000)
	if err := s.Put("", here, oci.DigestOf(small), small); err != nil {
		t.Error(err)
	}
	if _, _, err := s.OpenBlob(here, oci.DigestOf(data)); !errors.Is(err, unix.EMFILE) {
		t.Errorf("there were descriptors: %v", err)
	}
	lack.on.Store(false)
	wantBlob(t, s, here, data)
	wantBlob(t, s, here, small)
	wantClean(t, s)
	if failed := s.Failures(); len(failed) > 0 {
		t.Errorf("the disk is said to have failed: %v", failed)
	}
}
