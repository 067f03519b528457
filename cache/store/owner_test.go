package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// keptFor keeps n blobs of size bytes for organisation, each used when it came.
func keptFor(t *testing.T, s *Store, organisation string, n, size int) (all []oci.Digest) {
	t.Helper()
	for i := range n {
		data := append(random(uint64(i), size), organisation...)
		d := oci.DigestOf(data)
		if err := s.Put(organisation, here, d, data); err != nil {
			t.Fatalf("%s's blob %d: %v", organisation, i, err)
		}
		all = append(all, d)
	}
	return all
}

func present(s *Store, all []oci.Digest) (n int) {
	for _, d := range all {
		if _, ok := s.has(here, d); ok {
			n++
		}
	}
	return n
}

// lastUsed is as if the blobs had been used last a while ago.
func lastUsed(t *testing.T, s *Store, all []oci.Digest, ago time.Duration) {
	t.Helper()
	for i, d := range all {
		info, err := os.Stat(s.path(here, d))
		if err != nil {
			t.Fatal(err)
		}
		at := markedBy(info.ModTime()).mark(time.Now().Add(time.Duration(i)*time.Second - ago))
		if err := os.Chtimes(s.path(here, d), at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever brings the same bytes from a registry of his own does not take over another's
// copies, which would go with what he fetches then. One organisation's are one file.
func TestEviction_SameBytesFromElsewhere(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{MaxSize: 1000 * kib})
	acme := keptFor(t, s, "acme", 30, 10*kib)
	lastUsed(t, s, acme, time.Hour)
	for _, other := range []string{"globex", "acme"} {
		for i, d := range acme[:15] {
			if err := s.Put(other, there, d, append(random(uint64(i), 10*kib), "acme"...)); err != nil {
				t.Fatal(err)
			}
			a, b := stat(t, s.path(here, d)), stat(t, s.path(there, d))
			if shared := a.Ino == b.Ino; shared != (other == "acme") {
				t.Fatalf("kept for acme and for %s in one file: %v", other, shared)
			}
		}
	}
	for i, d := range acme {
		if err := s.Put("globex", there, d, append(random(uint64(i), 10*kib), "acme"...)); err != nil {
			t.Fatal(err)
		}
	}
	keptFor(t, s, "globex", 300, 10*kib)
	if n := present(s, acme); n != len(acme) {
		t.Errorf("%d of acme's %d are left", n, len(acme))
	}
}

// Origins that have delivered something are looked at for those alone to whom they have, and
// not at all of them for those: an organisation can bring thousands.
func TestStore_LooksAtFewOriginsForTheSameBytes(t *testing.T) {
	var looked atomic.Int64
	o := Options{Fault: func(op Op, path string) error {
		if op == OpOpen && strings.Contains(path, "/blobs/") {
			looked.Add(1)
		}
		return nil
	}}
	s := open(t, ocitest.MemoryDir(t), o)
	put := func(organisation, origin, text string) int64 {
		t.Helper()
		before := looked.Load()
		if err := s.Put(organisation, origin, oci.DigestOf([]byte(text)), []byte(text)); err != nil {
			t.Fatal(err)
		}
		return looked.Load() - before
	}
	put("acme", here, "of both")
	for i := range 2 * mostOrigins {
		put("globex", fmt.Sprint("https_r", i, ".example"), "an image")
	}
	for range 2 {
		put("acme", there, "of both")
		d := oci.DigestOf([]byte("of both"))
		if a, b := stat(t, s.path(here, d)), stat(t, s.path(there, d)); a.Ino != b.Ino {
			t.Error("the same bytes for one organisation are two files")
		}
		const folders = 4 // those of the blob itself are opened too
		if n := put("acme", here, "another"); n > folders {
			t.Errorf("acme's is looked for %d times, and it has had two origins", n)
		}
		if n := put("globex", there, "another"); n > mostOrigins+folders {
			t.Errorf("globex' is looked for %d times", n)
		}
		closeStore(t, s)
		if err := os.Remove(s.path(there, d)); err != nil {
			t.Fatal(err)
		}
		s = open(t, s.dir, o) // what was there is found again
		s.capacity.settle(t)
	}
}

// Whoever fetches more and more loses his own, and not what others have used in the
// last week, although that was before. It is the same after a restart.
func TestEviction_LargestGivesWay(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{MaxSize: 1000 * kib})
	acme := keptFor(t, s, "acme", 30, 10*kib)
	lastUsed(t, s, acme, 6*24*time.Hour)
	for range 2 {
		keptFor(t, s, "globex", 200, 10*kib)
		if n := present(s, acme); n != 30 {
			t.Errorf("%d of acme's 30 blobs are left", n)
		}
		closeStore(t, s)
		s = open(t, s.dir, Options{MaxSize: 1000 * kib})
	}
	// A third one gets its share from whoever has the most.
	initech := keptFor(t, s, "initech", 30, 10*kib)
	if a, i := present(s, acme), present(s, initech); a != 30 || i != 30 {
		t.Errorf("%d of acme's and %d of initech's blobs are left", a, i)
	}
	// What nobody has used for a week is nobody's: it goes first.
	lastUsed(t, s, acme, ownFor+time.Hour)
	keptFor(t, s, "globex", 200, 10*kib)
	if n := present(s, acme); n > 0 {
		t.Errorf("%d of acme's blobs are left, and nobody has used them for a week", n)
	}
	wantClean(t, s)
}

// Many tiny blobs use up what a filesystem has of files, and not of bytes: then it is
// those that are counted.
func TestEviction_LargestGivesWay_Files(t *testing.T) {
	s := open(t, small(t, "size=16m,nr_inodes=1000"), Options{MaxSize: 8 << 20})
	acme := keptFor(t, s, "acme", 20, 100*kib)
	lastUsed(t, s, acme, time.Hour)
	for i := range 1500 {
		data := fmt.Appendf(nil, "globex %d", i)
		if err := s.Put("globex", here, oci.DigestOf(data), data); err != nil && !errors.Is(err, ErrNoRoom) {
			t.Fatal(err)
		}
	}
	if n := present(s, acme); n != 20 {
		t.Errorf("%d of acme's 20 blobs are left", n)
	}
	if _, ok := s.has(here, oci.DigestOf([]byte("globex 1499"))); !ok {
		t.Error("globex' last one was not kept, although its others could go")
	}
}

// What is only promised takes nothing from others beyond a share: neither at once, nor
// little by little by the margin that the sweeper makes.
func TestEviction_PromisesTakeNothing(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{MaxSize: 1000 * kib})
	acme := keptFor(t, s, "acme", 90, 10*kib)
	d := oci.DigestOf(nil)
	var all []*Blocks
	for _, size := range []int64{600 * kib, 30 * kib, 30 * kib, 30 * kib, 30 * kib, 30 * kib, 30 * kib, 30 * kib, 30 * kib, 30 * kib} {
		b, err := s.NewBlocks(Account{Organisation: "globex"}, there, d, size)
		switch {
		case err == nil:
			all = append(all, b)
		case !errors.Is(err, ErrNoRoom):
			t.Fatal(err)
		}
		s.capacity.settle(t)
	}
	if n := present(s, acme); n < 90-(125+50)/10-1 { // the share, and the margin
		t.Errorf("%d of acme's 90 blobs are left for bytes that have not come", n)
	}
	if len(all) == 0 || len(all) > 4 {
		t.Errorf("%d downloads were let in", len(all))
	}
	for _, b := range all {
		b.Discard()
	}
	if b, err := s.NewBlocks(Account{Organisation: "acme"}, there, d, 600*kib); err != nil {
		t.Errorf("acme itself, of its own: %v", err)
	} else {
		b.Discard()
	}
	wantClean(t, s)
}

