package cache_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/cache/proof"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/oci"
)

// tenancy is a registry, an organisation that may lose its right to an image and does
// whatever may help it to keep that, and another one whose right stands. It writes down
// what the registry has told each of them, and so knows what may still go out.
type tenancy struct {
	*house

	t       *testing.T
	rand    *rand.Rand
	times   proof.Times
	objects []oci.Object
	folder  string

	// What the registry does now.
	outage, hangs, riddles bool // riddles: to everybody
	riddle                 bool // to globex
	refusesBy              int  // how globex is refused; -1: it is not
	limits                 time.Time
	budget                 int       // requests of globex before the registry limits it
	remembered             time.Time // until when the limit is, by whoever asks

	told  map[string]*told
	asked int // plain answers to globex
	steps []string
}

// told is what an organisation was told about the image, and when.
type told struct {
	yes, doubt, no time.Time
	about          map[string]time.Time // what was asked for, and the last yes to that
}

func (w *told) doubted() bool { return !w.doubt.Before(w.yes) && !w.doubt.IsZero() }

// refusals are the ways of saying no.
var refusals = []error{
	&oci.Error{Class: oci.Denied, Message: "denied"},
	&oci.Error{Class: oci.Unauthorized, Message: "the password was withdrawn"},
	&oci.Error{Class: oci.NotFound, Code: oci.CodeNameUnknown, Message: "no such repository"},
	&oci.Error{Class: oci.NotFound, Message: "not found"},
}

func (w *tenancy) answer(c call) error {
	who, now := c.principal.Organisation, time.Now()
	n := w.told[who]
	if c.repo != "acme/app" {
		n = &told{} // it says nothing about the image
	}
	if w.outage {
		return &oci.Error{Class: oci.Unreachable, Message: "nobody answers"}
	}
	if who == "globex" {
		if err := w.toGlobex(c, n, now); err != nil {
			return err
		}
	}
	if w.riddles {
		n.doubt = now
		return &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: "a page"}
	}
	if who == "globex" && w.refusesBy >= 0 && c.repo == "acme/app" {
		w.asked++
		no := refusals[w.refusesBy]
		// Any other 404 than NAME_UNKNOWN is one about something that was shown, or
		// says nothing.
		if _, shown := n.about[c.ref]; shown || oci.ClassOf(no) != oci.NotFound || oci.AsError(no).Code == oci.CodeNameUnknown {
			n.no = now
		}
		return no
	}
	return nil
}

// toGlobex is what stands between it and a plain answer.
func (w *tenancy) toGlobex(c call, n *told, now time.Time) error {
	if w.hangs {
		time.Sleep(15 * time.Second)
		return &oci.Error{Class: oci.Timeout, Message: "no answer in time"}
	}
	limited := &oci.Error{Class: oci.RateLimited, Message: "limited"}
	if now.Before(w.remembered) && !c.past() { // package upstream does not ask
		n.doubt = now
		return limited
	}
	if w.budget--; w.budget < 0 && w.limits.Before(now) {
		w.limits, w.budget = now.Add(time.Duration(1+w.rand.IntN(120))*time.Minute), 20
	}
	if now.Before(w.limits) && w.rand.IntN(2) == 0 { // HEADs past the limit are answered at times
		n.doubt, w.remembered = now, w.limits
		return limited
	}
	if w.riddle {
		n.doubt = now
		return &oci.Error{Class: oci.Denied, NotUnderstood: true, Message: "a page"}
	}
	return nil
}

// limit is how old a yes may be for what is kept to go out.
func (w *tenancy) limit(n *told) time.Duration {
	if n.doubted() {
		return max(w.times.Doubt, 0)
	}
	return w.times.Grace
}

func (w *tenancy) say(format string, args ...any) {
	w.steps = append(w.steps, fmt.Sprintf("%v ", time.Since(w.begun()).Round(time.Second))+fmt.Sprintf(format, args...))
}

func (w *tenancy) begun() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func (w *tenancy) fail(format string, args ...any) {
	w.t.Errorf(format+"\n%s", append(args, strings.Join(w.steps, "\n"))...)
	w.t.FailNow()
}

// pulls is one request for something of the image, in any form. The age is that of the
// last yes to that.
func (w *tenancy) pulls(who string) (age time.Duration, err error) {
	s, ref := w.source(who, "secret"), "1"
	form := w.rand.IntN(len(w.objects) + 2)
	o := w.objects[max(form-2, 0)]
	if form > 0 {
		ref = o.Digest.String()
	}
	age = time.Since(w.told[who].about[ref])
	switch form {
	case 0:
		_, err = s.Resolve(w.t.Context(), "acme/app", "1")
	case 1:
		_, err = s.Stat(w.t.Context(), o)
	default:
		_, err = get(w.t.Context(), s, o, oci.Range{})
	}
	return age, err
}

// globex pulls, and what it gets is held against what it was told.
func (w *tenancy) globex() {
	n, begun, asked := w.told["globex"], time.Now(), w.asked
	had, old, limit := n.no, begun.Sub(n.yes), w.limit(w.told["globex"])
	_, err := w.pulls("globex")
	synctest.Wait()
	w.say("globex pulls: %v", err)
	if err != nil {
		return
	}
	if old = min(old, begun.Sub(n.yes)); old >= w.times.AccessTTL {
		limit = w.limit(n) // it was asked; before, only for the next time
	}
	switch {
	case had.After(n.yes):
		w.fail("it was given out %v after a no", begun.Sub(had))
	case old > limit && old > 0:
		w.fail("it was given out %v after the last yes, doubted: %v", old, n.doubted())
	case w.refusesBy >= 0 && old >= w.times.AccessTTL && !w.outage && !w.hangs && !w.riddle && !w.riddles && begun.After(w.remembered) && w.asked == asked && !begun.Before(w.limits):
		w.fail("it was given out %v after the last yes, and the registry, which answers plainly, was not asked", old)
	}
}

