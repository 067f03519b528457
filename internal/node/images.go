package node

import (
	"context"
	"strconv"
	"strings"

	"berth/internal/admin"
)

// images answers berth list.
func (n *node) images(ctx context.Context) (admin.Images, error) {
	kept, err := n.cache.Images(ctx)
	if err != nil {
		return admin.Images{}, err
	}
	names := n.origins()
	all := admin.Images{Images: make([]admin.Image, 0, len(kept))}
	for _, i := range kept {
		registry, ok := names[i.Origin]
		if !ok {
			registry = formerly(i.Origin)
		}
		all.Images = append(all.Images, admin.Image{
			Registry: registry, Unconfigured: !ok, Repository: i.Repository, Tags: append([]string{}, i.Tags...), Digest: i.Digest.String(),
			Platform: i.Platform, Bytes: i.Size, TotalBytes: i.Of, LastUse: i.LastUse.UTC(),
		})
	}
	return all, nil
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
