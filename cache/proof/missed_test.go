package proof

import (
	"path/filepath"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// What somebody was told is not there is a member within grace until somebody is shown
// it again, by an answer to a later question; also for the next process. Nobody's
// rights are touched.
func TestMissed(t *testing.T) {
	clk, path := ocitest.NewClock(), filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{Now: clk.Now})
	before := clk.Now()
	f.Prove(acme, member, before)
	wantMember(t, f, member, Fresh)
	clk.Advance(time.Second)
	between := clk.Now()
	clk.Advance(time.Second)
	f.Missed(member)
	f.Prove(acme, member, between)
	wantMember(t, f, member, Grace)
	wantAccess(t, f, acme, Fresh)
	if !f.Renew(member, between) {
		t.Error("it was never shown")
	}
	wantMember(t, f, member, Grace)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path, Options{Now: clk.Now})
	wantMember(t, f, member, Grace)
	wantAccess(t, f, acme, Grace)
	clk.Advance(time.Second)
	f.Prove(acme, member, clk.Now())
	wantMember(t, f, member, Fresh)
	f.Missed(member)
	clk.Advance(25 * time.Hour)
	wantMember(t, f, member, None)
}

// Of what nobody was ever shown there is nothing to miss.
func TestMissed_OfNothing(t *testing.T) {
	f := open(t, "", Options{})
	f.Missed(member)
	wantMember(t, f, member, None)
	if f.HadMember(member) {
		t.Error("it is a member")
	}
}
