package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// count2 counts again, as a sweep does.
func (c *capacity) count2(t tb) {
	t.Helper()
	c.evicting.Lock()
	defer c.evicting.Unlock()
	if err := c.walk(context.Background(), func(entry) {}); err != nil {
		t.Fatal(err)
	}
}

// everything is all blobs that a survey sees.
func (c *capacity) everything(t tb) (all []entry) {
	t.Helper()
	c.evicting.Lock()
	defer c.evicting.Unlock()
	if err := c.walk(context.Background(), func(e entry) { all = append(all, e) }); err != nil {
		t.Fatal(err)
	}
	return all
}

// The sweeper keeps a margin, so that reservations find room and do not wait.
func TestTheSweeperKeepsAMargin(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, Options{MaxSize: 1000 * kib})
		for i := range 200 {
			keep(t, s, here, random(uint64(i), 10*kib))
			time.Sleep(2 * sweepRest)
			synctest.Wait()
			if u := s.Usage(); u.Bytes > (1000-10)*kib {
				t.Fatalf("after %d blobs: %+v", i, u)
			}
		}
		if u := s.Usage(); u.Bytes < 900*kib || u.Evicted < 90 || u.Evicted > 110 {
			t.Errorf("%+v", u)
		}
		closeStore(t, s)
	})
}

// A cache that is over its limit at the start, since the limit is new, comes
// down to it without being asked.
func TestTheSweeperEnforcesANewLimit(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	all := aged(t, s, 10, 10*kib)
	closeStore(t, s)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, Options{MaxSize: 50 * kib})
		synctest.Wait()
		if got, want := left(s, all), []int{6, 7, 8, 9}; !slices.Equal(got, want) {
			t.Errorf("%v are left, want %v", got, want)
		}
		closeStore(t, s)
	})
}

// Nothing that is published or removed while the folder is counted is counted
// twice, or not at all.
func TestChangesDuringTheCount(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	s := open(t, dir, Options{})
	for i := range 300 {
		keep(t, s, here, random(uint64(i), 100+i))
	}
	closeStore(t, s)
	for round := range uint64(8) {
		s, err := Open(dir, Options{}) // which begins to count
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for w := range uint64(4) {
			all.Go(func() {
				r := rand.New(rand.NewPCG(round, w))
				for range 40 {
					i := 4*r.Uint64N(75) + w // each has blobs of its own
					data := random(i, 100+int(i))
					if _, ok := s.has(here, oci.DigestOf(data)); ok && r.IntN(3) > 0 {
						if err := s.removeBlob(here, oci.DigestOf(data)); err != nil {
							t.Error(err)
						}
						continue
					}
					b, err := grow(s, here, data)
					if err == nil {
						err = b.Publish()
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Go(func() { // and again, as a sweep does
			<-s.capacity.counted
			for range 3 {
				s.capacity.count2(t)
			}
		})
		all.Wait()
		wantClean(t, s)
		closeStore(t, s)
	}
}

// What somebody else deletes is noticed with the next count.
func TestDeletedByOthers(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 100 * kib})
	all := aged(t, s, 9, 10*kib)
	for _, data := range all[2:] {
		if err := os.Remove(s.path(here, oci.DigestOf(data))); err != nil {
			t.Fatal(err)
		}
	}
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 60*kib)
	if err != nil {
		t.Fatal(err)
	}
	b.Discard()
	if got := left(s, all); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("%v are left: they had not to go", got)
	}
	wantClean(t, s)
}

// A folder that cannot be read is passed over.
func TestCountPassesOverWhatItCannotRead(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 1000)
	keep(t, s, here, data)
	keep(t, s, there, random(2, 1000))
	if err := os.Chmod(filepath.Dir(s.path(here, d)), 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, s.dir, func() {
		if list := s.capacity.everything(t); len(list) != 1 {
			t.Errorf("%d entries", len(list))
		}
	})
}

// What is fetched right after a start finds a limit that counts what is there.
func TestTheLimitHoldsFromTheStart(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	s := open(t, dir, Options{})
	for i := range 400 {
		keep(t, s, here, random(uint64(i), kib))
	}
	closeStore(t, s)
	for range 5 {
		s, err := Open(dir, Options{MaxSize: 500 * kib})
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 200*kib)
		if err != nil {
			t.Fatal(err)
		}
		if kept, _ := onDisk(t, s); kept > 300*kib {
			t.Errorf("%d bytes are kept, and 200 KiB reserved", kept)
		}
		b.Discard()
		closeStore(t, s)
		s = open(t, dir, Options{})
		for i := range 400 {
			keep(t, s, here, random(uint64(i), kib))
		}
		closeStore(t, s)
	}
}

// Close ends a count and a sweep that are under way.
func TestCloseDuringTheCount(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	s := open(t, dir, Options{})
	for i := range 100 {
		keep(t, s, here, random(uint64(i), 10))
	}
	closeStore(t, s)
	for range 20 {
		s, err := Open(dir, Options{MaxSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
	}
}

// While a large folder is counted nobody waits for long, and nobody for each piece of
// what comes without a length.
func TestNobodyWaitsLongForTheCount(t *testing.T) {
	whileCounting(t, Options{MaxSize: 1 << 30}, func(s *Store) {
		start := time.Now()
		data := random(7, 300<<10)
		b, err := s.NewBlocks(Account{}, here, oci.DigestOf(data), -1)
		if err != nil {
			t.Fatal(err)
		}
		run := b.Claim(0, -1)
		for p := range slices.Chunk(data, 30<<10) {
			if _, err := run.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		run.Release()
		if took := time.Since(start); took > countWait {
			t.Errorf("it took %v", took)
		}
		b.Discard()
	})
}

// What has no room before it is known what could go, goes past the disk.
func TestNoRoomWhileCounting(t *testing.T) {
	whileCounting(t, Options{MaxSize: 1 << 30, MinFree: 1 << 50}, func(s *Store) {
		ended := make(chan error)
		go func() {
			_, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 1000)
			ended <- err
		}()
		select {
		case err := <-ended:
			if !errors.Is(err, ErrNoRoom) {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("it waits for the count")
		}
	})
}

// whileCounting runs f in a bubble, with a store whose first count takes long.
func whileCounting(t *testing.T, o Options, f func(s *Store)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var opened atomic.Bool
		o.Fault = func(op Op, path string) error {
			switch {
			case op != OpList:
			case filepath.Base(path) == "tmp":
				opened.Store(true) // it is the last that Open itself lists
			case opened.Load():
				<-gate
			}
			return nil
		}
		s, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		f(s)
		close(gate)
		synctest.Wait()
		closeStore(t, s)
	})
}
