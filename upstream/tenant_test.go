package upstream

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// one is a request for something of an image, in any form. What it asks for is how the
// registry writes it down.
func (w *tenancy) one(who string, img ocitest.Pushed) (asked ocitest.Match, err error) {
	defer w.asks()()
	s, first := w.as(who), img.Platforms[0]
	ctx, cancel := context.WithTimeout(w.t.Context(), headerLimit)
	defer cancel()
	object := oci.Object{Repo: img.Repo, Kind: oci.Manifest, Digest: img.Digest}
	switch w.rand.IntN(5) {
	case 0:
		_, err = s.Resolve(ctx, img.Repo, img.Tag)
		return ocitest.Match{Repo: img.Repo, Tag: img.Tag}, err
	case 1:
		_, err = s.Stat(ctx, object)
	case 2:
		object.Digest = first.Manifest
		err = fetch(w.t.Context(), s, object)
	default:
		object.Kind, object.Digest = oci.Blob, img.Blobs(0)[w.rand.IntN(len(img.Blobs(0)))]
		err = fetch(w.t.Context(), s, object)
	}
	return ocitest.Match{Repo: img.Repo, Digest: object.Digest}, err
}

// heard is what somebody was told about acme's image.
type heard struct {
	yes, doubt time.Time
	no         time.Time // when its secret, and not nobody's, was refused in plain words
	riddle     time.Time // when what was asked last, and got no plain answer, was asked
}

func (n heard) doubted() bool { return !n.doubt.IsZero() && !n.doubt.Before(n.yes) }

// told looks at what the registry has written down by now. Whose a token was that is no
// longer good, is known from when it was; what was asked without one since begun, is the
// user's that asks now.
func (w *tenancy) told(user string, begun time.Time) (n heard) {
	w.sky.mu.Lock()
	defer w.sky.mu.Unlock()
	tokens := map[string]string{}
	for _, r := range w.up.Requests(ocitest.Match{}) {
		credential := r.Header.Get("Authorization")
		if r.User != "" {
			tokens[credential] = r.User
		}
		if !slices.ContainsFunc(w.asked, func(d *during) bool { return d.has(r.Start) }) {
			continue // the node asks by itself whether the registry is back, and concludes nothing else
		}
		its := tokens[credential] == user || credential == "" && !r.Start.Before(begun)
		if !its || !concerns(r, ofImage) || user == "globex-bot" && r.Start.Before(w.rotated) {
			continue
		}
		met := w.sky.met[r.ID]
		switch shows := r.Kind == ocitest.Manifest || r.Kind == ocitest.Blob; {
		case met == riddle && r.Done:
			n.doubt, n.riddle = r.End, r.Start
		case met != itsAnswer || !r.Done:
			n.riddle = r.Start
		case shows && r.Status/100 == 2:
			n.yes = r.Start
		case credential != "" && slices.Contains([]int{401, 403, 404}, r.Status):
			n.no = r.Start
		}
	}
	return n
}

// globex pulls acme's image, and what it gets is held against what it was told.
func (w *tenancy) globex() {
	begun, before, plain, revoked := time.Now(), w.told("globex-bot", time.Now()), w.sky.isPlain(), w.revoked
	// What it has under way may be the one question a second that goes out past a limit.
	asks := w.busy.Load() == 0 || !w.sky.cooling()
	asked, err := w.one("globex", w.image)
	w.say("globex pulls %s%s in %v: %v", asked.Tag, asked.Digest, time.Since(begun), err)
	if err != nil {
		w.counts["globex is refused"]++
		// A page in place of an answer refuses what was never shown, and withdraws nothing.
		class := oci.ClassOf(err)
		refused := class == oci.Denied || class == oci.Unauthorized || class == oci.NotFound || class == oci.NoCredential
		if refused && !w.told("globex-bot", begun).no.Before(begun) {
			w.refused = time.Now()
		}
		return
	}
	w.counts["globex is served"]++
	after := w.told("globex-bot", begun)
	if !after.yes.IsZero() && !after.yes.Before(begun) {
		return // the registry was asked, and said yes
	}
	age, doubted := begun.Sub(before.yes), before.doubted()
	if age >= w.times.AccessTTL {
		w.counts["globex is served stale"]++
		doubted = after.doubted() // it was asked now, too
	}
	limit := w.times.Grace
	if doubted {
		limit = max(w.times.Doubt, 0)
	}
	switch {
	case before.yes.IsZero():
		w.fail("globex got what nobody had shown it with its secret")
	case w.refused.After(before.yes):
		w.fail("it was given out %v after globex was told no", begun.Sub(w.refused))
	case age > limit && age > 0:
		w.fail("it was given out %v after the last yes, doubted: %v", age, doubted)
	case revoked && plain && asks && age >= w.times.AccessTTL && time.Since(after.riddle) >= w.times.AccessTTL:
		w.fail("it was given out %v after the last yes, and the registry, which answers plainly, was not asked", age)
	}
}

