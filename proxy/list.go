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

// maxList is what a registry may send at once: some send every tag in one answer.
const maxList = 16 << 20

// list answers end-8 and end-12. What the registry says goes through, a 404 for
// referrers too: clients then look for the tag that older registries use.
func (q *request) list(ctx context.Context, source oci.Source) error {
	wanted := oci.ListRequest{Kind: oci.Tags, Repo: q.route.Repo, Query: q.parsed.Query}
	mediaType := jsonType
	if q.parsed.Endpoint == oci.EndpointReferrers {
		wanted.Kind, wanted.Digest = oci.Referrers, q.parsed.Digest
		mediaType = referrersType
	}
	q.reads(maxList)
	if err := q.memory.Need(ctx, nil); err != nil {
		return err
	}
	page, err := source.List(ctx, wanted)
	if err != nil {
		return err
	}
	over, err := q.memory.keeps(ctx, int64(len(page.Body)), &q.w)
	if err != nil {
		return err
	}
	defer over()
	q.outcome = page.Outcome
	if page.Next != "" {
		link, err := q.link(page.Next)
		if err != nil {
			return err
		}
		q.set("Link", link)
	}
	if page.FiltersApplied != "" {
		q.set("Oci-Filters-Applied", oci.OneLine(page.FiltersApplied, 255))
	}
	q.describeAnswer()
	q.set("Content-Type", mediaType)
	return q.sendData(page.Body)
}

// link leads to the next page by the path that the client took here, with the
// registry named as before: it follows the link as it is (RFC 8288).
func (q *request) link(next string) (string, error) {
	// net/url takes no bare semicolon, which is legal.
	query, err := url.ParseQuery(strings.ReplaceAll(next, ";", "%3B"))
	if err != nil {
		return "", fmt.Errorf("the registry's link to the next page: %w", err)
	}
	query.Del("ns")
	if q.parsed.NS != "" {
		query.Set("ns", q.parsed.NS)
	}
	u := url.URL{Path: q.r.URL.Path, RawQuery: query.Encode()}
	return "<" + u.String() + `>; rel="next"`, nil
}
