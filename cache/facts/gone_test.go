package facts

import (
	"path/filepath"
	"testing"
	"time"
)

// What is gone is no member until somebody is shown it again, by an answer to a later
// question; also for the next process. Nobody's rights are touched.
func TestGone(t *testing.T) {
	clk, path := newClock(), filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{Now: clk.now})
	before := clk.now()
	f.Prove(acme, member, before)
	clk.move(time.Second)
	f.Gone(member)
	f.Prove(acme, member, before)
	wantMember(t, f, member, None)
	wantAccess(t, f, acme, Fresh)
	if f.Renew(member, clk.now()) || f.HadMember(member) {
		t.Error("it is renewed without being shown")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path, Options{Now: clk.now})
	wantMember(t, f, member, None)
	wantAccess(t, f, acme, Grace)
	clk.move(time.Second)
	f.Prove(acme, member, clk.now())
	wantMember(t, f, member, Fresh)
}
