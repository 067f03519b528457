package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"berth/cache/proof"
	"berth/oci"
)

// meaning is what a tag has meant, and since when that is known here.
type meaning struct {
	Digest    oci.Digest `json:"digest"`
	MediaType string     `json:"media_type,omitempty"`
	Size      int64      `json:"size"`
	// Seen is when it was first seen, in nanoseconds since 1970; 0: it was the first that
	// was ever seen of the tag, which is never held.
	Seen int64 `json:"seen,omitempty"`
}

func (m *meaning) until(cooldown time.Duration) time.Time {
	if m.Seen == 0 {
		return time.Time{}
	}
	return time.Unix(0, m.Seen).Add(cooldown)
}

// maxMeanings bounds what is remembered of a tag that moves all the time. Above it the
// newest gives way to a newer one, so that the older ones come of age.
const maxMeanings = 32

// history is what a tag has meant, the last one last.
type history []meaning

func decodeHistory(text string) (h history) {
	if text == "" || json.Unmarshal([]byte(text), &h) != nil {
		return nil
	}
	return h
}

func (h history) encode() string {
	text, err := json.Marshal(h)
	if err != nil {
		return "" // cannot happen: strings and numbers
	}
	return string(text)
}

// now is the history after the tag was seen to mean d. A meaning that is in it already
// keeps the time when it was first seen.
func (h history) now(d *oci.Descriptor, at time.Time) history {
	m := meaning{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Seen: at.UnixNano()}
	if len(h) == 0 {
		m.Seen = 0
	}
	for i := range h { // a clock that was set back must not hold for longer than it says
		h[i].Seen = min(h[i].Seen, m.Seen)
	}
	if i := slices.IndexFunc(h, func(m meaning) bool { return m.Digest == d.Digest }); i >= 0 {
		m.Seen = h[i].Seen
		h = slices.Delete(h, i, i+1)
	} else if len(h) >= maxMeanings {
		h = h[:maxMeanings-1]
	}
	return append(h, m)
}

// served is the newest of h that is no longer held, and the rest without what is older
// than that.
func (h history) served(cooldown time.Duration, now time.Time) history {
	for i := len(h) - 1; i > 0; i-- {
		if !h[i].until(cooldown).After(now) {
			return h[i:]
		}
	}
	return h
}

func (s *source) tagKey(repo, tag string) proof.NoteKey {
	return proof.NoteKey{Origin: s.at.Origin, Organisation: s.at.Organisation, Repo: repo, Tag: tag}
}

// before is what is known of tag when it is asked for: where nothing is noted yet, what
// it was proven to mean before there was a cooldown.
func (s *source) before(repo, tag string) history {
	if d, _ := s.policy.cooldown(s.name(repo), tag); d == 0 || s.notes.Note(s.tagKey(repo, tag)) != "" {
		return nil
	}
	t, _ := s.notes.Tag(proof.TagKey{Origin: s.at.Origin, Principal: s.Principal(repo), Repo: repo, Tag: tag})
	if t.Digest == "" {
		return nil
	}
	return history{{Digest: t.Digest, MediaType: t.MediaType, Size: t.Size}}
}

// cooled is r, or what the tag meant before it moved, as long as cooldown holds that.
func (s *source) cooled(ctx context.Context, repo, tag string, before history, r oci.Resolution) (oci.Resolution, error) {
	cooldown, at := s.policy.cooldown(s.name(repo), tag)
	if cooldown == 0 {
		return r, nil
	}
	now := s.now()
	h := decodeHistory(s.notes.Noted(s.tagKey(repo, tag), true, func(old string) string {
		known := decodeHistory(old)
		if len(known) == 0 {
			known = before
		}
		return known.now(&r.Descriptor, now).served(cooldown, now).encode()
	}))
	if len(h) < 2 {
		return r, nil
	}
	old := h[0]
	held := oci.Resolution{Descriptor: oci.Descriptor{Digest: old.Digest, MediaType: old.MediaType, Size: old.Size}, Outcome: r.Outcome}
	_, err := s.next.Stat(ctx, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: old.Digest})
	if oci.ClassOf(err) == oci.NotFound {
		until := h[len(h)-1].until(cooldown)
		gone := refusal("cooldown", cooldown.String(), at, fmt.Sprintf("it has moved, RULE holds what it means now until %s, and what it meant before is gone: pull it by digest (%s), or add %s:%s to policy.cooldown_except",
			until.UTC().Format(time.RFC3339), r.Digest, s.name(repo), tag))
		return oci.Resolution{}, s.refused(repo, ":"+tag, gone)
	}
	return held, nil
}

// Held is a tag that has moved and still serves what it meant before.
type Held struct {
	proof.NoteKey

	// Serves is what it means here, New what it means at the registry, from Until on.
	Serves, New oci.Digest
	Until       time.Time
}

// AllHeld are the tags that are held now by what policy says about each.
func AllHeld(ctx context.Context, notes *proof.Proofs, now time.Time, policy func(proof.NoteKey) (p Policy, registry string)) (all []Held, err error) {
	err = notes.NotedTags(ctx, func(k proof.NoteKey, text string) {
		if len(all) == maxHeld {
			return
		}
		p, registry := policy(k)
		cooldown, _ := p.cooldown(registry+"/"+k.Repo, k.Tag)
		if cooldown == 0 {
			return
		}
		h := decodeHistory(text).served(cooldown, now)
		if last := len(h) - 1; last > 0 {
			all = append(all, Held{NoteKey: k, Serves: h[0].Digest, New: h[last].Digest, Until: h[last].until(cooldown)})
		}
	})
	return all, err
}

// maxHeld bounds a list for people.
const maxHeld = 1000
