package upstream

import (
	"context"
	"encoding/json"
	"net/http"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// List asks for a page of tags or referrers and passes it on as it is.
func (s *source) List(ctx context.Context, req oci.ListRequest) (*oci.Page, error) {
	c := &call{op: opTags, method: http.MethodGet, repo: req.Repo, path: "tags/list", query: req.Query.Encode(), accept: acceptTags}
	if req.Kind == oci.Referrers {
		c.op, c.path, c.accept = opReferrers, "referrers/"+req.Digest.String(), v1.MediaTypeImageIndex
	}
	a, err := s.do(ctx, c)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, s.refused(ctx, a, c)
	}
	who := a.body.who
	data, over, err := a.slurp(maxSmall, smallLimit)
	if err != nil {
		return nil, err
	}
	data = versions(a.Header, data)[0]
	if over || !json.Valid(data) {
		return nil, who.nonsense("sent a list that is not JSON or is larger than %d MiB", maxSmall>>20)
	}
	from := c.request(s.Registry).URL
	return &oci.Page{
		MediaType:      listType(c.op, a.Header),
		Body:           data,
		Next:           nextQuery(a.Header.Values("Link"), from),
		FiltersApplied: oci.OneLine(a.Header.Get("OCI-Filters-Applied"), 200),
		Outcome:        outcome(a),
	}, nil
}

// listType is the media type of a list, whatever the registry calls it.
func listType(op operation, h http.Header) string {
	if op == opReferrers {
		return v1.MediaTypeImageIndex
	}
	if t := typeOf(h); t != "" {
		return t
	}
	return acceptTags
}
