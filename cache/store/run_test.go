package store

import (
	"syscall"
	"testing"
)

// A long run has its room before its first byte is followed by others, and no more
// than that: a blob of which only pieces are wanted takes what the pieces take.
func TestRun_TakesItsRoomAtOnce(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 8*BlockSize)
	b, err := s.NewBlocks(Account{}, here, d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Discard()
	if s.disk.allocate(b.file, 0, 1) != nil {
		t.Skip("the filesystem of the test's folder does not reserve room")
	}
	run := b.Claim(2*BlockSize, 5*BlockSize)
	defer run.Release()
	if _, err := run.Write(data[2*BlockSize : 2*BlockSize+1]); err != nil {
		t.Fatal(err)
	}
	info, err := b.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	taken := info.Sys().(*syscall.Stat_t).Blocks * 512
	if taken < 3*BlockSize || taken > 4*BlockSize {
		t.Errorf("%d bytes of the disk are taken for a run of %d", taken, 3*BlockSize)
	}
}
