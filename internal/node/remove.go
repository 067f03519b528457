package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"berth/cache"
	"berth/internal/admin"
	"berth/internal/config"
	"berth/oci"
)

// remove deletes what is kept of images, and forgets nothing else: berth purge does.
func (n *node) remove(ctx context.Context, r admin.RemoveRequest) (admin.Removal, error) {
	what, err := n.choose(ctx, r)
	if err != nil {
		return admin.Removal{}, err
	}
	done, err := n.cache.Remove(ctx, what)
	removed := admin.Removal{Manifests: done.Manifests, Blobs: done.Blobs, SharedBlobs: done.Shared, FreedBytes: done.Freed}
	if err != nil {
		return removed, fmt.Errorf("%d manifests and %d blobs are removed, the rest is not: %w", done.Manifests, done.Blobs, err)
	}
	if done.Manifests+done.Blobs+done.Shared == 0 {
		return removed, &admin.Error{Status: http.StatusNotFound, Message: "nothing of that is kept here: berth list shows what is"}
	}
	return removed, nil
}

func (n *node) choose(ctx context.Context, r admin.RemoveRequest) (cache.Choice, error) {
	switch {
	case (r.Image == "") == (r.Organisation == ""):
		return cache.Choice{}, &admin.Error{Status: http.StatusBadRequest, Message: "name an image or a digest, or an organisation"}
	case r.Organisation != "":
		return n.chooseOf(ctx, r.Organisation)
	}
	if d, err := oci.ParseDigest(r.Image); err == nil {
		return cache.Choice{Content: d}, nil
	}
	return n.chooseImage(r.Image)
}

// chooseOf chooses what only an organisation may pull, which may be gone by now.
func (n *node) chooseOf(ctx context.Context, organisation string) (cache.Choice, error) {
	if !config.ValidOrganisation(organisation) {
		return cache.Choice{}, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%.100q is no organisation", organisation)}
	}
	_, only, err := n.cache.Of(ctx, organisation)
	own := n.ownOrigins(organisation)
	return cache.Choice{Image: func(origin, repo string, _ []string, _ oci.Digest) bool {
		return own[origin] || only(origin, repo)
	}}, err
}

// ownOrigins are those that only registries of organisation's own lead to.
func (n *node) ownOrigins(organisation string) map[string]bool {
	own := map[string]bool{}
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.current.registries {
		if s.Organisation == organisation {
			own[s.Origin.Dir()] = true
		}
	}
	for s := range n.current.registries {
		if s.Organisation != organisation {
			delete(own, s.Origin.Dir()) // others reach the same place under a name of theirs
		}
	}
	return own
}

// chooseImage reads a name as berth list prints it, or as users write it.
func (n *node) chooseImage(image string) (cache.Choice, error) {
	below := strings.TrimSuffix(image, "/*")
	names := n.origins()
	inside := func(origin, repo string, _ []string, _ oci.Digest) bool {
		registry, _ := registryAt(names, origin)
		return strings.HasPrefix(registry+"/"+repo+"/", below+"/")
	}
	if below != image {
		return cache.Choice{Image: inside}, nil
	}
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return cache.Choice{}, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%.200q is neither the name of an image nor a digest", image)}
	}
	tag, digest := "", oci.Digest("")
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if d, ok := ref.(reference.Digested); ok {
		tag, digest = "", d.Digest()
	}
	its := n.repositoryNamed(ref)
	return cache.Choice{Image: func(origin, repo string, tags []string, d oci.Digest) bool {
		return its(origin, repo) && (tag == "" || slices.Contains(tags, tag)) && (digest == "" || d == digest)
	}}, nil
}

// repositoryNamed is the repository of an image by the name of its registry, whether
// that is configured still or not.
func (n *node) repositoryNamed(ref reference.Named) func(origin, repo string) bool {
	n.mu.Lock()
	route, _, err := n.current.route(ref.Name(), "")
	n.mu.Unlock()
	names := n.origins()
	return func(origin, repo string) bool {
		if err == nil && origin == route.Registry.Origin.Dir() && repo == route.Repo {
			return true
		}
		registry, _ := registryAt(names, origin)
		return registry+"/"+repo == ref.Name()
	}
}
