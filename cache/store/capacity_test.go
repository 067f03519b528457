package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"berth/internal/ocitest"
	"berth/oci"
)

const kib = 1 << 10

// Whatever is done, in any order: the limit holds at every moment, and what is
// counted is what is there.
func TestRoomOverAnyHistory(t *testing.T) {
	parent := ocitest.MemoryDir(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(parent, "") //nolint:usetesting // one for each history
		if err != nil {
			t.Fatal(err)
		}
		const limit = 100 * kib
		s, err := Open(dir, Options{MaxSize: limit})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }() // so that the sweeper ends
		growing := map[*Blocks][]byte{}
		reserved := func() (sum int64) {
			for b := range growing {
				sum += b.reserved
			}
			return sum
		}
		some := func(t *rapid.T) *Blocks {
			if len(growing) == 0 {
				t.Skip()
			}
			all := slices.SortedFunc(mapKeys(growing), func(a, b *Blocks) int { return strings.Compare(a.tmp, b.tmp) })
			return all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
		}
		origin := rapid.SampledFrom([]string{here, there})
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				data := random(rapid.Uint64Range(0, 9).Draw(t, "seed"), rapid.SampledFrom([]int{0, 1, kib, 10 * kib, 30 * kib, 99 * kib, 100 * kib, 101 * kib}).Draw(t, "size"))
				size := int64(len(data))
				if rapid.Bool().Draw(t, "unknown") {
					size = -1
				}
				before := reserved()
				b, err := s.NewBlocks(Account{}, origin.Draw(t, "origin"), oci.DigestOf(data), size)
				switch {
				case err == nil:
					growing[b] = data
				case !errors.Is(err, ErrNoRoom) || before+size <= limit:
					t.Fatalf("%d bytes beside %d growing: %v", size, before, err)
				}
			},
			"write": func(t *rapid.T) {
				b := some(t)
				data, size := growing[b], b.Size()
				r := b.Claim(b.Have(), size)
				defer r.Release()
				n := rapid.IntRange(0, len(data)-int(b.Have())).Draw(t, "n")
				before := reserved()
				_, err := r.Write(data[b.Have():][:n])
				if err != nil && (!errors.Is(err, ErrNoRoom) || size >= 0 || before+int64(n) <= limit) {
					t.Fatalf("writing %d bytes beside %d growing: %v", n, before, err)
				}
			},
			"finish": func(t *rapid.T) {
				b := some(t)
				data := growing[b]
				delete(growing, b)
				if _, err := b.Claim(b.Have(), b.Size()).Write(data[b.Have():]); err != nil {
					b.Fail(err)
					b.Discard()
					return
				}
				b.End()
				if err := errors.Join(b.Hash(t.Context()), b.Publish()); err != nil {
					t.Fatal(err)
				}
			},
			"discard": func(t *rapid.T) {
				b := some(t)
				delete(growing, b)
				b.Discard()
			},
			"remove": func(t *rapid.T) {
				data := random(rapid.Uint64Range(0, 9).Draw(t, "seed"), rapid.SampledFrom([]int{1, kib, 10 * kib, 30 * kib}).Draw(t, "size"))
				if err := s.removeBlob(origin.Draw(t, "origin"), oci.DigestOf(data)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			},
			"count again": func(t *rapid.T) { s.capacity.count2(t) },
			"": func(t *rapid.T) {
				if u := s.Usage(); u.Bytes > limit || u.Bytes < reserved() {
					t.Fatalf("%+v, %d growing", u, reserved())
				}
				s.capacity.mu.Lock()
				counted, unwritten := s.capacity.growing, s.capacity.unwritten
				s.capacity.mu.Unlock()
				for b := range growing {
					unwritten -= b.reserved - b.Have()
				}
				if counted != reserved() || unwritten != 0 {
					t.Fatalf("%d bytes are growing, %d are counted; %d unwritten ones too many", reserved(), counted, unwritten)
				}
				wantCounted(t, s)
			},
		})
		for b := range growing {
			b.Discard()
		}
		wantClean(t, s)
		closeStore(t, s)
		// And a new start finds the same.
		before := s.Usage()
		s, err = Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		<-s.capacity.counted
		if u := s.Usage(); u.Bytes != before.Bytes || u.Blobs != before.Blobs {
			t.Fatalf("%+v became %+v", before, u)
		}
	})
}

func mapKeys(m map[*Blocks][]byte) func(func(*Blocks) bool) {
	return func(yield func(*Blocks) bool) {
		for b := range m {
			if !yield(b) {
				return
			}
		}
	}
}

