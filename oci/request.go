package oci

import (
	"net/http"
	"net/url"
	"strings"
)

// Endpoint says which call of the distribution specification a Request is.
type Endpoint uint8

// The endpoints of the pull side, with their numbers in the specification.
const (
	EndpointPing      Endpoint = iota + 1 // end-1 GET /v2/
	EndpointBlob                          // end-2
	EndpointManifest                      // end-3
	EndpointTags                          // end-8
	EndpointReferrers                     // end-12
)

// Request is a parsed request line. Nothing in it is trusted to select a
// registry or an organisation yet: that is routing's work.
type Request struct {
	Endpoint Endpoint
	// Prefix is the path before /v2/, without slashes at its ends; often empty.
	Prefix string
	// Name is everything between /v2/ and the endpoint. It may begin with an
	// organisation and a registry.
	Name string
	// Tag or Digest names the manifest; Digest the blob or the referrers' subject.
	Tag    string
	Digest Digest
	// NS is the ns parameter: the registry as containerd names it.
	NS string
	// Query holds the other parameters.
	Query url.Values
}

const maxQuery = 4096

// ParseRequest turns a request line into a Request. It is pure: no look-up, no
// I/O. Errors are *Error with the status and code to answer with: 405
// UNSUPPORTED for everything that writes, 404 for paths that the specification
// does not have, 400 for a bad name, tag or digest.
func ParseRequest(method string, u *url.URL) (Request, error) {
	// A second spelling of a path could pass a check that the first one fails:
	// nothing in a legal path needs escaping. Some clients escape the colon of a
	// digest all the same, or the slashes of a name, as one part of a path.
	if u.RawPath != "" && strings.Contains(unescaped(u.RawPath), "%") {
		return Request{}, badRequest(http.StatusBadRequest, CodeNameInvalid, "the path has an escaped character, which no name, tag or digest needs")
	}
	prefix, rest, ok := splitVersion(u.Path)
	if !ok {
		return Request{}, badRequest(http.StatusNotFound, CodeUnsupported, "this port answers image pulls, below /v2/; how the node is, berth status says, and the page at its admin.address (http://localhost:5001/ unless configured)")
	}
	if method != http.MethodGet && method != http.MethodHead {
		return Request{}, badRequest(http.StatusMethodNotAllowed, CodeUnsupported, "this proxy only answers pulls: push to the registry itself")
	}
	if prefix != "" && !ValidName(prefix) {
		return Request{}, badRequest(http.StatusBadRequest, CodeNameInvalid, "the path before /v2/ is not a registry name")
	}
	req := Request{Prefix: prefix}
	if err := req.parseQuery(u.RawQuery); err != nil {
		return Request{}, err
	}
	if rest == "" {
		req.Endpoint = EndpointPing
		return req, nil
	}
	if err := req.parseTail(rest); err != nil {
		return Request{}, err
	}
	return req, nil
}

// unescaped undoes the two escapes that clients use.
func unescaped(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(path), "%3a", ":"), "%2f", "/")
}

// splitVersion cuts path at the first "/v2/" (or a final "/v2"). What is
// before it is empty or begins with one slash: "//v2/" is no second spelling.
func splitVersion(path string) (prefix, rest string, ok bool) {
	before, rest, ok := strings.Cut(path, "/v2/")
	if !ok {
		before, ok = strings.CutSuffix(path, "/v2")
	}
	if before == "" {
		return "", rest, ok
	}
	prefix, rooted := strings.CutPrefix(before, "/")
	return prefix, rest, ok && rooted && prefix != ""
}

func (r *Request) parseQuery(raw string) error {
	if raw == "" {
		return nil
	}
	if len(raw) > maxQuery {
		return badRequest(http.StatusBadRequest, CodeUnsupported, "the query is too long")
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return badRequest(http.StatusBadRequest, CodeUnsupported, "the query cannot be read")
	}
	if len(q["ns"]) > 1 {
		return badRequest(http.StatusBadRequest, CodeNameInvalid, "there is more than one ns parameter")
	}
	r.NS = q.Get("ns")
	delete(q, "ns")
	r.Query = q
	return nil
}

// parseTail reads "<name>/<endpoint>/<reference>" from its end, since a name
// may itself contain "manifests" or "blobs".
func (r *Request) parseTail(rest string) error {
	head, ref := cutLast(rest)
	name, endpoint := cutLast(head)
	switch endpoint {
	case "manifests":
		r.Endpoint = EndpointManifest
		if ValidTag(ref) {
			r.Tag = ref
		} else if !strings.Contains(ref, ":") {
			return badRequest(http.StatusBadRequest, CodeManifestInvalid, "%.150q is neither a tag nor a digest", ref)
		} else if err := r.parseDigest(ref); err != nil {
			return err
		}
	case "blobs":
		r.Endpoint = EndpointBlob
		if err := r.parseDigest(ref); err != nil {
			return err
		}
	case "referrers":
		r.Endpoint = EndpointReferrers
		if err := r.parseDigest(ref); err != nil {
			return err
		}
	case "tags":
		if ref != "list" {
			return notAnEndpoint()
		}
		r.Endpoint = EndpointTags
	default:
		return notAnEndpoint()
	}
	if !ValidName(name) {
		return badRequest(http.StatusBadRequest, CodeNameInvalid, "%.300q is not a repository name: use lower-case letters, digits and the separators . _ - between them", name)
	}
	r.Name = name
	return nil
}

func (r *Request) parseDigest(ref string) error {
	d, err := ParseDigest(ref)
	if err != nil {
		return badRequest(http.StatusBadRequest, CodeDigestInvalid, "%.150q is not a digest: sha256: or sha512: and lower-case hex", ref)
	}
	r.Digest = d
	return nil
}

// cutLast splits s at its last slash; without one, everything is the tail.
func cutLast(s string) (head, tail string) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+1:]
}

func notAnEndpoint() error {
	return badRequest(http.StatusNotFound, CodeUnsupported, "no such endpoint: pulls use /v2/<name>/manifests/, /blobs/, /tags/list and /referrers/")
}
