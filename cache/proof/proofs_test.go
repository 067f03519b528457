package proof

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"berth/internal/ocitest"
	"berth/oci"
)

// Each age has a first and a last moment.
func TestAges(t *testing.T) {
	const ns = time.Nanosecond
	for _, c := range []struct {
		name                string
		o                   Options
		age                 time.Duration
		access, member, tag Age
	}{
		{"asked now", Options{}, 0, Fresh, Fresh, Fresh},
		{"the tag's last moment", Options{}, time.Minute - ns, Fresh, Fresh, Fresh},
		{"the tag is over", Options{}, time.Minute, Fresh, Fresh, Grace},
		{"access' last moment", Options{}, 5*time.Minute - ns, Fresh, Fresh, Grace},
		{"access is over", Options{}, 5 * time.Minute, Grace, Fresh, Grace},
		{"the last moment of all", Options{}, 24*time.Hour - ns, Grace, Fresh, Grace},
		{"grace is over", Options{}, 24 * time.Hour, None, None, None},
		{"long ago", Options{}, 290 * 365 * 24 * time.Hour, None, None, None},
		{"own times", Options{AccessTTL: time.Hour, MemberTTL: time.Second, TagTTL: 2 * time.Hour}, time.Hour - ns, Fresh, Grace, Fresh},
		{"own times, later", Options{AccessTTL: time.Hour, MemberTTL: time.Second, TagTTL: 2 * time.Hour}, time.Hour, Grace, Grace, Fresh},
		{"own grace", Options{Grace: time.Hour}, time.Hour - ns, Grace, Fresh, Grace},
		{"own grace is over", Options{Grace: time.Hour}, time.Hour, None, Fresh, None},
		{"never fresh", Options{AccessTTL: -1, MemberTTL: -1, TagTTL: -1}, 0, Grace, Grace, Grace},
		{"no grace", Options{Grace: -1}, 5*time.Minute - ns, Fresh, Fresh, None},
		{"no grace, later", Options{Grace: -1}, 24 * time.Hour, None, None, None},
		{"nothing at all", Options{AccessTTL: -1, MemberTTL: -1, TagTTL: -1, Grace: -1}, 0, None, None, None},
		{"the clock was set back", Options{}, -ns, Grace, Grace, Grace},
		{"set back within grace", Options{}, ns - 24*time.Hour, Grace, Grace, Grace},
		{"set back by more", Options{}, -24 * time.Hour, None, None, None},
		{"set back without grace", Options{Grace: -1}, -ns, None, None, None},
	} {
		t.Run(c.name, func(t *testing.T) {
			clk := ocitest.NewClock()
			c.o.Now = clk.Now
			f := open(t, "", c.o)
			wantAccess(t, f, acme, None)
			wantMember(t, f, member, None)
			wantTag(t, f, latest, "", None)
			f.Prove(acme, member, clk.Now())
			f.SetTag(latest, Tag{Digest: digestA, Asked: clk.Now()})
			clk.Advance(c.age)
			wantAccess(t, f, acme, c.access)
			wantMember(t, f, member, c.member)
			wantTag(t, f, latest, digestA, c.tag)
		})
	}
}

// An organisation has its own times for the same proofs; 0 is what all have.
func TestWithOtherTimes(t *testing.T) {
	clk := ocitest.NewClock()
	f := open(t, "", Options{Now: clk.Now, AccessTTL: time.Hour})
	strict := f.For("", Times{AccessTTL: time.Minute, TagTTL: -1, Grace: -1})
	f.Prove(acme, member, clk.Now())
	strict.SetTag(latest, Tag{Digest: digestA, Asked: clk.Now()})
	wantAccess(t, strict, acme, Fresh)
	wantTag(t, f, latest, digestA, Fresh)
	wantTag(t, strict, latest, "", None)
	clk.Advance(time.Minute)
	wantAccess(t, f, acme, Fresh)
	wantAccess(t, strict, acme, None)
	wantAccess(t, strict.For("", Times{Grace: time.Hour}), acme, Grace)
	wantAccess(t, f.For("", Times{}), acme, Fresh)
	wantMember(t, strict, member, Fresh)
	if f.AccessTTL() != time.Hour || strict.AccessTTL() != time.Minute {
		t.Errorf("%v, %v", f.AccessTTL(), strict.AccessTTL())
	}
	strict.Deny(acme)
	wantAccess(t, f, acme, None)
}

func TestAccessSaysWhenItWasAsked(t *testing.T) {
	clk := ocitest.NewClock()
	f := open(t, "", Options{Now: clk.Now})
	asked := clk.Now()
	clk.Advance(2 * time.Minute) // the answer took its time
	f.Prove(acme, member, asked)
	if _, at := f.Access(acme); !at.Equal(asked) {
		t.Errorf("%v, want %v", at, asked)
	}
	clk.Advance(3 * time.Minute)
	wantAccess(t, f, acme, Grace) // five minutes after the question, not after the answer
}

