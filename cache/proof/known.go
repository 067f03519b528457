package proof

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"berth/oci"
)

// Known tells every proven membership, and every tag, to whoever lists what is
// kept. It says nothing about rights.
func (f *Proofs) Known(ctx context.Context, member func(Member), tag func(TagKey, Tag)) error {
	if f.disk == nil || f.disk.broken.Load() {
		f.remembered(member, tag)
		return ctx.Err()
	}
	if err := f.disk.flush(); err != nil {
		return err
	}
	err := f.disk.each(ctx.Done(), memberBucket, func(_ *bbolt.Tx, k, v []byte) {
		w, ok := decodeRecord(v)
		if m, is := decodeMember(k); ok && is && w.proven() {
			member(m)
		}
	})
	if err != nil {
		return err
	}
	err = f.disk.each(ctx.Done(), tagBucket, func(_ *bbolt.Tx, k, v []byte) {
		t, ok := decodeTag(v)
		if key, is := decodeTagKey(k); ok && is {
			tag(key, t)
		}
	})
	return errors.Join(err, ctx.Err())
}

// Proven tells every access that was proven and not denied since, however long ago: for
// whoever wants to know what an organisation has left behind. It gives no right.
func (f *Proofs) Proven(ctx context.Context, see func(Access)) error {
	if f.disk == nil || f.disk.broken.Load() {
		for a, w := range f.access.recent.All() {
			if w.proven() {
				see(a)
			}
		}
		return ctx.Err()
	}
	if err := f.disk.flush(); err != nil {
		return err
	}
	err := f.disk.each(ctx.Done(), accessBucket, func(_ *bbolt.Tx, k, v []byte) {
		w, ok := decodeRecord(v)
		if a, is := decodeAccess(k); ok && is && w.proven() {
			see(a)
		}
	})
	return errors.Join(err, ctx.Err())
}

// ManifestsOf are manifests of a repository, at most n, those first that were proven last.
func (f *Proofs) ManifestsOf(origin, repo string, n int) []oci.Digest {
	proven := map[oci.Digest]time.Time{}
	see := func(m Member, w record) {
		if m.Origin == origin && m.Repo == repo && m.Kind == oci.Manifest && w.proven() {
			proven[m.Digest] = w.at
		}
	}
	if f.disk != nil && !f.disk.broken.Load() {
		// Only a few records are looked at, and what is not written yet is in memory.
		_, _ = f.disk.step(memberBucket, join(origin, repo, oci.Manifest.String()), func(_ *bbolt.Tx, k, v []byte) { // it is logged
			w, ok := decodeRecord(v)
			if m, is := decodeMember(k); ok && is {
				see(m, w)
			}
		})
	}
	for m, w := range f.members.recent.All() {
		see(m, w)
	}
	all := slices.SortedFunc(maps.Keys(proven), func(a, b oci.Digest) int { return proven[b].Compare(proven[a]) })
	return all[:min(n, len(all))]
}

// remembered tells what memory has, where there is no file.
func (f *Proofs) remembered(member func(Member), tag func(TagKey, Tag)) {
	for m, w := range f.members.recent.All() {
		if w.proven() {
			member(m)
		}
	}
	for k, t := range f.tags.recent.All() {
		tag(k, t)
	}
}

// each reads a bucket from its beginning to its end, in steps, or until stop is closed.
func (d *disk) each(stop <-chan struct{}, b bucket, see func(tx *bbolt.Tx, k, v []byte)) error {
	for next, more := []byte(nil), true; more; more = next != nil {
		select {
		case <-stop:
			return nil
		default:
		}
		var err error
		if next, err = d.step(b, next, see); err != nil || d.broken.Load() {
			return err
		}
	}
	return nil
}

// parts reads what join wrote; nil for anything else.
func parts(key []byte, n int) []string {
	all := make([]string, 0, n)
	for range n {
		var part []byte
		if part, key = cutPart(key); part == nil {
			return nil
		}
		all = append(all, string(part))
	}
	if len(key) > 0 {
		return nil
	}
	return all
}

func decodeMember(key []byte) (Member, bool) {
	p := parts(key, 4)
	if p == nil {
		return Member{}, false
	}
	kind := oci.Blob
	if p[2] == oci.Manifest.String() {
		kind = oci.Manifest
	}
	d, err := oci.ParseDigest(p[3])
	return Member{Origin: p[0], Repo: p[1], Kind: kind, Digest: d}, err == nil
}

func decodeAccess(key []byte) (Access, bool) {
	p := parts(key, 5)
	if p == nil {
		return Access{}, false
	}
	return Access{Origin: p[0], Principal: oci.Principal{Organisation: p[1], Fingerprint: p[2]}, Repo: p[3], Digest: oci.Digest(p[4])}, true
}

func decodeTagKey(key []byte) (TagKey, bool) {
	p := parts(key, 5)
	if p == nil {
		return TagKey{}, false
	}
	return TagKey{Origin: p[0], Principal: oci.Principal{Organisation: p[1], Fingerprint: p[2]}, Repo: p[3], Tag: p[4]}, true
}