// acme pulls what it may have, and gets it unless nobody could know.
func (w *tenancy) acme() {
	n := w.told["acme"]
	old, err := w.pulls("acme")
	synctest.Wait()
	w.say("acme pulls: %v", err)
	if plain := !w.outage && !w.riddles; err != nil && (plain || old < w.limit(n)) {
		w.fail("acme, whose right stands, was told so %v ago, doubted: %v: %v", old, n.doubted(), err)
	}
}

// floods asks for what is not there, which costs nothing.
func (w *tenancy) floods() {
	s := w.source("globex", "secret")
	repo := []string{"acme/app", "globex/own"}[w.rand.IntN(2)]
	for range w.rand.IntN(40) {
		o := oci.Object{Repo: repo, Kind: oci.Manifest, Digest: oci.DigestOf([]byte(strconv.Itoa(w.rand.Int())))}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		_, _ = s.Stat(ctx, o) // whatever it says
		cancel()
	}
	time.Sleep(15 * time.Second)
	synctest.Wait()
	w.say("globex has flooded %s", repo)
}

func (w *tenancy) step() {
	flip := func(what string, b *bool) {
		*b = !*b
		w.say("%s: %v", what, *b)
	}
	switch w.rand.IntN(16) {
	case 0:
		flip("the registry answers nobody", &w.outage)
	case 1:
		flip("the registry is silent to globex", &w.hangs)
	case 2:
		flip("pages for everybody", &w.riddles)
	case 3:
		flip("pages for globex", &w.riddle)
	case 4:
		w.refusesBy = cmp.Or(w.refusesBy, 0)
		if w.refusesBy = w.rand.IntN(len(refusals)+1) - 1; w.refusesBy < 0 && w.rand.IntN(2) == 0 {
			w.refusesBy = 0
		}
		w.say("globex is refused: %d", w.refusesBy)
	case 5:
		w.floods()
	case 6:
		w.reopen()
	case 7, 8:
		w.acme()
	case 9, 10:
		w.outage, w.riddles, w.riddle, w.hangs = false, false, false, false
		w.say("all is well")
	default:
		w.globex()
	}
	time.Sleep([]time.Duration{2 * time.Second, time.Minute, w.times.AccessTTL + time.Second, w.times.AccessTTL * 4 / 5, time.Hour, 5 * time.Hour}[w.rand.IntN(6)])
}

// reopen is the next start.
func (w *tenancy) reopen() {
	if err := w.cache.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.start()
	w.say("berth has started anew")
}

func (w *tenancy) start() {
	c, err := cache.New(cache.Options{Dir: w.dir(), Now: time.Now, Times: w.times})
	if err != nil {
		w.t.Fatal(err)
	}
	w.cache = c
}

func (w *tenancy) dir() string { return w.folder }

func (w *tenancy) source(who, secret string) oci.Source {
	u := w.upstream(who, secret)
	u.Times, u.Organisation = w.times, who
	u.Spec = &registry.Spec{Name: "registry.example", Origin: w.id}
	return w.cache.Through(u)
}

func newTenancy(t *testing.T, seed uint64) *tenancy {
	t.Helper()
	w := &tenancy{
		house: &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}},
		t:     t, rand: rand.New(rand.NewPCG(seed, 0)), refusesBy: -1, budget: 100, folder: ocitest.MemoryDir(t),
		told: map[string]*told{"acme": {about: map[string]time.Time{}}, "globex": {about: map[string]time.Time{}}},
	}
	w.bubble = true
	w.times = proof.Times{
		AccessTTL: []time.Duration{5 * time.Minute, 30 * time.Second}[w.rand.IntN(2)],
		Grace:     []time.Duration{24 * time.Hour, 2 * time.Hour}[w.rand.IntN(2)],
		Doubt:     []time.Duration{time.Hour, 10 * time.Minute, -1}[w.rand.IntN(3)],
	}
	w.objects = w.image("acme/app", "1", 1)
	w.fault = w.answer
	w.after = func(c call) {
		if c.repo == "acme/app" {
			n := w.told[c.principal.Organisation]
			n.yes = time.Now()
			n.about[c.ref] = n.yes
		}
	}
	w.start()
	return w
}

// Whatever a tenant does whose right was withdrawn, what is kept goes out to it for no
// longer than the times say: for the access TTL and one request that the registry
// answers plainly; where it answers with limits and riddles for doubt after the last
// yes, with 0s of it not at all; where it answers nobody for grace. And whatever it
// does, those whose right stands get what they may have.
func TestTenant_RevokedWhateverHeDoes(t *testing.T) {
	runs, first := 15, uint64(time.Now().UnixNano())
	if os.Getenv("BERTH_LONG") != "" {
		runs = 1000
	}
	if s := os.Getenv("BERTH_SEED"); s != "" {
		runs = 1
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	for i := range runs {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprint("BERTH_SEED=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTenancy(t, seed)
				defer func() {
					if err := w.cache.Close(); err != nil {
						t.Error(err)
					}
				}()
				pull(t, w.source("acme", "secret"), "acme/app", "1", w.objects)
				pull(t, w.source("globex", "secret"), "acme/app", "1", w.objects)
				for range 40 {
					w.step()
				}
			})
		})
		if !ok {
			break
		}
	}
}