// While the machine sleeps, the monotonic clock stands still; a proof must age
// all the same. And the wall clock may be set back while it does not.
func TestAgesOnBothClocks(t *testing.T) {
	then := time.Now()
	shift := func(wall, monotonic time.Duration) time.Time {
		now := then.Add(wall)
		*(*int64)(unsafe.Add(unsafe.Pointer(&now), 8)) += int64(monotonic - wall) // time.Time's ext
		return now
	}
	if now := shift(time.Hour, time.Minute); now.Sub(then) != time.Minute || now.Round(0).Sub(then.Round(0)) != time.Hour {
		t.Skip("time.Time is laid out differently")
	}
	for _, c := range []struct{ wall, monotonic, want time.Duration }{
		{time.Minute, time.Minute, time.Minute},
		{8 * time.Hour, time.Second, 8 * time.Hour},
		{-time.Hour, time.Minute, time.Minute},
	} {
		if got := elapsed(shift(c.wall, c.monotonic), then); got != c.want {
			t.Errorf("wall %v, monotonic %v: %v, want %v", c.wall, c.monotonic, got, c.want)
		}
	}
}

// Whoever is told no keeps it, until a request that was sent later says yes.
func TestDenialAndProofInEveryOrder(t *testing.T) {
	for name, path := range map[string]string{"memory": "", "file": filepath.Join(t.TempDir(), "facts.db")} {
		t.Run(name, func(t *testing.T) {
			clk := ocitest.NewClock()
			f := open(t, path, Options{Now: clk.Now})
			before := clk.Now()
			clk.Advance(time.Second)
			f.Deny(acme)
			atOnce := clk.Now()
			clk.Advance(time.Second)
			f.Prove(acme, member, before) // landed late
			wantAccess(t, f, acme, None)
			f.Prove(acme, member, atOnce) // nobody can tell
			wantAccess(t, f, acme, None)
			if !f.Denied(acme) {
				t.Fatal("the denial is gone")
			}
			wantMember(t, f, member, Fresh) // what others proved with it stays
			f.Prove(acme, member, atOnce.Add(1))
			wantAccess(t, f, acme, Fresh)
			f.Prove(acme, member, before) // an old proof behind the new one
			if _, at := f.Access(acme); !at.Equal(atOnce.Add(1)) || f.Denied(acme) {
				t.Fatalf("proven at %v, denied %v", at, f.Denied(acme))
			}
			clk.Advance(time.Second)
			f.Deny(acme)
			wantAccess(t, f, acme, None)
		})
	}
}

// No part of a key is another's: not the account, not the organisation, not
// the origin, not the repository, not the object where that counts.
func TestProofsAreNobodyElses(t *testing.T) {
	clk := ocitest.NewClock()
	f := open(t, filepath.Join(t.TempDir(), "facts.db"), Options{Now: clk.Now})
	f.Prove(acme, member, clk.Now())
	f.SetTag(latest, Tag{Digest: digestA, Asked: clk.Now()})
	for _, change := range []func(*Access){
		func(a *Access) { a.Origin = "reg.test-2" },
		func(a *Access) { a.Principal.Organisation = "other" },
		func(a *Access) { a.Principal.Organisation = "" },
		func(a *Access) { a.Principal.Fingerprint = "f2" },
		func(a *Access) { a.Principal = oci.Principal{} },
		func(a *Access) { a.Repo = "acme/app2" },
		func(a *Access) { a.Digest = digestA },
	} {
		a := acme
		change(&a)
		wantAccess(t, f, a, None)
		if f.Denied(a) {
			t.Errorf("%+v counts as denied", a)
		}
		wantTag(t, f, TagKey{Origin: a.Origin, Principal: a.Principal, Repo: a.Repo, Tag: latest.Tag + a.Digest.String()}, "", None)
	}
	for _, m := range []Member{
		{member.Origin, member.Repo, oci.Blob, member.Digest},
		{member.Origin, member.Repo, member.Kind, digestB},
		{member.Origin, "acme/app2", member.Kind, member.Digest},
		{"reg.test-2", member.Repo, member.Kind, member.Digest},
	} {
		wantMember(t, f, m, None)
	}
	f.Deny(Access{Origin: acme.Origin, Principal: oci.Principal{Organisation: "other"}, Repo: acme.Repo})
	wantAccess(t, f, acme, Fresh)
}

