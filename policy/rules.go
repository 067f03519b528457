// Package policy says which images an organisation may pull: an oci.Source around
// the one that reads through the cache, so that no route goes around it.
//
// Rules over a registry and a repository decide everything of a repository alike.
// Rules over tags and sizes are about images, and a blob has neither: it is of an
// image that the organisation was let have, or it is refused. What that takes is
// noted with the proofs, for each organisation by itself: nobody finds out by a
// refusal what another has pulled.
package policy

import (
	"fmt"
	"strings"
	"time"

	"berth/oci"
)

// Place is a line of a configuration file.
type Place struct {
	File string
	Line int
}

func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Pattern is one line of a list of images.
type Pattern struct {
	oci.ImagePattern

	At Place
}

// Rules are those of one configuration, the main file's or an organisation's. The
// zero value refuses nothing.
type Rules struct {
	// Allow is all that may be pulled, if it is not nil, and stands at AllowAt.
	Allow   []Pattern
	AllowAt Place
	// Deny wins over Allow.
	Deny []Pattern

	DigestOnly   bool
	DigestOnlyAt Place
	// MaxImageSize in bytes; 0: any.
	MaxImageSize   int64
	MaxImageSizeAt Place
	// Cooldown is for how long a tag that moved keeps what it meant, but for what
	// CooldownExcept names.
	Cooldown       time.Duration
	CooldownAt     Place
	CooldownExcept []Pattern
}

func (r *Rules) empty() bool {
	return r.Allow == nil && len(r.Deny) == 0 && !r.DigestOnly && r.MaxImageSize == 0 && r.Cooldown == 0
}

// Refusal is the rule that refuses, and why.
type Refusal struct {
	// Rule is the key, with what it says and where: "policy.deny docker.io/library/centos
	// (/etc/berth/config.yaml:12)".
	Rule string
	// Why ends "NAME may not be pulled: ".
	Why string
}

func refusal(key, says string, at Place, why string) *Refusal {
	rule := "policy." + key
	if says != "" {
		rule += " " + says
	}
	rule += " (" + at.String() + ")"
	return &Refusal{Rule: rule, Why: strings.Replace(why, "RULE", rule, 1)}
}

// repository says what refuses everything of name, which is registry/repository,
// whatever the tag.
func (r *Rules) repository(name string) *Refusal {
	for _, p := range r.Deny {
		if !p.Tagged() && p.MatchName(name) {
			return denied(p)
		}
	}
	if r.Allow == nil {
		return nil
	}
	for _, p := range r.Allow {
		if p.MatchName(name) {
			return nil
		}
	}
	return r.unlisted()
}

// tag says what refuses name:tag.
func (r *Rules) tag(name, tag string) *Refusal {
	if r.DigestOnly {
		return refusal("digest_only", "", r.DigestOnlyAt, "RULE: name it by its digest, as in NAME@sha256:...")
	}
	return r.tagItself(name, tag)
}

// tagItself says what refuses name:tag by deny and allow. digest_only, which is about
// how an image is asked for and not about the tag, does not count.
func (r *Rules) tagItself(name, tag string) *Refusal {
	for _, p := range r.Deny {
		if p.MatchName(name) && p.MatchTag(tag) {
			return denied(p)
		}
	}
	if r.Allow == nil {
		return nil
	}
	for _, p := range r.Allow {
		if p.MatchName(name) && p.MatchTag(tag) {
			return nil
		}
	}
	return r.unlisted()
}

func denied(p Pattern) *Refusal { return refusal("deny", p.String(), p.At, "RULE") }

func (r *Rules) unlisted() *Refusal {
	return refusal("allow", "", r.AllowAt, "it is not in RULE")
}

// byTag is the first rule by which the tags of name decide, so that what is asked for
// by digest must be what a tag means that may be pulled; nil: tags decide nothing.
func (r *Rules) byTag(name string) *Refusal {
	const why = "which of its tags may be is decided by RULE: pull it by one of those first"
	for _, p := range r.Deny {
		if p.Tagged() && p.MatchName(name) {
			return refusal("deny", p.String(), p.At, why)
		}
	}
	var found *Refusal
	for _, p := range r.Allow {
		switch {
		case !p.MatchName(name):
		case !p.Tagged():
			return nil
		case found == nil:
			found = refusal("allow", p.String(), p.At, why)
		}
	}
	return found
}