// aged publishes n blobs of size bytes, the first one used longest ago.
func aged(t *testing.T, s *Store, n, size int) (all [][]byte) {
	t.Helper()
	for i := range n {
		data := random(uint64(i+1), size)
		d := keep(t, s, here, data)
		used := long.Add(time.Duration(i) * time.Hour)
		if err := os.Chtimes(s.path(here, d), used, used); err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// left is which of all are still there.
func left(s *Store, all [][]byte) (there []int) {
	for i, data := range all {
		if _, ok := s.has(here, oci.DigestOf(data)); ok {
			there = append(there, i)
		}
	}
	return there
}

// The least recently used go first, and no more than have to: the limit, and
// the twentieth that the sweeper keeps free.
func TestEvictionByLastUse(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 100 * kib})
	all := aged(t, s, 9, 10*kib)
	wantBlob(t, s, here, all[1]) // which uses it
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 30*kib)
	if err != nil {
		t.Fatal(err)
	}
	s.capacity.settle(t)
	if got, want := left(s, all), []int{1, 5, 6, 7, 8}; !slices.Equal(got, want) && !slices.Equal(got, []int{1, 4, 5, 6, 7, 8}) {
		t.Errorf("%v are left, want %v", got, want)
	}
	if u := s.Usage(); u.Evicted != u.Blobs-9 && u.Evicted != 9-u.Blobs {
		t.Errorf("%+v", u)
	}
	b.Discard()
	wantClean(t, s)
	closeStore(t, s)
	if n := len(left(open(t, s.dir, Options{}), all)); n != len(left(s, all)) {
		t.Errorf("%d", n)
	}
}

// settle waits until the sweeper has nothing to do.
func (c *capacity) settle(t tb) {
	t.Helper()
	if _, err := c.evict(context.Background(), want{n: c.margin(c.disk.space(c.blobs))}); err != nil {
		t.Fatal(err)
	}
}

// Who reads a blob that is evicted reads on, and its bytes are those.
func TestEvictionUnderAReader(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 100 * kib})
	all := aged(t, s, 9, 10*kib)
	var open []*os.File
	for _, data := range all {
		f, err := os.Open(s.path(here, oci.DigestOf(data))) // no use, so they stay old
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }() // only read from
		open = append(open, f)
	}
	evictAll(t, s)
	if n := len(left(s, all)); n != 0 {
		t.Fatalf("%d are left", n)
	}
	for i, f := range open {
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, all[i]) {
			t.Errorf("blob %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// A blob that is used while the sweep goes on is spared.
func TestEvictionSparesWhatIsUsedMeanwhile(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	all := aged(t, s, 1, 10*kib)
	list := s.capacity.everything(t)
	if len(list) != 1 {
		t.Fatal(list)
	}
	wantBlob(t, s, here, all[0])
	if done, err := s.capacity.evictOne(list[0]); done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	wantBlob(t, s, here, all[0])
	wantClean(t, s)
}

// What cannot fit even in an empty cache makes nothing go.
func TestNoRoom(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 100 * kib})
	all := aged(t, s, 5, 10*kib)
	if _, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 100*kib+1); !errors.Is(err, ErrNoRoom) {
		t.Errorf("larger than the cache: %v", err)
	}
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 45*kib)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 56*kib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("beside one that grows: %v", err)
	}
	unknown, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unknown.Claim(0, -1).Write(make([]byte, 56*kib)); !errors.Is(err, ErrNoRoom) {
		t.Errorf("of unknown length, beside one that grows: %v", err)
	}
	if n := len(left(s, all)); n != 5 {
		t.Errorf("%d of 5 are left", n)
	}
	b.Discard()
	unknown.Discard()
	wantClean(t, s)
}

// What cannot be deleted does not keep the rest.
func TestEvictionPassesOverWhatStays(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 100 * kib})
	all := aged(t, s, 9, 10*kib)
	fd, err := unix.Open(s.path(here, oci.DigestOf(all[0])), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }() // only for its flags
	const immutable = 0x10                // FS_IMMUTABLE_FL
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skip("cannot make a file immutable:", err)
	}
	defer func() {
		if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, 0); err != nil {
			t.Error(err)
		}
	}()
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 60*kib)
	if err != nil {
		t.Fatal(err)
	}
	b.Discard()
	if got := left(s, all); len(got) == 0 || got[0] != 0 || len(got) > 4 {
		t.Errorf("%v are left", got)
	}
	wantClean(t, s)
	if _, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 95*kib); err == nil || errors.Is(err, ErrNoRoom) {
		t.Errorf("nothing else can go, so it is the disk's trouble: %v", err)
	}
}

