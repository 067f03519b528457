package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"

	"berth/upstream/classify"
)

// maxList bounds a list. Pages are small, but some registries send every tag in one
// answer, and 100,000 tags of the longest kind are 13 MB.
const maxList = 16 << 20

// isList says whether op asks for a list.
func (o operation) isList() bool { return o == opTags || o == opReferrers }

// List asks for a page of tags or referrers and passes it on as it is.
func (s *source) List(ctx context.Context, req oci.ListRequest) (*oci.Page, error) {
	c := &call{op: opTags, method: http.MethodGet, repo: req.Repo, path: "tags/list", query: req.Query.Encode(), accept: acceptTags}
	if req.Kind == oci.Referrers {
		c.op, c.path, c.accept = opReferrers, "referrers/"+req.Digest.String(), v1.MediaTypeImageIndex
	}
	a, err := s.do(ctx, c)
	if c.op == opReferrers && isAstray(err) {
		return nil, noReferrers(s.asker(nil, c.repo), http.StatusFound)
	}
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, s.listRefused(ctx, a, c)
	}
	data, err := readList(a)
	if err != nil {
		return nil, err
	}
	if data, err = listOf(a, c.op, data); err != nil {
		return nil, err
	}
	next, err := nextQuery(a.Header.Values("Link"), c.request(s.Registry).URL)
	if err != nil {
		e := a.body.who.nonsense("sent a page of a list whose link to the next one is not understood: %s", err)
		e.Err = err // it will be the same the next time
		return nil, e
	}
	return &oci.Page{
		MediaType:      listType(c.op, a.Header),
		Body:           data,
		Next:           next,
		FiltersApplied: oci.OneLine(a.Header.Get("OCI-Filters-Applied"), 200),
		Outcome:        outcome(a),
	}, nil
}

// readList reads the body of a list and closes it. Whoever asked has made room for it.
func readList(a *answer) ([]byte, error) {
	defer func() { _ = a.Body.Close() }() // everything that could fail has been read
	a.body.stall = smallStall
	clock := time.AfterFunc(smallLimit, func() { a.body.end(errTooSlow) })
	defer clock.Stop()
	data, err := io.ReadAll(io.LimitReader(a.Body, maxSmall+1))
	if err != nil || len(data) <= maxSmall {
		return data, err
	}
	whole := bytes.NewBuffer(make([]byte, 0, maxList+2*bytes.MinRead))
	whole.Write(data)
	_, err = whole.ReadFrom(io.LimitReader(a.Body, maxList+1-int64(len(data))))
	if whole.Len() > maxList {
		e := a.body.who.nonsense("sent a list of more than %d MiB: ask for it in pages, with ?n=1000", maxList>>20)
		e.Status, e.Code, e.Err = http.StatusRequestEntityTooLarge, oci.CodeUnsupported, nil // it will be as long the next time
		return nil, e
	}
	return whole.Bytes(), err
}

// listOf is the list in the body of an answer, or why there is none. A registry that
// has no referrers may answer 200 with a web page or an empty document all the same.
// Passed on, it would be an empty list, and a signature that lies under the fallback
// tag would not be found.
func listOf(a *answer, op operation, data []byte) ([]byte, error) {
	var broken error
	for _, text := range versions(a.Header, data) {
		is := isTags
		if op == opReferrers {
			is = isReferrers
		}
		ok, err := is(text)
		if ok {
			return text, nil
		}
		broken = err
	}
	if op == opReferrers {
		return nil, noReferrers(a.body.who, a.StatusCode)
	}
	e := a.body.who.nonsense("sent something else than a list of tags; check that its endpoint is a registry, and who is between")
	if broken != nil {
		e.Err = fmt.Errorf("%w: %w", errUnusable, broken)
	}
	return nil, e
}

// isTags says whether data may be a list of tags. Its names are no manifest's, so that
// a key in another case misleads nobody.
func isTags(data []byte) (bool, error) {
	var doc struct{ Name, Tags beginning }
	err := json.Unmarshal(data, &doc)
	return err == nil && (doc.Name != 0 || doc.Tags != 0), err
}

