package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"berth/internal/ocitest"
	"berth/oci"
)

// sizes are those at which something begins or ends.
var sizes = []int{0, 1, 2, hashStep, BlockSize - 1, BlockSize, BlockSize + 1, 2 * BlockSize, 3*BlockSize + 7, 6*BlockSize - 1}

// plan is one blob's way to the disk, drawn by rapid and then walked by
// goroutines that each have a seed of their own.
type plan struct {
	data    []byte // what the digest names
	sent    []byte // what upstream sends
	unknown bool   // upstream does not say how much it is
	writers []uint64
	stream  bool // one writer ignores ranges and sends everything
	readers []readerPlan
}

type readerPlan struct {
	seed     uint64
	from, to int
	held     bool
	late     bool // it opens the blob only when some of it is there
}

func drawPlan(t *rapid.T) plan {
	size := rapid.OneOf(rapid.SampledFrom(sizes), rapid.IntRange(0, 3*BlockSize)).Draw(t, "size")
	p := plan{data: random(rapid.Uint64Range(0, 1<<20).Draw(t, "data"), size), unknown: rapid.Bool().Draw(t, "unknown")}
	p.sent = p.data
	if size > 0 && rapid.IntRange(0, 2).Draw(t, "wrong") == 0 {
		p.sent = bytes.Clone(p.data)
		p.sent[rapid.OneOf(rapid.SampledFrom([]int{0, size - 1, size / 2}), rapid.IntRange(0, size-1)).Draw(t, "at")] ^= 1
	}
	p.writers = rapid.SliceOfN(rapid.Uint64(), 1, 3).Draw(t, "writers")
	if p.unknown {
		p.writers = p.writers[:1]
	}
	p.stream = p.unknown || rapid.Bool().Draw(t, "stream")
	p.readers = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) readerPlan {
		r := readerPlan{seed: rapid.Uint64().Draw(t, "seed"), to: size, held: true, late: rapid.Bool().Draw(t, "late")}
		if !p.unknown && rapid.Bool().Draw(t, "bounded") {
			r.held = false
			r.from = rapid.IntRange(0, size).Draw(t, "from")
			r.to = rapid.IntRange(r.from, size).Draw(t, "to")
		}
		return r
	}), 1, 5).Draw(t, "readers")
	return p
}

