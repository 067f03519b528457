package proof

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// doubting is a Proofs with one proof of acme's, and a way to start anew with the
// same file.
func doubting(t *testing.T, o Options) (f *Proofs, clk *ocitest.Clock, restart func() *Proofs) {
	t.Helper()
	clk = ocitest.NewClock()
	o.Now = clk.Now
	path := filepath.Join(t.TempDir(), "facts.db")
	open := func() *Proofs {
		f, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	f = open()
	f.Prove(acme, member, clk.Now())
	return f, clk, func() *Proofs {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = open()
		return f
	}
}

// wantAge is wantAccess, where what is within grace and what is recent are two things.
func wantAge(t testing.TB, f *Proofs, a Access, want Age) {
	t.Helper()
	if got, _ := f.Access(a); got != want {
		t.Fatalf("access is %s, want %s", ageNames[got], ageNames[want])
	}
}

// A proof in doubt counts for an hour after it was made, not for a day: in memory,
// after a restart, and whatever is heard or not heard afterwards. The next yes ends it.
func TestDoubt_EndsTheProofEarly(t *testing.T) {
	f, clk, restart := doubting(t, Options{})
	clk.Advance(10 * time.Minute)
	wantAge(t, f, acme, Recent)
	f.Doubt(acme)
	wantAge(t, f, acme, Recent)
	clk.Advance(49 * time.Minute)
	wantAge(t, f, acme, Recent)
	clk.Advance(time.Minute)
	wantAge(t, f, acme, None)
	if f.HadAccess(acme) {
		t.Error("what is kept after a deletion still goes out")
	}
	wantAge(t, restart(), acme, None)
	if f = restart(); f.HadAccess(acme) || f.Denied(acme) {
		t.Errorf("had access %v, denied %v", f.HadAccess(acme), f.Denied(acme))
	}
	f.Prove(acme, member, clk.Now())
	wantAge(t, f, acme, Fresh)
	clk.Advance(2 * time.Hour)
	wantAge(t, f, acme, Grace)
	wantAge(t, restart(), acme, Grace)
}

// What nobody has put in doubt has its whole grace, of which the first hour stands
// in for riddles too.
func TestDoubt_WithoutOne(t *testing.T) {
	f, clk, _ := doubting(t, Options{})
	for _, step := range []struct {
		after time.Duration
		want  Age
	}{{0, Fresh}, {5 * time.Minute, Recent}, {54 * time.Minute, Recent}, {time.Minute, Grace}, {22 * time.Hour, Grace}, {time.Hour, None}} {
		clk.Advance(step.after)
		wantAge(t, f, acme, step.want)
	}
	f.Doubt(acme)
	if f.Denied(acme) || f.HadAccess(acme) {
		t.Errorf("denied %v, had access %v", f.Denied(acme), f.HadAccess(acme))
	}
}

// A yes that was asked for before the doubt came is no later word: it renews the
// proof, and leaves the doubt.
func TestDoubt_OutlivesASlowYes(t *testing.T) {
	f, clk, restart := doubting(t, Options{})
	clk.Advance(10 * time.Minute)
	asked := clk.Now()
	clk.Advance(time.Second)
	f.Doubt(acme)
	clk.Advance(time.Second)
	f.Prove(acme, member, asked)
	wantAge(t, f, acme, Fresh)
	clk.Advance(time.Hour)
	wantAge(t, f, acme, None)
	wantAge(t, restart(), acme, None)
}

// With a doubt of nothing an answer that is not understood releases nothing, not
// even what was proven a moment ago; with one longer than grace, grace holds.
func TestDoubt_OtherTimes(t *testing.T) {
	f, clk, _ := doubting(t, Options{})
	strict, lax := f.For("", Times{Doubt: -1}), f.For("", Times{Doubt: 48 * time.Hour})
	f.Doubt(acme)
	wantAge(t, f, acme, Fresh)
	wantAge(t, strict, acme, None)
	clk.Advance(2 * time.Hour)
	wantAge(t, lax, acme, Recent)
	clk.Advance(22 * time.Hour)
	wantAge(t, lax, acme, None)
}

// The first doubt of a proof is in the file when Doubt returns, and the ones after
// it cost no write.
func TestDoubt_IsWrittenOnce(t *testing.T) {
	f, clk, _ := doubting(t, Options{})
	if err := f.disk.flush(); err != nil {
		t.Fatal(err)
	}
	f.Doubt(acme)
	if f.disk.unwritten(accessBucket, acme.key()) {
		t.Error("the doubt waits to be written")
	}
	if w, ok := decodeRecord(f.disk.get(accessBucket, acme.key())); !ok || w.doubted.IsZero() || !w.proven() {
		t.Errorf("in the file: %+v", w)
	}
	clk.Advance(time.Second)
	f.Doubt(acme)
	if f.disk.unwritten(accessBucket, acme.key()) {
		t.Error("a second doubt is written")
	}
}

// A denial ends what was in doubt, and forgetting an organisation too.
func TestDoubt_GivesWay(t *testing.T) {
	f, clk, _ := doubting(t, Options{})
	f.Doubt(acme)
	f.Deny(acme)
	wantAge(t, f, acme, None)
	if !f.Denied(acme) {
		t.Error("not denied")
	}
	clk.Advance(time.Second)
	f.Prove(acme, member, clk.Now())
	f.Doubt(acme)
	clk.Advance(time.Second)
	if err := f.Forget(acme.Principal.Organisation); err != nil {
		t.Fatal(err)
	}
	if f.HadAccess(acme) || f.disk.get(accessBucket, acme.key()) != nil {
		t.Error("something is left")
	}
}

// Where proofs wait in such numbers that more of them are dropped, a doubt is not.
func TestDoubt_IsNeverDropped(t *testing.T) {
	f, clk, restart := doubting(t, Options{})
	if err := f.disk.flush(); err != nil {
		t.Fatal(err)
	}
	f.disk.mu.Lock()
	for i := range maxPending {
		f.disk.pending[pendingKey{memberBucket, fmt.Sprint(i)}] = record{at: clk.Now()}.encode()
	}
	f.disk.mu.Unlock()
	f.Doubt(acme)
	clk.Advance(2 * time.Hour)
	wantAge(t, restart(), acme, None)
}

// After the clock was set back, a doubt from the future does not outlast the yes that
// comes next.
func TestDoubt_FromTheFuture(t *testing.T) {
	f, clk, restart := doubting(t, Options{})
	clk.Advance(3 * time.Hour)
	f.Prove(acme, member, clk.Now())
	f.Doubt(acme)
	clk.Advance(-2 * time.Hour)
	f = restart()
	f.Prove(acme, member, clk.Now())
	clk.Advance(4 * time.Hour)
	wantAge(t, f, acme, Grace)
}