// others pull what they may have, and get it unless nobody could know.
func (w *tenancy) others() {
	who := []string{"acme", "bolt", "initech"}[w.rand.IntN(3)]
	img := []ocitest.Pushed{w.image, w.public}[w.rand.IntN(2)]
	if who == "initech" {
		img = w.public
	}
	calm := w.sky.isCalm()
	if calm && w.rand.IntN(3) == 0 {
		img = w.another(img.Repo)
	}
	begun := time.Now()
	asked, err := w.one(who, img)
	w.say("%s pulls %s in %v: %v", who, img.Repo, time.Since(begun), err)
	w.counts["others pull"]++
	w.sky.mu.Lock()
	if w.sky.pages && img.Repo == ofImage {
		w.paged[who] = begun
	}
	w.sky.mu.Unlock()
	if err == nil {
		w.pulled = append(w.pulled, during{begun, time.Now()})
		return
	}
	if calm {
		w.fail("%s, whose right stands, where the registry answers: %v", who, err)
	}
	// In trouble, what it was shown itself goes out for grace or doubt; what everybody
	// was shown for grace.
	limit := w.times.Grace
	asked.User = who + "-bot"
	if img.Repo == ofPublic {
		asked.User = ocitest.Anonymous
	} else if w.told(who+"-bot", begun).doubted() || w.paged[who].After(w.shown(asked)) {
		limit = max(w.times.Doubt, 0)
	}
	if old := begun.Sub(w.shown(asked)); old < limit {
		w.fail("%s was shown it %v ago: %v", who, old, err)
	}
}

// another is an image that nobody has pulled.
func (w *tenancy) another(repo string) ocitest.Pushed {
	w.fresh++
	return w.up.AddImage(repo, fmt.Sprint("fresh", w.fresh), ocitest.Image{Layers: []int64{1000, 30_000}, Seed: uint64(10 + w.fresh)})
}

// during is how long something took; ended is zero while it goes on.
type during struct{ begun, ended time.Time }

func (d *during) has(t time.Time) bool {
	return !t.Before(d.begun) && (d.ended.IsZero() || !t.After(d.ended))
}

// asks notes that somebody asks for something, until ended is called.
func (w *tenancy) asks() (ended func()) {
	w.sky.mu.Lock()
	defer w.sky.mu.Unlock()
	d := &during{begun: time.Now()}
	w.asked = append(w.asked, d)
	return func() {
		w.sky.mu.Lock()
		defer w.sky.mu.Unlock()
		d.ended = time.Now()
	}
}

// shown is when the registry last said yes to m for a pull that came through. One to the node,
// which asks by itself whether the registry is back, is nobody's.
func (w *tenancy) shown(m ocitest.Match) (last time.Time) {
	for _, r := range w.up.Requests(m) {
		pulls := slices.ContainsFunc(w.pulled, func(p during) bool { return p.has(r.Start) })
		if pulls && r.Status/100 == 2 && w.sky.at(r.ID) == itsAnswer {
			last = r.Start
		}
	}
	return last
}

