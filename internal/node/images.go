package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"berth/cache"
	"berth/internal/admin"
	"berth/internal/config"
)

// images answers berth list.
func (n *node) images(ctx context.Context, r admin.ImagesRequest) (admin.Images, error) {
	kept, err := n.cache.Images(ctx)
	if err != nil {
		return admin.Images{}, err
	}
	if r.Organisation != "" {
		its, err := n.imagesOf(ctx, r.Organisation)
		if err != nil {
			return admin.Images{}, err
		}
		kept = slices.DeleteFunc(kept, func(i cache.Image) bool { return !its(i.Origin, i.Repository) })
	}
	names := n.origins()
	all := admin.Images{Images: make([]admin.Image, 0, len(kept))}
	for _, i := range kept {
		registry, ok := registryAt(names, i.Origin)
		all.Images = append(all.Images, admin.Image{
			Registry: registry, Unconfigured: !ok, Repository: i.Repository, Tags: append([]string{}, i.Tags...), Digest: i.Digest.String(),
			Platform: i.Platform, Bytes: i.Size, TotalBytes: i.Of, LastUse: i.LastUse.UTC(),
		})
	}
	return all, nil
}

// imagesOf tells whether an organisation, which may be gone by now, has pulled from a
// repository as itself, or has it at a registry of its own.
func (n *node) imagesOf(ctx context.Context, organisation string) (func(origin, repo string) bool, error) {
	if !config.ValidOrganisation(organisation) {
		return nil, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%.100q is no organisation", organisation)}
	}
	its, _, err := n.cache.Of(ctx, organisation)
	own := n.ownOrigins(organisation)
	return func(origin, repo string) bool { return own[origin] || its(origin, repo) }, err
}

// registryAt names the registry whose images are in a folder: by names, or, where it is not
// configured any more, by the folder.
func registryAt(names map[string]string, dir string) (name string, configured bool) {
	if name, configured = names[dir]; configured {
		return name, true
	}
	return formerly(dir), false
}

// formerly is the host of a registry that is not configured any more, as far as the
// folder of its images tells (oci.Origin.Dir).
func formerly(dir string) string {
	i := strings.LastIndexByte(dir, '-')
	if i <= 0 {
		return dir
	}
	host := dir[:i]
	if j := strings.LastIndexByte(host, '_'); j > 0 {
		if _, err := strconv.ParseUint(host[j+1:], 10, 16); err == nil {
			return host[:j] + ":" + host[j+1:]
		}
	}
	return host
}

// origins are the names of the registries by the folders of their images. One
// that an organisation brought has its name before it.
func (n *node) origins() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := map[string]string{}
	for s := range n.current.registries {
		names[s.Origin.Dir()] = s.Name
		if s.Organisation != "" {
			names[s.Origin.Dir()] = s.Organisation + "'s " + s.Name
		}
	}
	return names
}