// size says whether an image of n bytes is too large.
func (r *Rules) size(n int64) *Refusal {
	if r.MaxImageSize == 0 || n <= r.MaxImageSize {
		return nil
	}
	return refusal("max_image_size", inBytes(r.MaxImageSize), r.MaxImageSizeAt, "it has "+inBytes(n)+", and that is more than RULE")
}

func inBytes(n int64) string {
	const units = "KMGT"
	f, unit := float64(n), ""
	for i := 0; f >= 1024 && i < len(units); i++ {
		f, unit = f/1024, units[i:i+1]+"i"
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + unit + "B"
}

// cooldown is for how long what name:tag means now is held back.
func (r *Rules) cooldown(name, tag string) time.Duration {
	for _, p := range r.CooldownExcept {
		if p.MatchName(name) && p.MatchTag(tag) {
			return 0
		}
	}
	return r.Cooldown
}

// Policy is what an organisation may pull: what none of these refuses. The main
// file's come first, and an organisation's own can only narrow them.
type Policy []*Rules

// New leaves out rules that refuse nothing.
func New(all ...*Rules) (p Policy) {
	for _, r := range all {
		if !r.empty() {
			p = append(p, r)
		}
	}
	return p
}

func (p Policy) first(refuses func(*Rules) *Refusal) *Refusal {
	for _, r := range p {
		if found := refuses(r); found != nil {
			return found
		}
	}
	return nil
}

func (p Policy) repository(name string) *Refusal {
	return p.first(func(r *Rules) *Refusal { return r.repository(name) })
}

func (p Policy) byTag(name string) *Refusal {
	return p.first(func(r *Rules) *Refusal { return r.byTag(name) })
}

func (p Policy) size(n int64) *Refusal {
	return p.first(func(r *Rules) *Refusal { return r.size(n) })
}

func (p Policy) limitsSize() bool {
	for _, r := range p {
		if r.MaxImageSize > 0 {
			return true
		}
	}
	return false
}

// cooldown is the longest, and where it stands.
func (p Policy) cooldown(name, tag string) (longest time.Duration, at Place) {
	for _, r := range p {
		if d := r.cooldown(name, tag); d > longest {
			longest, at = d, r.CooldownAt
		}
	}
	return longest, at
}

// tag says what refuses name:tag.
func (p Policy) tag(name, tag string) *Refusal {
	return p.first(func(r *Rules) *Refusal { return r.tag(name, tag) })
}

// Judgement is what names alone tell.
type Judgement struct {
	// Image is what was judged, in full.
	Image string
	// Refused is nil for what may be pulled.
	Refused *Refusal
	// Unless are the rules that may still refuse it, or serve something older.
	Unless []string
}

// Judge says whether name, which is registry/repository, may be pulled by ref, which is
// a tag or a digest.
func (p Policy) Judge(name, ref string) (j Judgement) {
	if strings.Contains(ref, ":") { // a tag has none
		j.Image = name + "@" + ref
		j.Refused = p.repository(name)
		if r := p.byTag(name); r != nil {
			j.Unless = append(j.Unless, r.Rule+": by digest only what a tag means that may be pulled")
		}
	} else {
		j.Image = name + ":" + ref
		j.Refused = p.tag(name, ref)
		if d, at := p.cooldown(name, ref); d > 0 {
			j.Unless = append(j.Unless, refusal("cooldown", d.String(), at, "").Rule+": what the tag meant before it moved is served for as long")
		}
	}
	for _, r := range p {
		if r.MaxImageSize > 0 {
			j.Unless = append(j.Unless, r.size(r.MaxImageSize+1).Rule+": its manifest says how large it is")
		}
	}
	if j.Refused != nil {
		j.Unless = nil
	}
	return j
}
