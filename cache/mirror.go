package cache

import (
	"context"

	"berth/cache/facts"
	"berth/oci"
)

// mirrored opens a piece at the first mirror that has it, when the origin could
// not give it because of cause. A mirror proves nothing: its bytes count by their
// digest alone, and go only to those whom the origin has shown them to before,
// as they do from the disk. Nil: no mirror helps.
func (sp *sponsor) mirrored(ctx context.Context, r oci.Range, cause error) *oci.Content {
	s := sp.source
	if len(s.u.Mirrors) == 0 || !oci.ClassOf(cause).Indeterminate() || !sp.mayMirror(ctx, cause) {
		return nil
	}
	for _, m := range s.u.Mirrors {
		if ctx.Err() != nil {
			return nil
		}
		content, err := m.Open(ctx, sp.object, r)
		if err == nil {
			s.c.o.Log.Debug("a mirror stands in", "registry", s.u.Name, "repository", sp.object.Repo, "digest", sp.object.Digest)
			return content
		}
		s.c.o.Log.Debug("a mirror did not help", "registry", s.u.Name, "repository", sp.object.Repo, "digest", sp.object.Digest, "err", err)
	}
	return nil
}

// mayMirror says whether the sponsor may have the object although the origin
// does not give it now. A pull limit stops GETs of manifests and no HEADs, so
// there the origin can still be asked.
func (sp *sponsor) mayMirror(ctx context.Context, cause error) bool {
	if sp.within() {
		return true
	}
	if sp.object.Kind == oci.Manifest && oci.ClassOf(cause) == oci.RateLimited {
		_, err := sp.stat(ctx)
		return err == nil && sp.within()
	}
	return false
}

// within says whether what the origin has proven stands in while it is in trouble.
func (sp *sponsor) within() bool {
	state, _ := sp.source.state(sp.key.view, sp.object)
	state.Answer = facts.Indeterminate
	return facts.Decide(state) == facts.ServeStale
}
