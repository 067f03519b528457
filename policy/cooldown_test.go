package policy

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/cache/proof"
	"berth/oci"
)

const hold = 48 * time.Hour

func held() *Rules {
	return &Rules{Cooldown: hold, CooldownAt: Place{"main.yaml", 4}}
}

func (w *world) means(s oci.Source, tag string, want oci.Digest) {
	w.t.Helper()
	r, err := s.Resolve(w.t.Context(), repo, tag)
	if err != nil || r.Digest != want || len(w.objects[want]) != int(r.Size) {
		w.t.Errorf("at %s the tag means %s (%v), want %s", w.clock.Now().Format(time.DateTime), r.Digest, err, want)
	}
}

func (w *world) heldNow() string {
	w.t.Helper()
	all, err := AllHeld(w.t.Context(), w.notes, w.clock.Now(), func(proof.NoteKey) (Policy, string) { return New(held()), "ghcr.io" })
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	for _, h := range all {
		lines = append(lines, fmt.Sprintf("%s %s:%s %s->%s %s", h.Organisation, h.Repo, h.Tag, h.Serves[7:11], h.New[7:11], h.Until.UTC().Format(time.DateTime)))
	}
	return strings.Join(lines, "\n")
}

// A tag that moves serves what it meant for as long as cooldown says, over a restart;
// the first meaning ever seen is served at once.
func TestCooldown_HoldsATagThatMoves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	w := newWorld(t, path)
	a, b, c := w.image('a', 10).digest, w.image('b', 10).digest, w.image('c', 10).digest
	w.tags["1"] = a
	s := w.source(held())
	w.means(s, "1", a)
	w.clock.Advance(time.Hour)
	w.tags["1"] = b
	w.means(s, "1", a)
	if got, want := w.heldNow(), fmt.Sprintf("acme acme/app:1 %s->%s 2026-03-03 13:00:00", a[7:11], b[7:11]); got != want {
		t.Errorf("held is %q, want %q", got, want)
	}
	if err := (request{route: "GET digest", digest: b}).send(t.Context(), s); err != nil {
		t.Errorf("the new one by digest: %v", err)
	}
	w.means(w.sourceOf("globex", held()), "1", b) // who never saw it
	w.means(w.source(&Rules{Cooldown: hold, CooldownExcept: line(t, 5, "ghcr.io/acme/app:1")}), "1", b)
	w.means(w.source(&Rules{Cooldown: time.Minute}), "1", a)

	w.clock.Advance(24 * time.Hour)
	w.reopen(path)
	s = w.source(held())
	w.means(s, "1", a)
	w.tags["1"] = c
	w.means(s, "1", a)
	w.clock.Advance(24*time.Hour - time.Nanosecond)
	w.means(s, "1", a)
	w.clock.Advance(time.Nanosecond)
	w.means(s, "1", b) // the newest that is old enough
	w.clock.Advance(24 * time.Hour)
	w.means(s, "1", c)
	if got := w.heldNow(); got != "" {
		t.Errorf("held is %q", got)
	}
}

// Where rules about tags decide too, what a held tag means at the registry is that of an
// allowed tag all the same: by digest it may be pulled at once.
func TestCooldown_WithRulesAboutTags(t *testing.T) {
	w := newWorld(t, "")
	old, moved, other := w.image('a', 10), w.image('b', 10), w.image('c', 10)
	w.tags["1"], w.tags["2"] = old.digest, other.digest
	rules := held()
	rules.Allow, rules.MaxImageSize = line(t, 1, "ghcr.io/acme/app:1"), 1000
	s := w.source(rules)
	w.means(s, "1", old.digest)
	w.tags["1"] = moved.digest
	ask := func(route string, d oci.Digest) string {
		return verdict((request{route: route, digest: d}).send(t.Context(), s))
	}
	if got := ask("GET digest", moved.digest); got != "no" {
		t.Errorf("before the tag was asked for: %s", got)
	}
	w.means(s, "1", old.digest)
	for _, c := range []struct {
		route string
		d     oci.Digest
		want  string
	}{
		{"HEAD digest", moved.digest, "yes"}, {"GET digest", moved.digest, "yes"}, {"GET blob", moved.blobs[0], "yes"},
		{"GET digest", old.digest, "yes"}, {"GET blob", old.blobs[0], "yes"},
		{"GET digest", other.digest, "no"},
	} {
		if got := ask(c.route, c.d); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.route, c.d, got, c.want)
		}
	}
}

// The longer of two cooldowns counts, whoever wrote it.
func TestCooldown_OwnOneOnlyNarrows(t *testing.T) {
	for _, own := range []time.Duration{time.Hour, 3 * hold} {
		w := newWorld(t, "")
		a, b := w.image('a', 10).digest, w.image('b', 10).digest
		w.tags["1"] = a
		s := w.source(held(), &Rules{Cooldown: own})
		w.means(s, "1", a)
		w.tags["1"] = b
		w.means(s, "1", a)
		w.clock.Advance(max(own, hold) - time.Nanosecond)
		w.means(s, "1", a)
		w.clock.Advance(time.Nanosecond)
		w.means(s, "1", b)
	}
}