// hurts is what globex does for the next seconds, beside all others. turns bounds how
// much of it is under way, as limits.requests does; nil: nothing.
func (w *tenancy) hurts(turns chan struct{}) {
	s, kind, n := w.as("globex"), w.evil.IntN(6), 1+w.evil.IntN(120)
	repo, seed := []string{ofImage, ofGlobex}[w.evil.IntN(2)], w.evil.Uint64()
	if kind == 2 || kind == 4 { // what comes of these says nothing about a right
		repo = ofGlobex
	}
	ctx := w.t.Context()
	for i := range n {
		w.busy.Add(1)
		ended := w.asks()
		w.mischief.Go(func() {
			defer ended()
			defer w.busy.Add(-1)
			if turns != nil {
				turns <- struct{}{}
				defer func() { <-turns }()
			}
			ctx, cancel := context.WithTimeout(ctx, headerLimit)
			defer cancel()
			name := fmt.Sprint("v", seed, "-", i)
			switch kind {
			case 0: // HEADs for what it invents
				_, _ = s.Stat(ctx, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: oci.DigestOf([]byte(name))}) // whatever it says
			case 1:
				_, _ = s.Resolve(ctx, repo, name)
			case 2:
				_, _ = s.List(ctx, oci.ListRequest{Kind: oci.Tags, Repo: repo})
			case 3:
				w.sitsOn(ctx, s)
			case 4: // clients who leave
				ctx, cancel := context.WithTimeout(ctx, time.Duration(i)*10*time.Millisecond)
				defer cancel()
				_, _ = s.Resolve(ctx, repo, name)
			default: // repositories that it invents
				_, _ = s.Resolve(ctx, "globex/"+name, "1")
			}
		})
	}
	w.say("globex does %d of %d at %s", n, kind, repo)
}

// sitsOn reads the beginning of a blob, and no more for as long as it may.
func (w *tenancy) sitsOn(ctx context.Context, s oci.Source) {
	c, err := s.Open(ctx, oci.Object{Repo: ofGlobex, Kind: oci.Blob, Digest: w.large}, oci.Range{})
	if err != nil {
		return
	}
	defer c.Body.Close()
	_, _ = io.ReadFull(c.Body, make([]byte, 10)) // as much as comes
	<-ctx.Done()
}

func (w *tenancy) step() {
	flip := func(what string, b *bool) {
		w.sky.change(func() { *b = !*b })
		w.say("%s: %v", what, *b)
	}
	switch w.rand.IntN(26) {
	case 0:
		flip("the registry answers nobody", &w.sky.outage)
	case 1, 2:
		flip("globex's own repository hangs", &w.sky.hangs)
	case 3:
		flip("pages for everybody", &w.sky.pages)
	case 4:
		flip("pages for globex", &w.sky.page)
	case 5, 6:
		flip("globex is limited", &w.sky.limits)
	case 7, 8:
		w.revoke(!w.revoked)
	case 9, 10, 11:
		w.hurts(nil)
	case 12:
		w.stop()
		w.start()
		w.say("the node has started anew")
	case 13:
		w.rotates()
	case 14, 15:
		w.sky.change(func() {
			w.sky.outage, w.sky.pages, w.sky.page, w.sky.limits, w.sky.hangs = false, false, false, false, false
		})
		w.say("all is well")
	case 16, 17, 18:
		w.others()
	case 19, 20:
		w.limitedFor(3 * time.Hour)
	default:
		w.globex()
	}
	time.Sleep([]time.Duration{0, 2 * time.Second, time.Minute, w.times.AccessTTL + time.Second, w.times.AccessTTL * 4 / 5, time.Hour, 5 * time.Hour}[w.rand.IntN(7)])
}

// limitedFor has the registry limit all that globex asks for, which pulls at once, and when
// nothing that it was shown counts without a yes any more.
func (w *tenancy) limitedFor(long time.Duration) {
	w.sky.change(func() {
		w.sky.limits, w.sky.ownOnly = true, false
		w.sky.until, w.sky.budget = time.Now().Add(long), 0
	})
	w.say("globex is limited for %v", long)
	w.globex()
	time.Sleep(w.times.AccessTTL + time.Second)
	w.globex()
	time.Sleep(max(w.times.Doubt, 0))
	w.counts["globex pulls while limited"]++
	w.globex()
}

func (w *tenancy) revoke(now bool) {
	w.revoked = now
	w.grant()
	w.say("globex has lost its right: %v", now)
}

