package proof

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"berth/internal/ocitest"
	"berth/oci"
)

// globexAccess is another organisation with the same repository.
func globexAccess() (Access, TagKey) {
	a, k := acme, latest
	a.Principal, k.Principal = oci.Principal{Organisation: "globex", Fingerprint: "f1"}, oci.Principal{Organisation: "globex", Fingerprint: "f1"}
	return a, k
}

// proveBoth makes an f in which both organisations have proven everything, once.
func proveBoth(f *Proofs, clk *ocitest.Clock) {
	globex, tag := globexAccess()
	for _, a := range []Access{acme, globex} {
		f.Prove(a, member, clk.Now())
	}
	for _, k := range []TagKey{latest, tag} {
		f.SetTag(k, Tag{Digest: digestA, Asked: clk.Now()})
	}
}

func TestForget(t *testing.T) {
	for name, reopen := range map[string]bool{"in memory, not yet written": false, "in the file only": true} {
		t.Run(name, func(t *testing.T) {
			clk, path := ocitest.NewClock(), filepath.Join(t.TempDir(), "facts.db")
			f := open(t, path, Options{Now: clk.Now})
			refused := acme
			refused.Repo = "acme/secret"
			f.Prove(refused, member, clk.Now())
			clk.Advance(time.Second)
			f.Deny(refused) // and is written, with all that waited
			proveBoth(f, clk)
			if reopen {
				closeFacts(t, f)
				f = open(t, path, Options{Now: clk.Now})
			}
			clk.Advance(time.Second)
			if err := f.Forget("acme"); err != nil {
				t.Fatal(err)
			}
			globex, tag := globexAccess()
			check := func() {
				t.Helper()
				wantAccess(t, f, acme, None)
				wantTag(t, f, latest, "", None)
				if !f.Denied(refused) {
					t.Error("a denial was forgotten")
				}
				if got, _ := f.Access(globex); got == None {
					t.Error("another organisation's access was forgotten")
				}
				if _, got := f.Tag(tag); got == None {
					t.Error("another organisation's tag was forgotten")
				}
				if f.Member(member) == None {
					t.Error("membership was forgotten")
				}
			}
			check()
			closeFacts(t, f)
			f = open(t, path, Options{Now: clk.Now})
			check()
		})
	}
}

// What was asked before proves nothing after; what is asked after does, and stays.
func TestForgetBeatsWhatIsUnderWay(t *testing.T) {
	clk, path := ocitest.NewClock(), filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{Now: clk.Now})
	asked := clk.Now()
	clk.Advance(time.Second)
	if err := f.Forget("acme"); err != nil {
		t.Fatal(err)
	}
	f.Prove(acme, member, asked)
	f.SetTag(latest, Tag{Digest: digestA, Asked: asked})
	wantAccess(t, f, acme, None)
	wantTag(t, f, latest, "", None)
	wantMember(t, f, member, Fresh)

	asked = clk.Advance(time.Second)
	f.Prove(acme, member, asked)
	f.SetTag(latest, Tag{Digest: digestA, Asked: asked})
	wantAccess(t, f, acme, Fresh)
	wantTag(t, f, latest, digestA, Fresh)
	closeFacts(t, f)
	f = open(t, path, Options{Now: clk.Now})
	wantAccess(t, f, acme, Grace)
	wantTag(t, f, latest, digestA, Grace)
}

func TestForgetManyAndInMemoryOnly(t *testing.T) {
	const n = 2*sweepStep + 10
	clk, path := ocitest.NewClock(), filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{Now: clk.Now})
	for i := range n {
		a := acme
		a.Repo = fmt.Sprint("acme/app", i)
		f.Prove(a, member, clk.Now())
	}
	proveBoth(f, clk)
	closeFacts(t, f)
	f = open(t, path, Options{Now: clk.Now})
	if err := f.Forget("acme"); err != nil {
		t.Fatal(err)
	}
	closeFacts(t, f)
	if got := count(t, path); got != [3]int{1, 1, 1} {
		t.Errorf("left: %v", got)
	}

	f = open(t, "", Options{Now: clk.Now})
	proveBoth(f, clk)
	if err := f.Forget("acme"); err != nil {
		t.Fatal(err)
	}
	wantAccess(t, f, acme, None)
}

// What cannot be deleted is not believed either.
func TestForgetOnADiskThatFails(t *testing.T) {
	clk, path := ocitest.NewClock(), filepath.Join(t.TempDir(), "facts.db")
	synctest.Test(t, func(t *testing.T) {
		f := open(t, path, Options{Now: clk.Now})
		proveBoth(f, clk)
		closeFacts(t, f)
		f = open(t, path, Options{Now: clk.Now})
		synctest.Wait() // the sweep at the start is over
		bad, good := readOnly(t, path), f.disk.db
		use := func(db *bbolt.DB) {
			f.disk.writing.Lock()
			defer f.disk.writing.Unlock()
			f.disk.db = db
		}
		use(bad)
		if err := f.Forget("acme"); err == nil {
			t.Error("it was not deleted, and nobody says so")
		}
		wantAccess(t, f, acme, None)
		wantTag(t, f, latest, "", None)
		use(good)
		if err := bad.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Forget("acme"); err != nil {
			t.Errorf("once the disk is well again: %v", err)
		}
		closeFacts(t, f)
	})
	if got := count(t, path); got != [3]int{1, 1, 1} {
		t.Errorf("left: %v", got)
	}
}

func TestOrganisationOfKeys(t *testing.T) {
	for _, key := range [][]byte{acme.key(), latest.key()} {
		if got := organisationOf(key); got != "acme" {
			t.Errorf("%q is of %q", key, got)
		}
	}
	for _, junk := range [][]byte{nil, {}, []byte("junk"), {0xff}, {1}, {0, 200, 'a'}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}} {
		if got := organisationOf(junk); got != "" {
			t.Errorf("%q is of %q", junk, got)
		}
	}
}
