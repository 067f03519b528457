package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// The last byte waits for verification, not for anything else; of a blob of
// unknown length any byte may be the last.
func TestTheLastByteIsHeld(t *testing.T) {
	for _, size := range []int{1, 2, BlockSize, BlockSize + 1} {
		for _, unknown := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, unknown %v", size, unknown), func(t *testing.T) {
				s := open(t, t.TempDir(), Options{})
				data, d := newBlob(1, size)
				said := int64(size)
				if unknown {
					said = -1
				}
				b, err := s.NewBlocks(Account{}, here, d, said)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Discard()
				run := b.Claim(0, said)
				defer run.Release()
				for pos := range size {
					if size > 2 && pos != 0 && pos < size-2 {
						continue
					}
					if _, err := run.Write(data[run.Pos() : pos+1]); err != nil {
						t.Fatal(err)
					}
					wantReady(t, b, pos, false, 1, nil)
					held := 1
					if unknown || pos == size-1 {
						held = 0
					}
					wantReady(t, b, pos, true, held, nil)
				}
				if unknown {
					b.End()
					wantReady(t, b, size-1, true, 0, nil)
				}
				wantReady(t, b, size, false, 0, io.EOF)
				wantReady(t, b, size, true, 0, nil)
				if err := b.Hash(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantReady(t, b, size-1, true, 1, nil)
				wantReady(t, b, size, true, 0, io.EOF)
				if !b.Verified() {
					t.Error("it is not verified")
				}
			})
		}
	}
}

func wantReady(t *testing.T, b *Blocks, off int, held bool, n int, err error) {
	t.Helper()
	if got, gotErr := b.Ready(int64(off), held); got != int64(n) || !errors.Is(gotErr, err) {
		t.Fatalf("at %d, held %v: %d, %v; want %d, %v", off, held, got, gotErr, n, err)
	}
}

// Whatever was there before: once a blob is known to be wrong, nobody gets more
// of it. After any other end, those read on who have what they need.
func TestHowABlobEnds(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	gone := errors.New("upstream went away")
	for _, c := range []struct {
		why      error
		readable bool
	}{
		{ErrMismatch, false},
		{fmt.Errorf("wrapped: %w", ErrMismatch), false},
		{gone, true},
		{ErrDiscarded, true},
	} {
		data, d := newBlob(2, 2*BlockSize)
		b, err := s.NewBlocks(Account{}, here, d, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		run := b.Claim(0, BlockSize)
		if _, err := run.Write(data[:BlockSize]); err != nil {
			t.Fatal(err)
		}
		waits := make(chan error, 2)
		for _, held := range []bool{true, false} {
			go func() {
				_, err := b.Wait(t.Context(), BlockSize, held)
				waits <- err
			}()
		}
		b.Fail(c.why)
		b.Fail(errors.New("another"))
		for range 2 {
			if err := <-waits; !errors.Is(err, c.why) {
				t.Errorf("%v: a reader got %v", c.why, err)
			}
		}
		for _, held := range []bool{true, false} {
			if n, err := b.Ready(0, held); (n > 0) != c.readable || c.readable == (err != nil) {
				t.Errorf("%v: what is there: %d, %v", c.why, n, err)
			}
		}
		if _, err := run.Write(nil); err != nil {
			t.Error(err)
		}
		next := b.Claim(BlockSize, -1)
		if _, err := next.Write(data[BlockSize:]); !errors.Is(err, c.why) {
			t.Errorf("%v: writing: %v", c.why, err)
		}
		if err := b.Hash(t.Context()); !errors.Is(err, c.why) {
			t.Errorf("%v: hashing: %v", c.why, err)
		}
		if err := b.Publish(); err == nil {
			t.Errorf("%v: published", c.why)
		}
		b.Discard()
		b.Discard()
		if err := b.Err(); !errors.Is(err, c.why) {
			t.Errorf("%v became %v", c.why, err)
		}
	}
	wantClean(t, s)
}

// However much there is to hash, its ctx ends it: the end of the process must not wait
// for gigabytes that an earlier one has left.
func TestHashEndsWithItsContext(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data := random(4, 3*BlockSize)
	b := begun(t, s, data, 0, 1, 2)
	defer b.Discard()
	ended := errors.New("the process ends")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ended)
	if err := b.Hash(ctx); !errors.Is(err, ended) || b.Verified() {
		t.Errorf("%v; verified: %v", err, b.Verified())
	}
	if err := b.Hash(t.Context()); err != nil || !b.Verified() {
		t.Errorf("again: %v", err)
	}
}

