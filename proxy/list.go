package proxy

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"berth/oci"
)

// referrersType is what the distribution specification wants of end-12.
const referrersType = "application/vnd.oci.image.index.v1+json"

// list answers end-8 and end-12. What the registry says goes through, a 404 for
// referrers too: clients then look for the tag that older registries use.
func (x *exchange) list(ctx context.Context, source oci.Source) error {
	request := oci.ListRequest{Kind: oci.Tags, Repo: x.route.Repo, Query: x.req.Query}
	mediaType := jsonType
	if x.req.Endpoint == oci.EndpointReferrers {
		request.Kind, request.Digest = oci.Referrers, x.req.Digest
		mediaType = referrersType
	}
	page, err := source.List(ctx, request)
	if err != nil {
		return err
	}
	x.outcome = page.Outcome
	if page.Next != "" {
		link, err := x.link(page.Next)
		if err != nil {
			return err
		}
		x.set("Link", link)
	}
	if page.FiltersApplied != "" {
		x.set("Oci-Filters-Applied", oci.OneLine(page.FiltersApplied, 255))
	}
	x.set("Cache-Control", noCache)
	x.mention()
	return x.sendBytes(mediaType, page.Body)
}

// link leads to the next page by the path that the client took here, with the
// registry named as before: it follows the link as it is (RFC 8288).
func (x *exchange) link(next string) (string, error) {
	// net/url takes no bare semicolon, which is legal.
	query, err := url.ParseQuery(strings.ReplaceAll(next, ";", "%3B"))
	if err != nil {
		return "", fmt.Errorf("the registry's link to the next page: %w", err)
	}
	query.Del("ns")
	if x.req.NS != "" {
		query.Set("ns", x.req.NS)
	}
	u := url.URL{Path: x.r.URL.Path, RawQuery: query.Encode()}
	return "<" + u.String() + `>; rel="next"`, nil
}
