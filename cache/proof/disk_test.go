package proof

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"berth/internal/ocitest"
	"berth/oci"
)

// Proofs are in the file a second later; denials before Deny returns.
func TestWhenThingsAreWritten(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "facts.db")
		f := open(t, path, Options{})
		crashed := func() *Proofs {
			t.Helper()
			return open(t, copyFile(t, path), Options{})
		}
		f.Prove(acme, member, time.Now())
		f.SetTag(latest, Tag{Digest: digestA, Asked: time.Now()})
		wantAccess(t, crashed(), acme, None)
		time.Sleep(1001 * time.Millisecond)
		synctest.Wait()
		after := crashed()
		wantAccess(t, after, acme, Grace)
		wantMember(t, after, member, Fresh)
		wantTag(t, after, latest, digestA, Grace)
		f.Deny(acme)
		after = crashed()
		wantAccess(t, after, acme, None)
		if !after.Denied(acme) {
			t.Error("no denial")
		}
	})
}

// A denial about nothing that was proven is not worth a write: anybody may ask
// for anything.
func TestAStrangersDenialIsNotWritten(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "facts.db"), Options{})
	before := writes(t, f)
	for i := range 100 {
		a := acme
		a.Repo = fmt.Sprint(i)
		f.Deny(a)
		f.DropTag(TagKey{Repo: a.Repo})
	}
	if n := writes(t, f) - before; n != 0 || len(f.disk.pending) != 0 {
		t.Errorf("%d writes, %d pending", n, len(f.disk.pending))
	}
	f.Prove(acme, member, time.Now())
	f.Deny(acme)
	f.Deny(acme)
	if n := writes(t, f) - before; n != 1 {
		t.Errorf("%d writes for a proof and two denials, want 1", n)
	}
}

// writes is how many transactions have been committed.
func writes(t *testing.T, f *Proofs) (n int) {
	t.Helper()
	err := f.disk.db.View(func(tx *bbolt.Tx) error {
		n = tx.ID()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A second denial may find the first one on its way to the disk, and must not
// answer before it is there.
func TestASecondDenialWaitsForTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{})
	f.Prove(acme, member, time.Now())
	if err := f.disk.flush(); err != nil {
		t.Fatal(err)
	}
	// The first one has come as far as memory.
	f.denyInMemory(acme, false)
	f.Deny(acme)
	wantAccess(t, open(t, copyFile(t, path), Options{}), acme, None)
	// And as far as the commit.
	f.Prove(acme, member, time.Now())
	if err := f.disk.flush(); err != nil {
		t.Fatal(err)
	}
	f.disk.writing.Lock()
	f.denyInMemory(acme, false)
	f.disk.take()
	second := make(chan struct{})
	go func() {
		defer close(second)
		f.Deny(acme)
	}()
	for { // until it waits: it has queued again
		f.disk.mu.Lock()
		queued := len(f.disk.pending) > 0
		f.disk.mu.Unlock()
		if queued {
			break
		}
		runtime.Gosched()
	}
	select {
	case <-second:
		t.Error("it did not wait for the commit that is under way")
	default:
	}
	f.disk.written(true) // which loses it
	f.disk.writing.Unlock()
	<-second
	wantAccess(t, open(t, copyFile(t, path), Options{}), acme, None)
}

// A write that fails takes nothing with it: neither denials nor proofs.
func TestAFailedWriteIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "facts.db")
		var log bytes.Buffer
		f := open(t, path, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		synctest.Wait() // the sweep at the start is over
		f.Prove(acme, member, time.Now())
		if err := f.disk.flush(); err != nil {
			t.Fatal(err)
		}
		other := acme
		other.Repo = "acme/other"
		f.disk.writing.Lock() // the ticker stays out
		good := f.disk.db
		f.disk.db = readOnly(t, path)
		f.disk.writing.Unlock()
		f.Prove(other, member, time.Now())
		f.Deny(acme)
		f.Deny(acme)
		for range 3 {
			if f.disk.flush() == nil {
				t.Fatal("the write did not fail")
			}
		}
		wantAccess(t, f, acme, None)
		f.Prove(other, member, time.Now()) // newer than what failed
		_, at := f.Access(other)
		f.disk.writing.Lock()
		if err := f.disk.db.Close(); err != nil {
			t.Error(err)
		}
		f.disk.db = good
		f.disk.writing.Unlock()
		closeFacts(t, f)
		if n := strings.Count(log.String(), "cannot be written"); n != 1 {
			t.Errorf("the trouble was logged %d times:\n%s", n, &log)
		}
		if !strings.Contains(log.String(), "a denial is not on disk") {
			t.Errorf("nothing about the denial:\n%s", &log)
		}

		f = open(t, path, Options{})
		wantAccess(t, f, acme, None)
		if !f.Denied(acme) {
			t.Error("the denial was lost")
		}
		if _, stored := f.Access(other); !stored.Equal(at.Round(0)) {
			t.Errorf("an older proof was written over a newer one: %v, want %v", stored, at)
		}
	})
}