// What is taken back was never served, and counts as new when it comes again.
func TestCooldown_TakenBack(t *testing.T) {
	w := newWorld(t, "")
	good, bad := w.image('g', 10).digest, w.image('b', 10).digest
	w.tags["1"] = good
	s := w.source(held())
	w.means(s, "1", good)
	w.tags["1"] = bad
	w.means(s, "1", good)
	w.clock.Advance(hold - time.Hour)
	w.tags["1"] = good
	w.means(s, "1", good)
	w.clock.Advance(2 * time.Hour)
	w.means(s, "1", good)
	w.tags["1"] = bad
	w.means(s, "1", good)
	w.clock.Advance(hold)
	w.means(s, "1", bad)
}

// A tag that moves all the time serves what is old enough, and what is noted is bounded.
func TestCooldown_OfATagThatMovesAllTheTime(t *testing.T) {
	w := newWorld(t, "")
	s := w.source(held())
	last := oci.Digest("")
	for hour := range 24 * 30 {
		d := w.put(oci.Manifest, fmt.Appendf(nil, "%d", hour))
		w.tags["nightly"] = d
		r, err := s.Resolve(t.Context(), repo, "nightly")
		if err != nil {
			t.Fatal(err)
		}
		last = r.Digest
		w.clock.Advance(time.Hour)
	}
	served := 0
	if _, err := fmt.Sscan(string(w.objects[last]), &served); err != nil || served < 24*26 || served > 24*30-1-48 {
		t.Errorf("after a month it serves that of hour %d (%v)", served, err)
	}
	text := w.notes.Note(proof.NoteKey{Origin: "ghcr.io-1", Organisation: "acme", Repo: repo, Tag: "nightly"})
	if h := decodeHistory(text); len(h) > maxMeanings || len(text) > 8<<10 {
		t.Errorf("%d meanings, %d bytes are noted", len(h), len(text))
	}
}

// What it meant before is gone: no, with the line that lets the new one through.
func TestCooldown_WhatItMeantIsGone(t *testing.T) {
	w := newWorld(t, "")
	a, b := w.image('a', 10).digest, w.image('b', 10).digest
	w.tags["1"] = a
	s := w.source(held())
	w.means(s, "1", a)
	w.tags["1"] = b
	delete(w.objects, a)
	_, err := s.Resolve(t.Context(), repo, "1")
	e := oci.AsError(err)
	if verdict(err) != "no" || e.Rule != "policy.cooldown 48h0m0s (main.yaml:4)" {
		t.Errorf("%v, rule %q", err, e.Rule)
	}
	for _, words := range []string{"until 2026-03-03T12:00:00Z", b.String(), "add ghcr.io/acme/app:1 to policy.cooldown_except"} {
		if !strings.Contains(e.Message, words) {
			t.Errorf("%q lacks %q", e.Message, words)
		}
	}
	w.clock.Advance(hold)
	w.means(s, "1", b)
}

// A clock that was wrong for a while holds nothing for years.
func TestCooldown_ClockSetBack(t *testing.T) {
	w := newWorld(t, "")
	a, b := w.image('a', 10).digest, w.image('b', 10).digest
	w.tags["1"] = a
	s := w.source(held())
	w.means(s, "1", a)
	w.clock.Advance(10 * 365 * 24 * time.Hour)
	w.tags["1"] = b
	w.means(s, "1", a)
	w.clock.Advance(-10 * 365 * 24 * time.Hour)
	w.means(s, "1", a)
	w.clock.Advance(hold)
	w.means(s, "1", b)
}

// Who pulls at the same time sees the same.
func TestCooldown_ManyAtOnce(t *testing.T) {
	w := newWorld(t, "")
	a, b := w.image('a', 10).digest, w.image('b', 10).digest
	w.tags["1"] = a
	s := w.source(held())
	w.means(s, "1", a)
	w.tags["1"] = b
	got := make(chan oci.Digest, 20)
	for range cap(got) {
		go func() {
			s := &source{next: constant{w.shelf, b}, policy: New(held()), at: At{Registry: "ghcr.io", Origin: "ghcr.io-1", Organisation: "acme"}, notes: w.notes, now: w.clock.Now}
			r, _ := s.Resolve(t.Context(), repo, "1")
			got <- r.Digest
		}()
	}
	for range cap(got) {
		if d := <-got; d != a {
			t.Errorf("one got %s", d)
		}
	}
}

// constant answers without counting, so that many may ask.
type constant struct {
	*shelf

	digest oci.Digest
}

func (c constant) Resolve(context.Context, string, string) (oci.Resolution, error) {
	return oci.Resolution{Descriptor: oci.Descriptor{Digest: c.digest, Size: 1}}, nil
}

func (c constant) Stat(context.Context, oci.Object) (*oci.Content, error) {
	return &oci.Content{}, nil
}
