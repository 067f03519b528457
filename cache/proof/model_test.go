package proof

import (
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"berth/internal/ocitest"
)

// history is what happened to one key, in order, as someone who writes
// everything down would have it.
type history struct {
	proofs []proofMade
	// denied is when the last denial arrived; zero: never.
	denied time.Time
	// doubts are when answers arrived that were neither yes nor no.
	doubts []time.Time
}

type proofMade struct {
	asked time.Time
	run   int // in which life of the process
}

// counting is the proofs that count: asked for after the last denial.
func (h *history) counting() (all []proofMade) {
	for _, p := range h.proofs {
		if p.asked.After(h.denied) {
			all = append(all, p)
		}
	}
	return all
}

// doubted says whether a doubt has come since p was asked for, and a proof before it.
func (h *history) doubted(p proofMade) bool {
	return slices.ContainsFunc(h.doubts, func(at time.Time) bool { return !p.asked.After(at) })
}

// Any order of proofs, late proofs, denials, waiting and restarts.
func TestAccessOverAnyHistory(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	rapid.Check(t, func(t *rapid.T) {
		file, err := os.CreateTemp(dir, "facts")
		if err != nil {
			t.Fatal(err)
		}
		path := file.Name()
		_ = file.Close() // empty, so new
		clk := ocitest.NewClock()
		o := Options{Now: clk.Now}
		if rapid.Bool().Draw(t, "short") {
			o.AccessTTL, o.Grace, o.Doubt = time.Second, time.Minute, 30*time.Second
		}
		full := o.withDefaults()
		f, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }() // so that the next one may start
		var run int
		keys := []string{"acme/a", "acme/b", "acme/c"}
		told := map[string]*history{}
		for _, k := range keys {
			told[k] = &history{}
		}
		pick := func(t *rapid.T) (Access, *history) {
			repo := rapid.SampledFrom(keys).Draw(t, "repo")
			a := acme
			a.Repo = repo
			return a, told[repo]
		}
		t.Repeat(map[string]func(*rapid.T){
			"prove": func(t *rapid.T) {
				a, h := pick(t)
				asked := clk.Now().Add(-time.Duration(rapid.IntRange(0, 3).Draw(t, "late")) * time.Second)
				f.Prove(a, member, asked)
				h.proofs = append(h.proofs, proofMade{asked, run})
			},
			"deny": func(t *rapid.T) {
				a, h := pick(t)
				f.Deny(a)
				h.denied = clk.Now()
			},
			"doubt": func(t *rapid.T) {
				a, h := pick(t)
				f.Doubt(a)
				if len(h.counting()) > 0 { // without a proof there is nothing to doubt
					h.doubts = append(h.doubts, clk.Now())
				}
			},
			"wait": func(t *rapid.T) {
				clk.Advance(rapid.SampledFrom([]time.Duration{1, time.Second, time.Minute, 5 * time.Minute, 23 * time.Hour}).Draw(t, "for"))
			},
			"restart": func(t *rapid.T) {
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				if f, err = Open(path, o); err != nil {
					t.Fatal(err)
				}
				run++
				clk.Advance(5 * time.Second) // no request outlives the process, so none lands late
			},
			"flush": func(t *rapid.T) {
				if err := f.disk.flush(); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				for _, repo := range keys {
					a := acme
					a.Repo = repo
					judge(t, f, a, told[repo], clk.Now(), run, full)
				}
			},
		})
	})
}

// judge holds what f says about a against what happened.
func judge(t *rapid.T, f *Proofs, a Access, h *history, now time.Time, run int, o Options) {
	t.Helper()
	age, _ := f.Access(a)
	var mayGrace, mayFresh bool
	var newest, newestHere time.Time
	for _, p := range h.counting() {
		if h.doubted(p) && now.Sub(p.asked) >= o.Doubt {
			continue
		}
		mayGrace = mayGrace || now.Sub(p.asked) < o.Grace
		mayFresh = mayFresh || p.run == run && now.Sub(p.asked) < o.AccessTTL
		if p.asked.After(newest) {
			newest = p.asked
		}
		if p.run == run && p.asked.After(newestHere) {
			newestHere = p.asked
		}
	}
	switch {
	case age == Fresh && !mayFresh:
		t.Fatalf("%s is fresh; denied %v, proofs %v", a.Repo, h.denied, h.proofs)
	case age != None && !mayGrace && !mayFresh:
		t.Fatalf("%s has grace; doubts %v, denied %v, proofs %v", a.Repo, h.doubts, h.denied, h.proofs)
	case age == None && newest.Equal(newestHere) && !newest.IsZero() && (mayGrace || mayFresh) && now.Sub(newest) < o.Grace:
		t.Fatalf("%s has nothing; denied %v, proofs %v", a.Repo, h.denied, h.proofs)
	case age != Fresh && mayFresh:
		t.Fatalf("%s is not fresh; denied %v, proofs %v", a.Repo, h.denied, h.proofs)
	case f.Denied(a) && len(h.counting()) > 0:
		t.Fatalf("%s is denied; denied %v, proofs %v", a.Repo, h.denied, h.proofs)
	}
}