// readOnly opens a copy of the file at path so that writing to it fails.
func readOnly(t *testing.T, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(copyFile(t, path), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func copyFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.CreateTemp(filepath.Dir(path), "copy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}

// What waits for the next write is bounded, and shared out; denials are written even so.
func TestPendingIsBounded(t *testing.T) {
	path := filepath.Join(ocitest.MemoryDir(t), "facts.db")
	f := open(t, path, Options{})
	f.Prove(acme, member, time.Now())
	if err := f.disk.flush(); err != nil {
		t.Fatal(err)
	}
	f.disk.writing.Lock() // the disk is slow
	for i := range maxPending + 1000 {
		f.disk.enqueue("acme", tagBucket, fmt.Append(nil, i), []byte("x"))
	}
	f.disk.enqueue("acme", tagBucket, fmt.Append(nil, 0), []byte("newer"))
	if n := len(f.disk.pending); n != maxPending/2 {
		t.Errorf("%d pending", n)
	}
	for i := range maxPending {
		f.disk.enqueue("globex", tagBucket, fmt.Append(nil, "globex ", i), []byte("x"))
	}
	if n := len(f.disk.pending); n != maxPending/4*3 {
		t.Errorf("%d pending with globex' own", n)
	}
	if v, _ := f.disk.waiting(tagBucket, []byte("0")); string(v) != "newer" {
		t.Errorf("what is queued stays at %q", v)
	}
	f.denyInMemory(acme, false)
	f.disk.writing.Unlock()
	closeFacts(t, f)
	f = open(t, path, Options{})
	wantAccess(t, f, acme, None)
}

// One record that bbolt cannot take must not keep the others from the file.
func TestARecordThatIsTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{})
	f.Prove(acme, member, time.Now())
	f.Prove(Access{Repo: strings.Repeat("x", bbolt.MaxKeySize+1)}, Member{Repo: strings.Repeat("x", bbolt.MaxKeySize+1)}, time.Now())
	f.SetTag(latest, Tag{Digest: digestA, MediaType: strings.Repeat("x", 1<<20), Asked: time.Now()})
	closeFacts(t, f)
	f = open(t, path, Options{})
	wantAccess(t, f, acme, Grace)
	wantTag(t, f, latest, "", None)
}

// Proofs that nothing used for 30 days go, at the start and once a day, and so do
// those that no clock can have written and those that cannot be read.
func TestSweep(t *testing.T) {
	const n = sweepStep + 100
	dir := ocitest.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "facts.db")
		f := open(t, path, Options{})
		prove := func(name string, i int) {
			a, m, k := acme, member, latest
			a.Repo = fmt.Sprint(name, i)
			m.Repo, k.Repo = a.Repo, a.Repo
			f.Prove(a, m, time.Now())
			f.SetTag(k, Tag{Digest: digestA, Asked: time.Now()})
		}
		for i := range n {
			prove("old", i)
		}
		f.Deny(Access{Origin: acme.Origin, Principal: acme.Principal, Repo: "old0"})
		time.Sleep(unusedFor - 10*time.Second)
		for i := range n {
			prove("new", i)
		}
		f.disk.enqueue("acme", memberBucket, []byte("junk"), []byte("junk"))
		f.disk.enqueue("acme", accessBucket, []byte("future"), record{at: time.Now().Add(2 * unusedFor)}.encode())
		f.disk.enqueue("acme", tagBucket, []byte("junk"), []byte("{"))
		closeFacts(t, f)
		if got := count(t, path); got != [3]int{2*n + 1, 2*n + 1, 2*n + 1} {
			t.Fatalf("before: %v", got)
		}

		f = open(t, path, Options{})
		synctest.Wait() // the sweep at the start: nothing is too old yet
		closeFacts(t, f)
		if got := count(t, path); got != [3]int{2 * n, 2 * n, 2 * n} {
			t.Fatalf("after the first sweep: %v", got)
		}

		time.Sleep(20 * time.Second)
		f = open(t, path, Options{})
		synctest.Wait()
		closeFacts(t, f)
		if got := count(t, path); got != [3]int{n, n, n} {
			t.Fatalf("after 30 days: %v", got)
		}

		f = open(t, path, Options{})
		prove("new", 7)
		time.Sleep(unusedFor + sweepEvery)
		synctest.Wait()
		closeFacts(t, f)
		if got := count(t, path); got != [3]int{} {
			t.Fatalf("after 30 days of running: %v", got)
		}
	})
}