// Writers in any order, in pieces of any length, and readers of all of it or of
// a part: everyone gets exactly the right bytes, or an error.
func TestBlocks(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{})
	before := descriptors(t)
	rapid.Check(t, func(t *rapid.T) {
		drawPlan(t).walk(t, s)
	})
	if after := descriptors(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func (p plan) walk(t *rapid.T, s *Store) {
	d, size := oci.DigestOf(p.data), int64(len(p.data))
	if p.unknown {
		size = -1
	}
	b, err := s.NewBlocks(Account{}, here, d, size)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	errs := make(chan error, 20)
	all.Go(func() {
		if err := b.Hash(context.Background()); err != nil {
			b.Fail(err)
		}
	})
	for i, seed := range p.writers {
		all.Go(func() { errs <- p.write(b, rand.New(rand.NewPCG(seed, 0)), p.stream && i == 0) })
	}
	for _, r := range p.readers {
		all.Go(func() {
			if err := p.read(b, r); err != nil {
				errs <- fmt.Errorf("%+v: %w", r, err)
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	right := bytes.Equal(p.data, p.sent)
	if b.Verified() != right || errors.Is(b.Err(), ErrMismatch) == right || b.Have() != int64(len(p.sent)) || b.Size() != int64(len(p.sent)) {
		t.Errorf("verified %v, %v, %d of %d bytes", b.Verified(), b.Err(), b.Have(), b.Size())
	}
	if err := b.Publish(); (err == nil) != right {
		t.Errorf("publishing: %v", err)
	}
	if right {
		wantBlob(t, s, here, p.data)
		if err := s.removeBlob(here, d); err != nil {
			t.Error(err)
		}
	}
	wantNone(t, s, here, d)
	wantClean(t, s)
}

// write fetches runs of absent blocks until there are none, some of them only in
// part. The stream sends everything, through what others have claimed.
func (p plan) write(b *Blocks, r *rand.Rand, stream bool) error {
	if stream {
		run := b.Claim(0, b.Size())
		defer run.Release()
		if err := p.send(run, r, len(p.sent)); err != nil {
			return err
		}
		if p.unknown {
			b.End()
		}
		return nil
	}
	for b.Err() == nil && b.Have() < b.Size() {
		from := r.Int64N(b.Size())
		run, ok := b.Take(from, from+r.Int64N(b.Size()), 1+r.Int64N(3*BlockSize))
		if !ok {
			run, ok = b.Take(0, -1, 16<<20)
		}
		if !ok { // others have the rest: see what they leave
			if _, err := b.Wait(context.Background(), b.Size()-1, false); err != nil && !errors.Is(err, b.Err()) {
				return err
			}
			runtime.Gosched()
			continue
		}
		until := run.End()
		if r.IntN(3) == 0 { // the connection is cut
			until = run.Pos() + r.Int64N(run.End()-run.Pos())
		}
		err := p.send(run, r, int(until))
		run.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// send writes up to until in pieces. A blob that is found wrong meanwhile ends it.
func (p plan) send(run *Run, r *rand.Rand, until int) error {
	for int(run.Pos()) < until {
		piece := p.sent[run.Pos():until]
		piece = piece[:1+r.IntN(min(len(piece), 1+r.IntN(700<<10)))]
		if n, err := run.Write(piece); err != nil {
			if errors.Is(err, ErrMismatch) {
				return nil
			}
			return err
		} else if n != len(piece) {
			return fmt.Errorf("%d of %d bytes written", n, len(piece))
		}
	}
	return nil
}

// read reads as r wants to, and judges what it got.
func (p plan) read(b *Blocks, r readerPlan) error {
	ctx := context.Background()
	if r.late && len(p.sent) > 0 {
		if _, err := b.Wait(ctx, int64(rand.New(rand.NewPCG(r.seed, 1)).IntN(len(p.sent))), false); err != nil && !errors.Is(err, ErrMismatch) && err != io.EOF {
			return err
		}
	}
	f, err := b.OpenReader()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	got, err := p.readFrom(ctx, b, f, r)
	if !bytes.Equal(got, p.sent[r.from:][:len(got)]) {
		return errors.New("the bytes are not those that were sent")
	}
	right := bytes.Equal(p.data, p.sent)
	switch {
	case err == nil && len(got) != r.to-r.from:
		return fmt.Errorf("it ended after %d bytes", len(got))
	case err == nil && r.held && !right:
		return errors.New("it completed, with a wrong byte")
	case err == nil && r.held && !b.Verified():
		return errors.New("it completed before the bytes were verified")
	case err != nil && (right || !errors.Is(err, ErrMismatch)):
		return err
	}
	return nil
}

func (p plan) readFrom(ctx context.Context, b *Blocks, f *os.File, r readerPlan) (got []byte, err error) {
	rnd := rand.New(rand.NewPCG(r.seed, 2))
	for pos := int64(r.from); r.held || pos < int64(r.to); {
		n, err := b.Ready(pos, r.held)
		if n == 0 && err == nil {
			n, err = b.Wait(ctx, pos, r.held)
		}
		if err == io.EOF && pos == int64(len(p.sent)) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		if r.held && pos+n == int64(len(p.data)) && !b.Verified() {
			return got, errors.New("the last byte came before verification")
		}
		piece := make([]byte, min(n, 1+rnd.Int64N(1<<20)))
		if !r.held {
			piece = piece[:min(len(piece), r.to-int(pos))]
		}
		if _, err := f.ReadAt(piece, pos); err != nil {
			return got, err
		}
		got = append(got, piece...)
		pos += int64(len(piece))
	}
	return got, nil
}

// book is what a test knows about who has claimed and written what.
type book struct {
	size    int64
	filled  map[int64]int64 // by block
	claimed map[int64]*Run
}

// absent is the first byte at or after from that Take may give.
func (k *book) absent(from, to int64) (int64, bool) {
	for block := from / BlockSize; block*BlockSize < to; block++ {
		end := min(BlockSize, k.size-block*BlockSize)
		if k.claimed[block] == nil && k.filled[block] < end {
			return block*BlockSize + k.filled[block], true
		}
	}
	return 0, false
}

// Take never gives what is there or claimed, always gives the first of what is
// not, and in the end everything has been given.
func TestTakeAgainstABook(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{})
	rapid.Check(t, func(t *rapid.T) {
		size := int64(rapid.OneOf(rapid.SampledFrom(sizes), rapid.IntRange(0, 20*BlockSize)).Draw(t, "size"))
		b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), size)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Discard()
		k := &book{size: size, filled: map[int64]int64{}, claimed: map[int64]*Run{}}
		var runs []*Run
		zeroes := make([]byte, 3*BlockSize)
		release := func(i int) {
			for block, r := range k.claimed {
				if r == runs[i] {
					delete(k.claimed, block)
				}
			}
			runs[i].Release()
			runs = append(runs[:i], runs[i+1:]...)
		}
		claim := func(r *Run, end int64) {
			for block := r.Pos() / BlockSize; block*BlockSize < end; block++ {
				if k.claimed[block] == nil {
					k.claimed[block] = r
				}
			}
			runs = append(runs, r)
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				from := rapid.Int64Range(0, size).Draw(t, "from")
				to := rapid.SampledFrom([]int64{-1, size, from + BlockSize, from + 1, 2 * size}).Draw(t, "to")
				limit := rapid.SampledFrom([]int64{1, BlockSize, 3 * BlockSize, 16 << 20}).Draw(t, "limit")
				within := to
				if to < 0 || to > size {
					within = size
				}
				first, want := k.absent(from, within)
				r, ok := b.Take(from, to, limit)
				if ok != want {
					t.Fatalf("Take(%d, %d) says %v", from, to, ok)
				}
				if !ok {
					return
				}
				if r.Pos() != first || r.End() <= r.Pos() || r.End() > size || r.End()-r.Pos() >= limit+BlockSize {
					t.Fatalf("Take(%d, %d, %d) gives %d to %d, the first absent is %d", from, to, limit, r.Pos(), r.End(), first)
				}
				for block := first / BlockSize; block*BlockSize < r.End(); block++ {
					if k.claimed[block] != nil || block*BlockSize > first && k.filled[block] > 0 {
						t.Fatalf("block %d was given twice", block)
					}
				}
				claim(r, r.End())
			},
			"claim": func(t *rapid.T) { // a stream from the start
				if size > 0 && len(runs) < 5 {
					claim(b.Claim(0, size), size)
				}
			},
			"write": func(t *rapid.T) {
				if len(runs) == 0 {
					t.Skip()
				}
				r := runs[rapid.IntRange(0, len(runs)-1).Draw(t, "run")]
				n := rapid.Int64Range(0, min(r.End()-r.Pos(), int64(len(zeroes)))).Draw(t, "n")
				pos := r.Pos()
				if got, err := r.Write(zeroes[:n]); err != nil || int64(got) != n || r.Pos() != pos+n {
					t.Fatalf("writing %d at %d: %d, %v", n, pos, got, err)
				}
				for p := pos; p < pos+n; {
					end := min((p/BlockSize+1)*BlockSize, pos+n)
					k.filled[p/BlockSize] = max(k.filled[p/BlockSize], end-p/BlockSize*BlockSize)
					p = end
				}
			},
			"release": func(t *rapid.T) {
				if len(runs) > 0 {
					release(rapid.IntRange(0, len(runs)-1).Draw(t, "run"))
				}
			},
			"": func(t *rapid.T) {
				var have int64
				for _, n := range k.filled {
					have += n
				}
				if b.Have() != have {
					t.Fatalf("Have says %d, the book %d", b.Have(), have)
				}
			},
		})
		for len(runs) > 0 {
			release(0)
		}
		for { // nothing is lost
			r, ok := b.Take(0, -1, 16<<20)
			if !ok {
				break
			}
			for !r.done() {
				if _, err := r.Write(zeroes[:min(r.End()-r.Pos(), int64(len(zeroes)))]); err != nil {
					t.Fatal(err)
				}
			}
			r.Release()
		}
		if b.Have() != size || len(b.claimed) != 0 {
			t.Fatalf("%d of %d bytes, %d claims", b.Have(), size, len(b.claimed))
		}
	})
}