// rotates gives globex another secret, in both places.
func (w *tenancy) rotates() {
	w.mischief.Wait()
	w.secrets++
	w.grant()
	w.rotated = time.Now()
	w.say("globex has another secret")
}

// Whatever a tenant does whose right was withdrawn, what is kept goes out to it for no
// longer than access_ttl and one request that the registry answers plainly; where it
// answers with limits and riddles for doubt after the last yes, with 0s of it not at
// all; where it answers nobody for grace; with another secret never. Those whose right
// stands get what they may have meanwhile, and what is public goes on. In this test all
// that goes to the registry is real: limits, tries, breakers, tokens, cool-downs.
func TestTenant_RevokedAtARegistry(t *testing.T) {
	runs, first := 8, uint64(time.Now().UnixNano())
	if os.Getenv("BERTH_LONG") != "" {
		runs = 500
	}
	if s := os.Getenv("BERTH_SEED"); s != "" {
		runs = 1
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	counts := map[string]int{}
	vain := func() bool {
		return counts["globex is served stale"] == 0 || counts["globex is refused"] == 0 || counts["globex pulls while limited"] == 0
	}
	// In every second run nothing is served stale.
	for i := 0; i < runs || runs > 1 && vain() && i < 10*runs; i++ {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprint("BERTH_SEED=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTenancy(t, seed)
				w.counts = counts
				w.all()
				for range 80 {
					if w.step(); t.Failed() {
						break
					}
				}
				w.stop()
			})
		})
		if !ok {
			break
		}
	}
	t.Log(counts)
	if runs > 1 && vain() {
		t.Error("nothing that matters has happened")
	}
}

// all pull all of what they may have.
func (w *tenancy) all() {
	w.t.Helper()
	defer w.asks()()
	begun := time.Now()
	defer func() { w.pulled = append(w.pulled, during{begun, time.Now()}) }()
	for _, who := range []string{"acme", "bolt", "globex"} {
		if err := pull(w.t.Context(), w.as(who), w.image); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, who := range []string{"initech", "acme", "bolt"} {
		if err := pull(w.t.Context(), w.as(who), w.public); err != nil {
			w.t.Fatal(err)
		}
	}
}

// waits is how long each of some pulls of others takes, of images that are not kept: with
// a tenant among them, or not, that does all it can to be in their way.
func waits(t *testing.T, seed uint64, tenant bool) (all []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newTenancy(t, seed)
		w.all()
		w.sky.change(func() { w.sky.limits = tenant })
		turns := make(chan struct{}, 256)
		for i := range 120 {
			if tenant {
				w.hurts(turns)
			}
			if tenant && i%20 == 0 {
				w.sky.change(func() { w.sky.hangs = !w.sky.hangs })
				w.revoke(i%40 == 0)
			}
			time.Sleep(time.Duration(w.rand.IntN(4000)) * time.Millisecond)
			who, begun := []string{"acme", "bolt", "initech"}[i%3], time.Now()
			img := w.another(map[bool]string{true: ofPublic, false: ofImage}[i%3 == 2])
			if err := pull(t.Context(), w.as(who), img); err != nil {
				t.Errorf("%s, after %v: %v", who, time.Since(begun), err)
			}
			all = append(all, time.Since(begun))
		}
		w.stop()
	})
	slices.Sort(all)
	return all
}

// A tenant who floods, hangs, lists, reads slowly, leaves, invents, is limited and loses
// its right fails none of the others' pulls, and what they wait is bounded, in answers
// of the registry, each of which takes 20 ms of fake time: this machine's load is not
// in it.
func TestTenant_OthersDoNotWait(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BERTH_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("BERTH_SEED=%d", seed)
	alone, beside := waits(t, seed, false), waits(t, seed, true)
	at := func(all []time.Duration, share float64) time.Duration { return all[int(share*float64(len(all)-1))] }
	for _, share := range []float64{0.5, 0.9, 0.99, 1} {
		t.Logf("%3.0f %%: %v alone, %v beside the tenant", 100*share, at(alone, share), at(beside, share))
	}
	if a, b := at(alone, 0.99), at(beside, 0.99); float64(b) > 1.5*float64(a) {
		t.Errorf("the 99th percentile is %v beside the tenant, %v alone", b, a)
	}
}
