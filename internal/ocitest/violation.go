package ocitest

import (
	"fmt"
	"mime"
	"net/http"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// manifestTypes are what every manifest request must accept: a registry may
// answer a tag whose type is missing with another manifest (Quay converts to
// schema 1), or with 404.
var manifestTypes = [...]string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, DockerList, DockerManifest}

// clientAgents are how the daemons' User-Agents begin, which must end at a proxy.
var clientAgents = [...]string{"docker/", "containerd/", "buildkit", "podman/", "Buildah", "skopeo/", "cri-o/", "go-containerregistry/forwarded"}

// clientHeaders are headers of the proxy's client that no upstream should see.
var clientHeaders = [...]string{"Cookie", "Origin", "Referer", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Sec-Fetch-Site", "Oci-Namespace"}

func (r *Registry) violate(req Request, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = append(r.broken, fmt.Sprintf(format, args...)+": "+req.String())
}

// inspect writes down the rules that a request breaks.
func (r *Registry) inspect(req Request, hr *http.Request) {
	r.inspectMethod(req)
	r.inspectForwarded(req, hr)
	auth := hr.Header.Get("Authorization")
	if n := len(hr.Header.Values("Authorization")); n > 1 {
		r.violate(req, "%d Authorization headers", n)
	}
	switch {
	case req.Server == CDNServer && auth != "":
		r.violate(req, "Authorization was sent to the CDN")
	case req.Kind != Token && r.opts.Auth == Bearer && isBasic(auth):
		r.violate(req, "a password was sent to the registry, which wants tokens")
	case req.Kind == Token && auth != "" && !isBasic(auth):
		r.violate(req, "a token was sent to the token endpoint")
	}
	for _, s := range req.Scopes {
		if !strings.HasPrefix(s, "repository:") || !strings.HasSuffix(s, ":pull") {
			r.violate(req, "scope %q asks for more than pull", s)
		}
	}
	if req.Kind == Token || req.Kind == Ping || req.Kind == Other {
		return
	}
	if enc := hr.Header.Get("Accept-Encoding"); enc != "identity" {
		r.violate(req, "Accept-Encoding is %q, not identity", enc)
	}
	if strings.Contains(req.Range, ",") {
		r.violate(req, "more than one range was asked for")
	}
	if req.Kind == Manifest && req.Server == RegistryServer {
		r.inspectAccept(req)
	}
}

func (r *Registry) inspectMethod(req Request) {
	switch {
	case req.Method == http.MethodGet, req.Method == http.MethodPost && req.Kind == Token:
	case req.Method != http.MethodHead:
		r.violate(req, "a pull needs no %s", req.Method)
	case req.Server == CDNServer:
		r.violate(req, "a presigned URL is for GET")
	case req.Kind == Blob:
		r.violate(req, "blobs must not be asked for by HEAD")
	}
	if req.Kind == Other {
		r.violate(req, "no registry has this path")
	}
}

// inspectForwarded looks for what belongs to the proxy's client.
func (r *Registry) inspectForwarded(req Request, hr *http.Request) {
	for _, h := range clientHeaders {
		if hr.Header.Get(h) != "" {
			r.violate(req, "the client's header %s was forwarded", h)
		}
	}
	for h := range hr.Header {
		if strings.HasPrefix(h, "X-Meta-") || strings.HasPrefix(h, "X-Registry-") {
			r.violate(req, "the client's header %s was forwarded", h)
		}
	}
	for _, a := range clientAgents {
		if strings.HasPrefix(hr.UserAgent(), a) {
			r.violate(req, "the client's User-Agent %q was forwarded", hr.UserAgent())
		}
	}
	if hr.URL.Query().Has("ns") {
		r.violate(req, "the client's ns parameter was forwarded")
	}
}

func (r *Registry) inspectAccept(req Request) {
	accepted := map[string]bool{}
	for _, line := range req.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			if t, _, err := mime.ParseMediaType(part); err == nil {
				accepted[t] = true
			}
		}
	}
	for _, t := range manifestTypes {
		if !accepted[t] {
			r.violate(req, "Accept lacks %s", t)
		}
	}
}

// tooManyCopies finds blobs of which more was sent than there is. mu is held.
func (r *Registry) tooManyCopies() []string {
	if !r.opts.OneCopy {
		return nil
	}
	sent := map[oci.Digest]int64{}
	for _, q := range r.records {
		if q.Kind == Blob && !isProbe(q.Range) && (q.Status == http.StatusOK || q.Status == http.StatusPartialContent) {
			sent[q.Digest] += q.Sent
		}
	}
	var out []string
	for d, n := range sent {
		for _, p := range r.content.repos {
			if b, ok := p.blobs[d]; ok && n > b.size {
				out = append(out, fmt.Sprintf("more than one copy of %s: %d of %d bytes", d, n, b.size))
				break
			}
		}
	}
	return out
}

func isBasic(authorization string) bool {
	scheme, _, _ := strings.Cut(authorization, " ")
	return strings.EqualFold(scheme, "Basic")
}

// isProbe says whether a range asks for one byte: for what it proves, or to find out
// whether a connection that is silent is dead.
func isProbe(rng string) bool {
	from, to, ok := strings.Cut(strings.TrimPrefix(rng, "bytes="), "-")
	return ok && from != "" && from == to
}