// min_free counts what the filesystem has left, and what is reserved on it but
// not written yet.
func TestMinFree(t *testing.T) {
	const mib = 1 << 20
	s := open(t, small(t, "size=16m"), Options{MinFree: 4 * mib})
	free := func() int64 { return s.disk.space(s.dir).free }
	all := aged(t, s, 8, mib)
	one, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 3*mib)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 4*mib)
	if err != nil {
		t.Fatal(err)
	}
	if got := free(); got < (4+3+4)*mib {
		t.Errorf("%d bytes are free, and 7 MiB will be written", got)
	}
	if got := left(s, all); len(got) == 0 || len(got) > 5 || got[len(got)-1] != 7 || got[0] != 8-len(got) {
		t.Errorf("%v are left", got)
	}
	for b, size := range map[*Blocks]int{one: 3 * mib, two: 4 * mib} {
		if _, err := b.Claim(0, int64(size)).Write(make([]byte, size)); err != nil {
			t.Error(err)
		}
	}
	if got := free(); got < 4*mib {
		t.Errorf("%d bytes are free", got)
	}
	n := len(left(s, all))
	if _, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 10*mib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("what cannot fit: %v", err)
	}
	if got := len(left(s, all)); got != n {
		t.Errorf("%d of %d went for it", n-got, n)
	}
	one.Discard()
	two.Discard()
	wantClean(t, s)
}

// Many at once, with too little room for all: each gets room or an error, and
// the limit holds all the time.
func TestRoomUnderPressure(t *testing.T) {
	const limit = 400 * kib
	s := open(t, ocitest.MemoryDir(t), Options{MaxSize: limit})
	stop := make(chan struct{})
	var workers, watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if u := s.Usage(); u.Bytes > limit {
					t.Errorf("%+v", u)
					return
				}
			}
		}
	})
	for w := range uint64(8) {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(w, 0))
			for i := range 40 {
				data := random(w*1000+uint64(i), 1+r.IntN(40*kib))
				b, err := grow(s, here, data)
				if err != nil {
					t.Error(fmt.Errorf("8 times 40 KiB fit: %w", err))
					return
				}
				if r.IntN(4) == 0 {
					b.Discard()
				} else if err := b.Publish(); err != nil {
					t.Error(err)
				}
				if f, _, err := s.OpenBlob(here, oci.DigestOf(data)); err == nil {
					got, err := io.ReadAll(f)
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
					}
					_ = f.Close() // only read from
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	watcher.Wait()
	wantClean(t, s)
}

// A registry can say any size. None is so large that the sums about it come out
// small.
func TestNoRoomForWhatCannotBe(t *testing.T) {
	for name, o := range map[string]Options{
		"no limit":      {},
		"a limit":       {MaxSize: 1 << 30},
		"the disk full": {MinFree: 1 << 45},
		"both":          {MaxSize: 1 << 30, MinFree: 1 << 45},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), o)
			for _, size := range []int64{math.MaxInt64, math.MaxInt64 - 1<<20, 1 << 62, 1 << 50} {
				b, err := s.NewBlocks(Account{}, here, oci.DigestOf([]byte("large")), size)
				if !errors.Is(err, ErrNoRoom) {
					t.Errorf("room for %d bytes: %v", size, err)
				}
				if b != nil {
					b.Discard()
				}
			}
			wantClean(t, s)
		})
	}
}

// What may be kept is bounded by the disk too, where that is less or where nothing else
// is said.
func TestStore_Room(t *testing.T) {
	total := (&disk{}).space(t.TempDir()).total
	for _, tc := range []struct{ maxSize, minFree, want int64 }{
		{1000, 0, 1000},
		{0, 0, total},
		{0, 4096, total - 4096},
		{2 * total, 0, total},
	} {
		s := open(t, t.TempDir(), Options{MaxSize: tc.maxSize, MinFree: tc.minFree})
		if got := s.capacity.room(s.disk.space(s.dir)); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

// What is held stays, also where it was used longest ago, but no more than its share.
func TestEviction_HeldStays(t *testing.T) {
	var held []oci.Digest
	s := open(t, t.TempDir(), Options{MaxSize: 100 * kib, Held: func(_ context.Context, keep func(string, oci.Digest)) {
		for _, d := range held {
			keep(here, d)
		}
	}})
	all := aged(t, s, 8, 10*kib)
	for i := range 4 { // more than the share, and one that is not here
		held = append(held, oci.DigestOf(all[i]), oci.DigestOf(fmt.Append(nil, i)))
	}
	room := func(n int64) {
		if _, err := s.capacity.evict(t.Context(), want{n: n}); err != nil {
			t.Fatal(err)
		}
	}
	room(80 * kib)
	if got := left(s, all); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("%v are left, want the first two", got)
	}
	held = nil
	room(100 * kib)
	if got := left(s, all); len(got) > 0 {
		t.Errorf("%v are left, and nothing is held", got)
	}
}