// Renewed between the look and the deletion: it stays.
func TestSweepSparesWhatIsRenewedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clk := ocitest.NewClock()
		path := filepath.Join(t.TempDir(), "facts.db")
		f := open(t, path, Options{Now: clk.Now})
		f.Prove(acme, member, clk.Now())
		closeFacts(t, f)

		var renew func()
		f = open(t, path, Options{Now: func() time.Time {
			if r := renew; r != nil {
				renew = nil
				r()
			}
			return clk.Now()
		}})
		synctest.Wait() // the sweep at the start is over
		clk.Advance(31 * 24 * time.Hour)
		f.Prove(acme, member, clk.Now())
		f.disk.writing.Lock() // the ticker stays out, and what follows is alone
		defer f.disk.writing.Unlock()
		renew = func() { // the sweep has begun to read
			batch := f.disk.take()
			if err := f.disk.db.Update(func(tx *bbolt.Tx) error { return putAll(tx, batch) }); err != nil {
				t.Error(err)
			}
			f.disk.written(true)
		}
		f.disk.sweep(nil)
		if renew != nil {
			t.Error("the sweep never looked at the clock")
		}
		if v := f.disk.get(accessBucket, acme.key()); v == nil {
			t.Error("it is gone")
		}
	})
}

// What was queued while a write failed is newer than what failed.
func TestAFailedWriteDoesNotOverwriteNewerWords(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "facts.db"), Options{})
	f.disk.writing.Lock()
	defer f.disk.writing.Unlock()
	f.disk.enqueue("acme", accessBucket, []byte("twice"), []byte("old"))
	f.disk.enqueue("acme", accessBucket, []byte("once"), []byte("old"))
	f.disk.take()
	f.disk.enqueue("acme", accessBucket, []byte("twice"), []byte("new"))
	f.disk.written(false)
	for key, want := range map[string]string{"twice": "new", "once": "old"} {
		if v, _ := f.disk.waiting(accessBucket, []byte(key)); string(v) != want {
			t.Errorf("%s is %q, want %q", key, v, want)
		}
	}
}

// count gives the number of records in each bucket.
func count(t *testing.T, path string) (n [3]int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	err = db.View(func(tx *bbolt.Tx) error {
		for i, b := range factBuckets {
			n[i] = tx.Bucket([]byte(b)).Stats().KeyN
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCloseTwice(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "facts.db"), Options{})
	closeFacts(t, f)
	closeFacts(t, f)
	// Whoever is late gets answers from memory, and no panic.
	f.Prove(acme, member, time.Now())
	wantAccess(t, f, acme, Fresh)
	f.Deny(acme)
	wantAccess(t, f, acme, None)
}

func TestKeysNeverCollide(t *testing.T) {
	part := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\x00", "a", "b", "a\x00b", "\x01a", "a\x01", strings.Repeat("x", 127), strings.Repeat("x", 128)}))
	parts := rapid.SliceOfN(part, 1, 5)
	rapid.Check(t, func(t *rapid.T) {
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		if fmt.Sprintf("%q", a) != fmt.Sprintf("%q", b) && bytes.Equal(join(a...), join(b...)) {
			t.Fatalf("%q and %q have one key", a, b)
		}
	})
}

func FuzzKeysNeverCollide(f *testing.F) {
	f.Add("o", "a", "f", "r", "t", "o", "a", "f", "r", "t")
	f.Add("o", "a\x00", "f", "r", "t", "o", "a", "\x00f", "r", "t")
	f.Add("", "ab", "", "r", "", "", "a", "b", "r", "")
	f.Fuzz(func(t *testing.T, o1, g1, f1, r1, t1, o2, g2, f2, r2, t2 string) {
		a1, a2 := Access{o1, oci.Principal{Organisation: g1, Fingerprint: f1}, r1, oci.Digest(t1)}, Access{o2, oci.Principal{Organisation: g2, Fingerprint: f2}, r2, oci.Digest(t2)}
		if (a1 == a2) != bytes.Equal(a1.key(), a2.key()) {
			t.Errorf("%+v, %+v", a1, a2)
		}
		m1, m2 := Member{o1, r1, oci.Manifest, oci.Digest(t1)}, Member{o2, r2, oci.Blob, oci.Digest(t2)}
		if bytes.Equal(m1.key(), m2.key()) {
			t.Errorf("%+v, %+v", m1, m2)
		}
		k1, k2 := TagKey{o1, a1.Principal, r1, t1}, TagKey{o2, a2.Principal, r2, t2}
		if (k1 == k2) != bytes.Equal(k1.key(), k2.key()) {
			t.Errorf("%+v, %+v", k1, k2)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(record{at: time.Unix(1, 2)}.encode())
	f.Add(record{at: time.Unix(1, 2), denied: true}.encode())
	f.Add(record{at: time.Unix(1, 2), denied: true, credential: true}.encode())
	f.Add(Tag{MediaType: "m", Digest: digestA, Size: 5, Asked: time.Unix(3, 4)}.encode())
	f.Add([]byte(`{"digest":"sha256:../../x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, ok := decodeRecord(b); ok && !bytes.Equal(w.encode(), b) || !ok && w != (record{}) {
			t.Errorf("%q is %+v, %v", b, w, ok)
		}
		tag, ok := decodeTag(b)
		if again, _ := decodeTag(tag.encode()); ok && (again != tag || !tag.restored) {
			t.Errorf("%q is %+v and then %+v", b, tag, again)
		}
		if _, err := oci.ParseDigest(tag.Digest.String()); ok && err != nil {
			t.Error(err)
		}
	})
}