func TestAnOlderTagNeverReplacesANewer(t *testing.T) {
	clk := ocitest.NewClock()
	f := open(t, "", Options{Now: clk.Now})
	early := clk.Now()
	late := clk.Advance(time.Second)
	f.SetTag(latest, Tag{Digest: digestB, Asked: late})
	f.SetTag(latest, Tag{Digest: digestA, Asked: early})
	wantTag(t, f, latest, digestB, Fresh)
	f.SetTag(latest, Tag{Digest: digestA, Asked: late}) // the same moment: the later word counts
	wantTag(t, f, latest, digestA, Fresh)
	clk.Advance(48 * time.Hour)
	wantTag(t, f, latest, "", None)
	f.SetTag(latest, Tag{Digest: digestB, Asked: early}) // too old to be worth anything, and still newer
	f.SetTag(latest, Tag{Digest: digestB, Asked: clk.Now()})
	wantTag(t, f, latest, digestB, Fresh)
	f.DropTag(latest)
	wantTag(t, f, latest, "", None)
}

// After a restart access must be proven again before it counts, but grace,
// membership and denials go on.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	clk := ocitest.NewClock()
	o := Options{Now: clk.Now}
	denied := Access{Origin: acme.Origin, Principal: acme.Principal, Repo: "acme/lost"}
	f := open(t, path, o)
	f.Prove(acme, member, clk.Now())
	f.Prove(denied, member, clk.Now())
	f.SetTag(latest, Tag{MediaType: "m", Digest: digestA, Size: 7, Asked: clk.Now()})
	gone := latest
	gone.Tag = "gone"
	f.SetTag(gone, Tag{Digest: digestA, Asked: clk.Now()})
	clk.Advance(time.Second)
	f.Deny(denied)
	f.DropTag(gone)
	closeFacts(t, f)

	for range 2 { // reading does not renew
		f = open(t, path, o)
		wantAccess(t, f, acme, Grace)
		wantAccess(t, f, acme, Grace) // from memory now
		wantMember(t, f, member, Fresh)
		wantTag(t, f, latest, digestA, Grace)
		wantTag(t, f, gone, "", None)
		if tag, _ := f.Tag(latest); tag.MediaType != "m" || tag.Size != 7 || !tag.Asked.Equal(clk.Now().Add(-time.Second)) {
			t.Fatalf("the tag came back as %+v", tag)
		}
		wantAccess(t, f, denied, None)
		if !f.Denied(denied) || f.Denied(acme) {
			t.Fatal("the denial is gone, or somebody else's")
		}
		closeFacts(t, f)
	}

	f = open(t, path, o)
	f.Prove(denied, member, clk.Now().Add(-time.Millisecond)) // sent after the first start, before the denial
	wantAccess(t, f, denied, None)
	clk.Advance(time.Second)
	f.Prove(acme, member, clk.Now())
	f.SetTag(latest, Tag{Digest: digestB, Asked: clk.Now()})
	wantAccess(t, f, acme, Fresh)
	wantTag(t, f, latest, digestB, Fresh)
	f.Prove(denied, member, clk.Now())
	wantAccess(t, f, denied, Fresh)
	closeFacts(t, f)

	f = open(t, path, o)
	known, _ := f.Tag(latest)
	known.Asked = clk.Now() // it still means the same
	f.SetTag(latest, known)
	wantTag(t, f, latest, digestB, Fresh)
	closeFacts(t, f)

	clk.Advance(24 * time.Hour)
	f = open(t, path, o)
	wantAccess(t, f, acme, None)
	wantMember(t, f, member, None)
	wantTag(t, f, latest, "", None)
}

// A node whose clock was wrong when it wrote, and is right now, must not refuse
// or forget until the wrong time has come.
func TestTheClockWasSetBackBetweenTwoRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	clk := ocitest.NewClock()
	o := Options{Now: clk.Now}
	f := open(t, path, o)
	denied := Access{Origin: acme.Origin, Principal: acme.Principal, Repo: "acme/lost"}
	f.Prove(acme, member, clk.Now())
	f.Prove(denied, member, clk.Now())
	f.SetTag(latest, Tag{Digest: digestA, Asked: clk.Now()})
	clk.Advance(time.Second)
	f.Deny(denied)
	closeFacts(t, f)

	clk.Advance(-time.Hour)
	f = open(t, path, o)
	wantAccess(t, f, acme, Grace)
	wantMember(t, f, member, Grace)
	wantAccess(t, f, denied, None)
	clk.Advance(time.Second)
	for _, a := range []Access{acme, denied} {
		f.Prove(a, member, clk.Now())
		wantAccess(t, f, a, Fresh)
	}
	wantMember(t, f, member, Fresh)
	f.SetTag(latest, Tag{Digest: digestB, Asked: clk.Now()})
	wantTag(t, f, latest, digestB, Fresh)
	closeFacts(t, f)

	f = open(t, path, o) // and the right times are in the file
	wantAccess(t, f, denied, Grace)
	wantMember(t, f, member, Fresh)
	wantTag(t, f, latest, digestB, Grace)
}

