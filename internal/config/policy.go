package config

import (
	"errors"
	"time"

	"berth/oci"
)

// Policy says which images may be pulled. That of the main file holds for everyone;
// an organisation's own holds besides it, and so can only narrow it: see policy.md.
type Policy struct {
	// What may be pulled, and nothing else: patterns over registry/repository, with
	// :tag for some tags only. "*" stands for any characters within a component or a
	// tag, "**" for any number of components. Default: everything.
	Allow []Rule `yaml:"allow"`

	// What may not be pulled, whatever allow says. Default: nothing.
	Deny []Rule `yaml:"deny"`

	// Whether images may be pulled by digest only, and not by tag. Default: false.
	DigestOnly bool `yaml:"digest_only"`

	// The most that the layers and the configuration of one image may have together,
	// as its manifest says, in bytes (20GiB). Default: 0, any number.
	MaxImageSize Size `yaml:"max_image_size"`

	// For how long a tag that has moved keeps what it meant before, here and for this
	// organisation; what is pulled by digest is never held. Default: 0s, not at all.
	// At most 30d.
	Cooldown time.Duration `yaml:"cooldown"`

	// Images that cooldown does not hold, written like those of allow. Default: none.
	CooldownExcept []Rule `yaml:"cooldown_except"`

	// Reserved for what must be signed: refused until signatures are checked. Default:
	// nothing.
	Signed notYet `yaml:"signed"`

	// Places are where in the files the keys stand: digest_only, max_image_size,
	// cooldown, allow.
	Places map[string]Place `yaml:"-"`
}

// Rule is a pattern over images, as it was written and where.
type Rule struct {
	oci.ImagePattern

	Place
}

// Place is a line of a file.
type Place struct {
	File string
	Line int
}

// UnmarshalText reads a pattern.
func (r *Rule) UnmarshalText(text []byte) (err error) {
	if r.ImagePattern, err = oci.ParseImagePattern(string(text)); err != nil {
		err = errors.New(quote(string(text)) + " selects no images: " + err.Error())
	}
	return err
}

// notYet is the value of a key that has a name before it has a use.
type notYet struct{}

func (notYet) refusal() string {
	return "not yet: signatures are not checked by this version: remove the key"
}

// placed notes where in file the rules stand, and the names that their registries go
// by. path is where the policy stands.
func (p *Policy) placed(file string, at positions, path string, n *names) {
	for key, rules := range map[string][]Rule{"allow": p.Allow, "deny": p.Deny, "cooldown_except": p.CooldownExcept} {
		for i := range rules {
			r := &rules[i]
			r.Place = at.place(file, indexed(dot(path, key), i))
			if name := r.Registry(); name != "" {
				r.ImagePattern = r.At(n.resolve(name))
			}
		}
	}
	p.Places = map[string]Place{}
	for _, key := range [...]string{"allow", "digest_only", "max_image_size", "cooldown"} {
		if where, ok := at[dot(path, key)]; ok {
			p.Places[key] = Place{file, where.line}
		}
	}
}

// policy checks p. In a drop-in the main file's holds too.
func (k *checker) policy(p *Policy, path string, own *names) {
	if p.Allow != nil && len(p.Allow) == 0 {
		k.errorf(dot(path, "allow"), "an empty list allows nothing: name what may be pulled, or remove the key to allow everything")
	}
	for key, rules := range map[string][]Rule{"allow": p.Allow, "deny": p.Deny, "cooldown_except": p.CooldownExcept} {
		for i, r := range rules {
			k.rule(r, indexed(dot(path, key), i), own)
			if p.DigestOnly && r.Tagged() {
				k.warnf(indexed(dot(path, key), i), "with digest_only nothing is pulled by tag, so where tags decide everything is refused: name repositories without tags")
			}
		}
	}
	if p.MaxImageSize.Percent > 0 {
		k.errorf(dot(path, "max_image_size"), "an image has no share of a disk: write bytes, such as 20GiB")
	}
	k.within(dot(path, "cooldown"), p.Cooldown, 0, maxGrace)
	if p.DigestOnly && p.Cooldown > 0 {
		k.warnf(dot(path, "cooldown"), "with digest_only no tag is ever served, so none is held: remove one of the two")
	}
	if len(p.CooldownExcept) > 0 && p.Cooldown == 0 {
		k.warnf(dot(path, "cooldown_except"), "there is no cooldown beside it, so it excepts nothing: write it where the cooldown stands")
	}
	if k.organisation == "" {
		return
	}
	whole := &k.c.Policy
	if most := whole.MaxImageSize.Bytes; most > 0 && p.MaxImageSize.Bytes > most {
		k.warnf(dot(path, "max_image_size"), "the main file allows less, which holds: remove the key, or write less")
	}
	if p.Cooldown > 0 && p.Cooldown < whole.Cooldown {
		k.warnf(dot(path, "cooldown"), "the main file holds tags for longer, which counts: remove the key, or write more")
	}
}

// rule warns of a registry that nobody could pull from.
func (k *checker) rule(r Rule, path string, own *names) {
	if name := r.Registry(); name != "" && !own.knows(name) {
		k.warnf(path, "no registry is called %s here, so the pattern selects nothing: name one as users write it, or add it under registries%s", quote(name), own.orMeant(name))
	}
}
