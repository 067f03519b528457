package proof

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"berth/internal/ocitest"
	"berth/oci"
)

// What an organisation has had proven stays fresh, whatever number of names another
// one asks about: under its own account, and as nobody in particular too.
func TestProofs_OthersMemoryStays(t *testing.T) {
	clk := ocitest.NewClock()
	f := open(t, "", Options{Now: clk.Now, Entries: 100})
	mine, its := f.For("acme", Times{}), f.For("globex", Times{})
	for _, shared := range []bool{false, true} {
		a, k, principal := acme, latest, oci.Principal{Organisation: "globex", Fingerprint: "g"}
		if shared {
			a.Principal, k.Principal, principal = oci.Principal{}, oci.Principal{}, oci.Principal{}
		}
		mine.Prove(a, member, clk.Now())
		mine.SetTag(k, Tag{Digest: digestA, Asked: clk.Now()})
		for i := range 1000 {
			repo := fmt.Sprint("globex/", i)
			its.Prove(Access{Origin: a.Origin, Principal: principal, Repo: repo}, Member{a.Origin, repo, oci.Blob, digestB}, clk.Now())
			its.SetTag(TagKey{Origin: a.Origin, Principal: principal, Repo: repo, Tag: "t"}, Tag{Digest: digestB, Asked: clk.Now()})
			its.Deny(Access{Origin: a.Origin, Principal: principal, Repo: "no/" + repo})
		}
		wantAge(t, f, a, Fresh)
		wantMember(t, f, member, Fresh)
		wantTag(t, f, k, digestA, Fresh)
		if n := len(f.access.recent.All()); n > 100 {
			t.Errorf("%d proofs of access in memory", n)
		}
	}
}

// flood has globex prove so much that the file is full several times over.
func flood(t *testing.T, f *Proofs, clk *ocitest.Clock, limit int64, prove func(its *Proofs, repo string)) {
	t.Helper()
	its := f.For("globex", Times{})
	for i := range 30 {
		for j := range 500 {
			prove(its, fmt.Sprintf("globex/%s/%d/%d", strings.Repeat("x", 150), i, j))
		}
		clk.Advance(time.Minute)
		if err := f.disk.flush(); err != nil {
			t.Fatal(err)
		}
		if f.disk.full.Load() {
			if err := f.disk.trim(nil); err != nil {
				t.Fatal(err)
			}
			if used := f.disk.used(); used > limit {
				t.Fatalf("%d bytes are in use after a trim, of %d", used, limit)
			}
		}
	}
}

// Whoever fills the file loses what he put there first; what others had proven before
// that, and what they prove afterwards, outlives a restart. It is the same where the
// records are about nobody, and where they are denials, which must be written.
func TestProofs_OthersFileStays(t *testing.T) {
	const limit = 1 << 20
	own := oci.Principal{Organisation: "globex", Fingerprint: "g"}
	for name, prove := range map[string]func(its *Proofs, repo string){
		"own registry": func(its *Proofs, repo string) {
			its.Prove(Access{Origin: "globex.example-1", Principal: own, Repo: repo}, Member{"globex.example-1", repo, oci.Blob, digestB}, its.o.Now())
		},
		"tags": func(its *Proofs, repo string) {
			its.SetTag(TagKey{Origin: acme.Origin, Principal: own, Repo: "globex/app", Tag: repo}, Tag{Digest: digestB, Asked: its.o.Now()})
		},
		"one repository": func(its *Proofs, repo string) {
			its.Prove(Access{Origin: acme.Origin, Principal: own, Repo: "globex/app"}, Member{acme.Origin, "globex/app", oci.Manifest, oci.DigestOf([]byte(repo))}, its.o.Now())
		},
		"as nobody": func(its *Proofs, repo string) {
			its.Prove(Access{Origin: acme.Origin, Repo: repo}, Member{acme.Origin, repo, oci.Blob, digestB}, its.o.Now())
		},
		"denied": func(its *Proofs, repo string) {
			a := Access{Origin: "globex.example-1", Principal: own, Repo: repo}
			its.Prove(a, Member{"globex.example-1", "one", oci.Blob, digestB}, its.o.Now())
			its.denyInMemory(a, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			clk, path := ocitest.NewClock(), filepath.Join(ocitest.MemoryDir(t), "facts.db")
			o := Options{FileBytes: limit, Entries: 300, Now: clk.Now}
			f := open(t, path, o)
			mine := f.For("acme", Times{})
			public, inPublic, later := acme, member, acme
			public.Principal, public.Repo, inPublic.Repo, later.Repo = oci.Principal{}, "library/nginx", "library/nginx", "acme/later"
			mine.Prove(acme, member, clk.Now())
			mine.Prove(public, inPublic, clk.Now())
			mine.SetTag(latest, Tag{Digest: digestA, Asked: clk.Now()})
			flood(t, f, clk, limit, prove)
			mine.Prove(later, member, clk.Now())
			flood(t, f, clk, limit, prove)
			closeFacts(t, f)

			f = open(t, path, o)
			for _, a := range []Access{acme, public, later} {
				wantAccess(t, f, a, Grace)
			}
			wantMember(t, f, member, Fresh)
			wantMember(t, f, inPublic, Fresh)
			wantTag(t, f, latest, digestA, Grace)
		})
	}
}

// Those who have more than what is left of it come down to one level, and nobody else.
func TestLevelOf(t *testing.T) {
	for _, tc := range []struct {
		sums []int64
		n    int64
		want int64
	}{
		{[]int64{10, 3, 2}, 4, 6},
		{[]int64{2, 10, 3}, 7, 3},
		{[]int64{10, 3, 2}, 9, 2},
		{[]int64{5, 5}, 3, 3}, // what does not divide goes from both
		{[]int64{5, 5}, 10, 0},
		{[]int64{5}, 50, 0},
		{nil, 5, 0},
	} {
		if got := levelOf(slices.Clone(tc.sums), tc.n); got != tc.want {
			t.Errorf("%d of %v: %d, want %d", tc.n, tc.sums, got, tc.want)
		}
	}
}

// A file that an earlier version wrote says nothing about on whose account records
// are: it is used as it is.
func TestProofs_FileWithoutOwners(t *testing.T) {
	clk, path := ocitest.NewClock(), filepath.Join(ocitest.MemoryDir(t), "facts.db")
	f := open(t, path, Options{Now: clk.Now})
	f.Prove(acme, member, clk.Now())
	err := f.disk.db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(byBucket)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := f.disk.db.Close(); err != nil { // as a process that is killed, and was of that version
		t.Fatal(err)
	}
	f.disk.broken.Store(true)
	closeFacts(t, f)
	f = open(t, path, Options{Now: clk.Now})
	f.For("acme", Times{}).Prove(acme, member, clk.Now())
	closeFacts(t, f)
	f = open(t, path, Options{Now: clk.Now})
	wantAccess(t, f, acme, Grace)
	wantMember(t, f, member, Fresh)
}
