package upstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"

	"berth/oci"

	"berth/auth/credential"
)

// Identity is as whom a registry is asked.
type Identity struct {
	// Organisation is for whom, for messages and labels. Empty: for nobody, or
	// for everyone.
	Organisation string
	// Payer is whose limits a request counts against. Empty: Organisation's.
	Payer string
	// Credential finds the credential for a repository; nil, and no error, where
	// there is none: then it is the shared principal. If the func is nil, there never
	// is one. It is called for every request, so it answers from memory.
	Credential func(ctx context.Context, repo string) (*credential.Credential, error)
}

// As is the registry as id may see it. A Source is cheap and keeps nothing.
func (r *Registry) As(id Identity) oci.Source {
	if id.Credential == nil {
		id.Credential = func(context.Context, string) (*credential.Credential, error) { return nil, nil } //nolint:nilnil // nobody
	}
	return &source{Registry: r, id: id}
}

// source is a Registry as one organisation.
type source struct {
	*Registry
	id Identity
}

var errKind = errors.New("neither a manifest nor a blob")

// Principal is that of the credential for repo. While that cannot be read, it is a
// principal of its own each time: nothing has been proven to it, and nothing that is
// proven to it will be found again.
func (s *source) Principal(repo string) oci.Principal {
	cred, err := s.id.Credential(context.Background(), repo)
	if err != nil {
		return oci.Principal{Organisation: s.id.Organisation, Fingerprint: "unreadable-" + rand.Text()}
	}
	return cred.Principal()
}

// payer is whose limits count what s asks.
func (s *source) payer() string { return cmp.Or(s.id.Payer, s.id.Organisation) }

// paid is ctx with the payer, whose retries it has. What it asks as is added for each call.
func (s *source) paid(ctx context.Context) context.Context {
	return oci.OnBehalf(ctx, oci.Behalf{Payer: s.payer()})
}

// Resolve asks what a tag means: by HEAD, which costs nothing of Docker Hub's
// pull limit, and by GET where the answer to that is not enough.
func (s *source) Resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	ctx = s.paid(ctx)
	return retryUnusable(ctx, s.Registry, func() (oci.Resolution, error) { return s.resolve(ctx, repo, tag) })
}

// Stat proves that o is there, at the smallest price.
func (s *source) Stat(ctx context.Context, o oci.Object) (*oci.Content, error) {
	ctx = s.paid(ctx)
	switch o.Kind {
	case oci.Manifest:
		return retryUnusable(ctx, s.Registry, func() (*oci.Content, error) { return s.statManifest(ctx, o) })
	case oci.Blob:
		return retryUnusable(ctx, s.Registry, func() (*oci.Content, error) { return s.statBlob(ctx, o) })
	}
	return nil, errKind
}

// Open opens a manifest, whole and verified, or the piece r of a blob, which the
// caller verifies.
func (s *source) Open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	ctx = s.paid(ctx)
	switch o.Kind {
	case oci.Manifest:
		return retryUnusable(ctx, s.Registry, func() (*oci.Content, error) { return s.manifest(ctx, o.Repo, o.Digest.String(), o.Digest, true) })
	case oci.Blob:
		return retryUnusable(ctx, s.Registry, func() (*oci.Content, error) { return s.openBlob(ctx, o, r) })
	}
	return nil, errKind
}
