package proof

import (
	"fmt"
	"testing"

	"berth/oci"
)

// What an organisation has had proven stays fresh, whatever number of names another
// one asks about: under its own account, and as nobody in particular too.
func TestProofs_OthersMemoryStays(t *testing.T) {
	clk := newClock()
	f := open(t, "", Options{Now: clk.now, Entries: 100})
	mine, its := f.For("acme", Times{}), f.For("globex", Times{})
	for _, shared := range []bool{false, true} {
		a, k, view := acme, latest, oci.View{Organisation: "globex", Fingerprint: "g"}
		if shared {
			a.View, k.View, view = oci.View{}, oci.View{}, oci.View{}
		}
		mine.Prove(a, member, clk.now())
		mine.SetTag(k, Tag{Digest: digestA, Asked: clk.now()})
		for i := range 1000 {
			repo := fmt.Sprint("globex/", i)
			its.Prove(Access{Origin: a.Origin, View: view, Repo: repo}, Member{a.Origin, repo, oci.Blob, digestB}, clk.now())
			its.SetTag(TagKey{Origin: a.Origin, View: view, Repo: repo, Tag: "t"}, Tag{Digest: digestB, Asked: clk.now()})
			its.Deny(Access{Origin: a.Origin, View: view, Repo: "no/" + repo})
		}
		wantAge(t, f, a, Fresh)
		wantMember(t, f, member, Fresh)
		wantTag(t, f, k, digestA, Fresh)
		if n := len(f.access.recent.All()); n > 100 {
			t.Errorf("%d proofs of access in memory", n)
		}
	}
}