// A reader's ctx ends its waiting, and nothing of it stays.
func TestWaitHonoursItsContext(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	_, d := newBlob(3, BlockSize)
	b, err := s.NewBlocks(Account{}, here, d, BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Discard()
	left := errors.New("the client left")
	for name, wait := range map[string]func(context.Context) error{
		"Wait":      func(ctx context.Context) error { _, err := b.Wait(ctx, 0, false); return err },
		"Wait held": func(ctx context.Context) error { _, err := b.Wait(ctx, 0, true); return err },
		"Hash":      func(ctx context.Context) error { return b.Hash(ctx) },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		go func() { ended <- wait(ctx) }()
		cancel(left)
		select {
		case err := <-ended:
			if !errors.Is(err, left) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s waits on", name)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) != 0 {
		t.Errorf("%d waiters stay", len(b.waiters))
	}
}

// What a block has already is not asked for again, also not on the way to others.
func TestTakeStopsBeforeABeginning(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 3*BlockSize)
	b, err := s.NewBlocks(Account{}, here, d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Discard()
	cut := b.Claim(BlockSize, 2*BlockSize)
	if _, err := cut.Write(data[BlockSize : BlockSize+10]); err != nil {
		t.Fatal(err)
	}
	cut.Release()
	for _, want := range [][2]int64{{0, BlockSize}, {BlockSize + 10, 3 * BlockSize}} {
		if r, ok := b.Take(0, -1, 16<<20); !ok || r.Pos() != want[0] || r.End() != want[1] {
			t.Errorf("%d to %d, want %v", r.Pos(), r.End(), want)
		}
	}
}

// Two workers never get one block, however they come.
func TestTakeConcurrently(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{})
	const blocks = 64
	_, d := newBlob(1, 0)
	b, err := s.NewBlocks(Account{}, here, d, blocks*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Discard()
	var mu sync.Mutex
	given := map[int64]int{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for {
				r, ok := b.Take(int64(i)*BlockSize, -1, 2*BlockSize)
				if !ok {
					return
				}
				mu.Lock()
				for block := r.Pos() / BlockSize; block*BlockSize < r.End(); block++ {
					given[block]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(given) != blocks {
		t.Errorf("%d of %d blocks were given", len(given), blocks)
	}
	for block, n := range given {
		if n != 1 {
			t.Errorf("block %d was given %d times", block, n)
		}
	}
}

// When two runs meet in a block and their upstreams differ, what has once been
// readable stays as it is: it was read and hashed.
func TestWhatIsThereIsNeverWrittenOver(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{})
	for round := range 30 {
		const size = BlockSize
		_, d := newBlob(1, size)
		b, err := s.NewBlocks(Account{}, here, d, size)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for seed := range uint64(3) {
			all.Go(func() {
				data := random(uint64(round)*10+seed, size)
				r := b.Claim(0, size)
				defer r.Release()
				for !r.done() {
					if _, err := r.Write(data[r.Pos():min(r.Pos()+4096, size)]); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		var seen []byte
		f, err := b.OpenReader()
		if err != nil {
			t.Fatal(err)
		}
		for len(seen) < size {
			n, err := b.Wait(t.Context(), int64(len(seen)), false)
			if err != nil {
				t.Fatal(err)
			}
			piece := make([]byte, n)
			if _, err := io.ReadFull(f, piece); err != nil {
				t.Fatal(err)
			}
			seen = append(seen, piece...)
		}
		all.Wait()
		now, err := os.ReadFile(f.Name())
		if errors.Is(err, fs.ErrNotExist) {
			now, err = os.ReadFile(b.tmp)
		}
		if err != nil || !bytes.Equal(seen, now) {
			t.Fatalf("round %d: what was read is not what is there; %v", round, err)
		}
		if b.Have() != size {
			t.Errorf("%d bytes of %d", b.Have(), size)
		}
		_ = f.Close() // only read from
		b.Discard()
	}
	wantClean(t, s)
}

// An upstream that sends more than it was asked for, or from somewhere else, is
// wrong; our disk is not in trouble.
func TestWritesThatDoNotFit(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 2*BlockSize)
	b, err := s.NewBlocks(Account{}, here, d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Discard()
	r := b.Claim(0, 10)
	if n, err := r.Write(data[:11]); n != 0 || !errors.Is(err, ErrMismatch) {
		t.Errorf("beyond the run: %d, %v", n, err)
	}
	if n, err := b.Claim(100, 200).Write(data[:10]); n != 0 || !errors.Is(err, ErrMismatch) {
		t.Errorf("behind a hole: %d, %v", n, err)
	}
	if b.Have() != 0 {
		t.Errorf("%d bytes are there", b.Have())
	}
	if n, err := r.Write(data[:10]); n != 10 || err != nil || !r.done() {
		t.Errorf("what fits: %d, %v, done %v", n, err, r.done())
	}
}

// Waking costs one look per waiter, and none sleeps on when its bytes are there.
func TestManyReaders(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{})
	data, _ := newBlob(5, 2*BlockSize)
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			p := plan{data: data, sent: data}
			if err := p.read(b, readerPlan{seed: uint64(i), to: len(data), held: true}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		if err := b.Hash(t.Context()); err != nil {
			t.Error(err)
		}
	})
	r := b.Claim(0, int64(len(data)))
	for !r.done() {
		if _, err := r.Write(data[r.Pos():min(r.Pos()+50_000, int64(len(data)))]); err != nil {
			t.Fatal(err)
		}
	}
	r.Release()
	all.Wait()
	b.Discard()
	wantClean(t, s)
}