// beginning is the first character of a value of which nothing else is kept: a list
// may be long, and is passed on as it came.
type beginning byte

// UnmarshalJSON keeps the first character of data.
func (b *beginning) UnmarshalJSON(data []byte) error {
	*b = beginning(data[0])
	return nil
}

// isReferrers says whether data is an index, as the distribution specification wants
// it (1.1, listing referrers).
func isReferrers(data []byte) (bool, error) {
	doc, err := oci.DecodeJSON[struct {
		MediaType string    `json:"mediaType"`
		Manifests beginning `json:"manifests"`
	}](data)
	if doc.Manifests != 0 && doc.Manifests != '[' && doc.Manifests != 'n' { // null lists nothing
		return false, err
	}
	return err == nil && (oci.IsIndex(doc.MediaType) || doc.MediaType == "" && doc.Manifests == '['), err
}

// noReferrers is the 404 upon which clients look for the fallback tag.
func noReferrers(who asker, status int) *oci.Error {
	return who.about(&oci.Error{
		Class:   oci.NotFound,
		Message: who.says() + fmt.Sprintf("has no referrers (%d): what refers to this image, if anything does, is under its fallback tag", status),
	})
}

// isAstray says whether err is a redirect to where this node does not follow.
func isAstray(err error) bool {
	_, target := errors.AsType[*targetFault](err)
	_, refused := errors.AsType[*refusal](err)
	return errors.Is(err, errAstray) || target && refused
}

// listRefused makes the error of an answer to c that is no list, and closes it.
func (s *source) listRefused(ctx context.Context, a *answer, c *call) error {
	if c.op == opReferrers && lacksReferrers(a) {
		discard(a.Response)
		return noReferrers(a.body.who, a.StatusCode)
	}
	switch a.StatusCode {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout,
		http.StatusGone, http.StatusTooManyRequests, http.StatusUnavailableForLegalReasons:
		return s.refused(ctx, a, c)
	}
	if a.target != nil || a.StatusCode < 400 || a.StatusCode >= 500 && a.StatusCode != http.StatusNotImplemented {
		return s.refused(ctx, a, c)
	}
	text, _, err := a.slurp(classify.MaxErrorBody, errorLimit)
	if err != nil && ctx.Err() != nil {
		return err
	}
	return s.unlisted(a, versions(a.Header, text)[0])
}

// unlisted is a 4xx that is about the list which was asked for, in its length or its
// parameters: whoever asked can ask for another one, so he gets status and text. Quay
// answers 400 and 413 to pages that are too long for it.
func (s *source) unlisted(a *answer, text []byte) error {
	said := classify.Shown(a.Header, text, a.cred)
	if said != "" {
		said = ": " + said
	}
	e := &oci.Error{
		Class: oci.NotFound, Status: a.StatusCode, Code: oci.CodeUnsupported,
		Message: oci.OneLine(a.body.who.says()+fmt.Sprintf("does not give this list (%d)%s", a.StatusCode, said), 500),
	}
	if a.StatusCode == http.StatusNotImplemented {
		e.Status = http.StatusNotFound
	}
	return a.body.who.about(e)
}

// lacksReferrers says whether an answer means that the registry knows no referrers.
// The specification wants 404. GHCR sends everyone to a web page (303); others call
// the path a bad request, and what is in front of a registry may allow only the paths
// that it knows. Whoever a redirect leads to is no registry unless it says so.
func lacksReferrers(a *answer) bool {
	switch a.StatusCode {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout,
		http.StatusTooManyRequests, http.StatusUnavailableForLegalReasons:
		return a.target != nil
	}
	return a.StatusCode < 500 || a.StatusCode == http.StatusNotImplemented || a.StatusCode == http.StatusHTTPVersionNotSupported ||
		a.target != nil && classify.IsPage(a.Header)
}

// listType is the media type of a list, whatever the registry calls it.
func listType(op operation, h http.Header) string {
	if op == opReferrers {
		return v1.MediaTypeImageIndex
	}
	if t := typeOf(h); t != "" && !classify.IsPage(h) {
		return t
	}
	return acceptTags
}