// The memory is a window: what falls out of it is read from the file again, if
// it has been written there or not.
func TestMemoryFallsBackToTheFile(t *testing.T) {
	clk := ocitest.NewClock()
	f := open(t, filepath.Join(ocitest.MemoryDir(t), "facts.db"), Options{Now: clk.Now, Entries: 3})
	key := func(i int) (Access, Member, TagKey) {
		repo := fmt.Sprintf("acme/app%d", i)
		a, m, k := acme, member, latest
		a.Repo, m.Repo, k.Repo = repo, repo, repo
		return a, m, k
	}
	const n = 50
	for i := range n {
		a, m, k := key(i)
		f.Prove(a, m, clk.Now())
		f.SetTag(k, Tag{Digest: digestA, Asked: clk.Now()})
	}
	clk.Advance(time.Second)
	for i := 0; i < n; i += 2 {
		a, _, k := key(i)
		f.Deny(a)
		f.DropTag(k)
	}
	for range 2 { // with some still pending, and with all written
		for i := range n {
			a, m, k := key(i)
			wantMember(t, f, m, Fresh)
			if i%2 == 0 {
				wantAccess(t, f, a, None)
				wantTag(t, f, k, "", None)
				if !f.Denied(a) {
					t.Fatalf("the denial of %s was forgotten", a.Repo)
				}
			} else if age, _ := f.Access(a); age == None {
				t.Fatalf("the proof of %s was forgotten", a.Repo)
			}
		}
		if err := f.disk.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.access.recent.All()) + len(f.members.recent.All()) + len(f.tags.recent.All()); n > 9 {
		t.Errorf("%d entries in memory", n)
	}
}

func TestMemoryOnlyIsBounded(t *testing.T) {
	clk := ocitest.NewClock()
	f := open(t, "", Options{Now: clk.Now, Entries: 3})
	for i := range 50 {
		a := acme
		a.Repo = fmt.Sprint(i)
		f.Prove(a, member, clk.Now())
	}
	if n := len(f.access.recent.All()); n != 3 {
		t.Errorf("%d entries", n)
	}
	open(t, "", Options{Entries: -1}).Prove(acme, member, time.Now())
}

// Each of several users has a repository and knows what it did last. The memory
// is so small that the file, and what is on its way there, answers all the time.
func TestConcurrentUse(t *testing.T) {
	for name, path := range map[string]string{"memory": "", "file": filepath.Join(ocitest.MemoryDir(t), "facts.db")} {
		t.Run(name, func(t *testing.T) {
			o := Options{Entries: 1}
			if path == "" {
				o.Entries = 1000
			}
			f := open(t, path, o)
			var users, flusher sync.WaitGroup
			stop := make(chan struct{})
			flusher.Go(func() {
				for f.disk != nil {
					select {
					case <-stop:
						return
					default:
						_ = f.disk.flush() // its failure would show in what is read
					}
				}
			})
			for i := range 4 {
				users.Go(func() { useFacts(t, f, fmt.Sprintf("acme/app%d", i)) })
			}
			users.Wait()
			close(stop)
			flusher.Wait()
		})
	}
}

func useFacts(t *testing.T, f *Proofs, repo string) {
	a, m, k := acme, member, latest
	a.Repo, m.Repo, k.Repo = repo, repo, repo
	for i := range 60 {
		before := time.Now()
		f.Prove(a, m, before)
		if age, _ := f.Access(a); age == None || f.Denied(a) || f.Member(m) == None {
			t.Errorf("%s: round %d: the proof is lost", repo, i)
		}
		digest := oci.DigestOf([]byte{byte(i)})
		f.SetTag(k, Tag{Digest: digest, Asked: time.Now()})
		if tag, age := f.Tag(k); age == None || tag.Digest != digest {
			t.Errorf("%s: round %d: the tag is %s", repo, i, tag.Digest)
		}
		f.Deny(a)
		f.Prove(a, m, before) // too late
		if age, _ := f.Access(a); age != None || !f.Denied(a) {
			t.Errorf("%s: round %d: the denial is lost", repo, i)
		}
		f.DropTag(k)
		if _, age := f.Tag(k); age != None {
			t.Errorf("%s: round %d: the tag stays", repo, i)
		}
	}
}

// A warm pull costs two look-ups, and neither a database nor the collector may
// notice.
func TestWarmLookUpsAllocateNothing(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "facts.db"), Options{})
	f.Prove(acme, member, time.Now())
	f.SetTag(latest, Tag{Digest: digestA, Asked: time.Now()})
	if n := testing.AllocsPerRun(100, func() {
		_, _ = f.Access(acme)
		_ = f.Member(member)
		_, _ = f.Tag(latest)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
