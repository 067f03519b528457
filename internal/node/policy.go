package node

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"berth/cache/proof"
	"berth/internal/admin"
	"berth/internal/config"
	"berth/oci"
	"berth/policy"
)

// policyFor is what organisation may pull: what the main file lets everyone, and of
// that what its own rules leave.
func policyFor(cfg *config.Config, organisation string) policy.Policy {
	own := cfg.Organisations[organisation].Policy // of nobody, nothing
	return policy.New(rules(&cfg.Policy), rules(&own))
}

func rules(p *config.Policy) *policy.Rules {
	at := func(key string) policy.Place { return policy.Place(p.Places[key]) }
	return &policy.Rules{
		Allow: patterns(p.Allow), AllowAt: at("allow"),
		Deny:       patterns(p.Deny),
		DigestOnly: p.DigestOnly, DigestOnlyAt: at("digest_only"),
		MaxImageSize: p.MaxImageSize.Bytes, MaxImageSizeAt: at("max_image_size"),
		Cooldown: p.Cooldown, CooldownAt: at("cooldown"), CooldownExcept: patterns(p.CooldownExcept),
	}
}

// patterns is nil for nil, which is no list.
func patterns(all []config.Rule) (out []policy.Pattern) {
	for _, r := range all {
		out = append(out, policy.Pattern{ImagePattern: r.ImagePattern, At: policy.Place(r.Place)})
	}
	return out
}

// held are the tags that have moved and are held back, and the names of registries by
// their origins.
func (n *node) held(ctx context.Context) (all []policy.Held, names map[string]string) {
	n.mu.Lock()
	g := n.current
	n.mu.Unlock()
	if g == nil || !holds(g.cfg) {
		return nil, nil // without a look at the disk
	}
	names = map[string]string{}
	for s := range g.registries {
		names[s.Origin.Dir()] = s.Name
	}
	all, err := policy.AllHeld(ctx, n.cache.Proofs(), n.now(), func(k proof.NoteKey) (policy.Policy, string) {
		return policyFor(g.cfg, k.Organisation), names[k.Origin]
	})
	if err != nil {
		n.log.Warn("the tags that are held cannot be listed", "err", err)
	}
	return all, names
}

// heldContent names what those tags serve: it stays in the cache.
func (n *node) heldContent(ctx context.Context, keep func(origin string, manifest oci.Digest)) {
	all, _ := n.held(ctx)
	for _, h := range all {
		keep(h.Origin, h.Serves)
	}
}

// heldOf are those tags for people, those that end first before the others.
func (n *node) heldOf(ctx context.Context) []admin.Held {
	all := []admin.Held{}
	held, names := n.held(ctx)
	for _, h := range held {
		all = append(all, admin.Held{
			Organisation: cmp.Or(h.Organisation, admin.Nobody), Image: names[h.Origin] + "/" + h.Repo + ":" + h.Tag,
			Serves: h.Serves.String(), New: h.New.String(), Until: h.Until.UTC().Truncate(time.Second),
		})
	}
	slices.SortFunc(all, func(a, b admin.Held) int {
		return cmp.Or(a.Until.Compare(b.Until), strings.Compare(a.Image, b.Image), strings.Compare(a.Organisation, b.Organisation))
	})
	return all
}

// holds says whether anything in cfg holds a tag back.
func holds(cfg *config.Config) bool {
	if cfg.Policy.Cooldown > 0 {
		return true
	}
	for _, o := range cfg.Organisations {
		if o.Policy.Cooldown > 0 {
			return true
		}
	}
	return false
}

// Verdict is what a policy says of an image by its name.
type Verdict struct {
	Image        string `json:"image"`
	Organisation string `json:"organisation"`
	Allowed      bool   `json:"allowed"`
	// Rule is what refuses it, with its file and line, and Why in words.
	Rule string `json:"rule,omitempty"`
	Why  string `json:"why,omitempty"`
	// Unless are rules that its name alone does not settle.
	Unless []string `json:"unless,omitempty"`
}

// Judge says whether organisation (empty: nobody) may pull image by cfg, as far as its
// name tells. Nothing is asked.
func Judge(cfg *config.Config, image, organisation string) (Verdict, error) {
	router, err := NewRouter(cfg)
	if err != nil {
		return Verdict{}, err
	}
	route, ref, err := (&generation{router: router}).route(image, organisation)
	if err != nil {
		return Verdict{}, err
	}
	name := route.Registry.Name + "/" + route.Repo
	found := policyFor(cfg, organisation).Judge(name, ref)
	v := Verdict{Image: found.Image, Organisation: cmp.Or(organisation, admin.Nobody), Allowed: found.Refused == nil, Unless: found.Unless}
	if r := found.Refused; r != nil {
		v.Rule, v.Why = r.Rule, r.Why
	}
	return v, nil
}