// Of what is left of downloads, too, the largest owner's goes first.
func TestEviction_LargestGivesWay_Partials(t *testing.T) {
	s := open(t, ocitest.MemoryDir(t), Options{MaxSize: 64 << 20})
	park := func(organisation string, seed uint64) oci.Digest {
		data := random(seed, 5*BlockSize)
		d := oci.DigestOf(data)
		b, err := s.NewBlocks(Account{Organisation: organisation}, here, d, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		r := b.Claim(0, int64(len(data)))
		if _, err := r.Write(data[:4*BlockSize]); err != nil {
			t.Fatal(err)
		}
		r.Release()
		b.Park()
		b.Fail(ErrDiscarded)
		return d
	}
	acme := park("acme", 1)
	for i := range 30 {
		park("globex", uint64(2+i))
		if s.capacity.short(5*BlockSize) > 0 {
			s.capacity.dropPartials(5 * BlockSize)
		}
	}
	if s.capacity.takePartial(partialKey{blobKey: blobKey{here, acme}}) == nil {
		t.Error("what was left of acme's download had to go for globex'")
	}
}

// A reservation never walks through the folder by itself, and does not wait for long
// for the one who does.
func TestReserve_WaitsForTheSweeper(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		var stuck atomic.Bool
		free := make(chan struct{})
		s := open(t, dir, Options{MaxSize: 100 * kib, Fault: func(op Op, _ string) error {
			if op == OpList && stuck.Load() {
				<-free
			}
			return nil
		}})
		keptFor(t, s, "acme", 9, 10*kib)
		time.Sleep(vainRest)
		synctest.Wait()
		stuck.Store(true)
		begun := time.Now()
		_, err := s.NewBlocks(Account{Organisation: "acme"}, there, oci.DigestOf(nil), 50*kib)
		if no, ok := errors.AsType[*NoRoom](err); !ok || no.Lack != LackBusy {
			t.Errorf("while the folder cannot be listed: %v", err)
		}
		if took := time.Since(begun); took != evictWait {
			t.Errorf("it took %s", took)
		}
		stuck.Store(false)
		close(free)
		b, err := s.NewBlocks(Account{Organisation: "acme"}, there, oci.DigestOf(nil), 50*kib)
		if err != nil {
			t.Fatalf("when it can be: %v", err)
		}
		b.Discard()
		closeStore(t, s)
	})
}

// Whoever is alone may have all of the cache, also for one blob, whatever times the
// kernel has given to the files.
func TestOwner_Alone(t *testing.T) {
	for o := range owner(owners) {
		if got := markedBy(o.mark(time.Now())); got != o {
			t.Fatalf("%d became %d", o, got)
		}
	}
	s := open(t, ocitest.MemoryDir(t), Options{MaxSize: 1000 * kib})
	for _, organisation := range []string{"", "acme"} {
		keptFor(t, s, organisation, 50, 10*kib)
		all := s.capacity.everything(t)
		for _, e := range all {
			if got := markedBy(e.used); e.used.After(time.Now().Add(-time.Minute)) && got != 0 && got != s.owner("acme") {
				t.Errorf("%s is %d's", e.path, got)
			}
		}
		if organisation == "" {
			b, err := s.NewBlocks(Account{}, there, oci.DigestOf(nil), 1000*kib)
			if err != nil {
				t.Fatal(err)
			}
			b.Discard()
		}
	}
}

// Whoever finds a name that a plain hash takes for another's has gained nothing.
func TestEviction_NobodyChoosesWhoseHeIs(t *testing.T) {
	plain := open(t, ocitest.MemoryDir(t), Options{})
	twin := ""
	for i := 0; plain.owner(twin) != plain.owner("acme"); i++ {
		twin = fmt.Sprint("twin-", i)
	}
	number := map[string]uint64{"acme": 7, twin: 8}
	s := open(t, ocitest.MemoryDir(t), Options{MaxSize: 1000 * kib, Owner: func(organisation string) uint64 { return number[organisation] }})
	acme := keptFor(t, s, "acme", 30, 10*kib)
	lastUsed(t, s, acme, time.Hour)
	keptFor(t, s, twin, 200, 10*kib)
	if n := present(s, acme); n != 30 {
		t.Errorf("%d of acme's 30 blobs are left", n)
	}
}

// Tiny blobs count with what they take of the disk: whoever keeps many of them pushes out
// his own, and no more of them are kept than have blocks within the limit.
func TestEviction_TinyBlobs(t *testing.T) {
	for name, o := range map[string]Options{"limit": {MaxSize: 3 << 20}, "disk": {MaxSize: 1 << 30, MinFree: 3 << 20}} {
		t.Run(name, func(t *testing.T) {
			s := open(t, small(t, "size=6m"), o)
			acme := keptFor(t, s, "acme", 4, 100*kib)
			lastUsed(t, s, acme, time.Hour)
			for i := range 1100 {
				data := fmt.Appendf(nil, "globex %d", i)
				if err := s.Put("globex", here, oci.DigestOf(data), data); err != nil && !errors.Is(err, ErrNoRoom) {
					t.Fatal(err)
				}
			}
			s.capacity.settle(t)
			if n := present(s, acme); n != 4 {
				t.Errorf("%d of acme's 4 blobs are left", n)
			}
			if n := s.Usage().Blobs; n > (3<<20)/block+4 {
				t.Errorf("%d blobs are kept, and take %d bytes", n, n*block)
			}
		})
	}
}
