package ocitest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// foreignPath is a trap: only descriptors' urls lead there.
const foreignPath = "/foreign/"

// handle is every request's way: record, inspect, go wrong where asked, answer.
func (r *Registry) handle(s Server, w http.ResponseWriter, hr *http.Request) {
	r.mu.Lock()
	if r.isClosing() {
		r.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	r.handlers.Add(1)
	r.mu.Unlock()
	defer r.handlers.Done()

	req := parse(s, hr)
	if s != CDNServer {
		req.User = r.whois(hr)
	}
	rec := r.begin(req)
	defer r.end(rec)
	req = r.snapshot(rec)
	r.inspect(req, hr)

	a := &answer{ResponseWriter: w, reg: r, hr: hr, rec: rec, fault: r.faultFor(req)}
	a.before()
	if a.fault.Status != 0 {
		a.instead()
		return
	}
	r.route(a, hr, req)
	a.after()
}

func (r *Registry) route(w http.ResponseWriter, hr *http.Request, req Request) {
	_, apart := r.servers[TokenServer]
	switch {
	case req.Server == CDNServer:
		r.cdn(w, hr, req)
	case req.Kind == Token && (req.Server == TokenServer) == apart:
		r.token(w, hr, req)
	case req.Server == TokenServer || req.Kind == Token || req.Kind == Other:
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
	case r.authorise(w, hr, req):
		r.answer(w, hr, req)
	}
}

func (r *Registry) answer(w http.ResponseWriter, hr *http.Request, req Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if req.Kind == Ping {
		writeJSON(w, http.StatusOK, struct{}{})
		return
	}
	r.mu.Lock()
	_, ok := r.content.repos[req.Repo]
	r.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	switch req.Kind {
	case Manifest:
		r.manifest(w, hr, req)
	case Blob:
		r.blob(w, hr, req)
	case Tags:
		r.tags(w, hr, req)
	case Referrers:
		r.referrers(w, hr, req)
	}
}

func (r *Registry) manifest(w http.ResponseWriter, hr *http.Request, req Request) {
	if !r.withinLimit(w, req) {
		return
	}
	d := req.Digest
	if req.Tag != "" {
		r.mu.Lock()
		d = r.repo(req.Repo).tags[req.Tag]
		r.mu.Unlock()
	}
	m, ok := r.findManifest(req.Repo, d)
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	if r.opts.ManifestRedirect && r.CDNURL() != "" && hr.Method == http.MethodGet {
		r.redirect(w, req, d)
		return
	}
	r.sendManifest(w, hr, d, m)
}

// withinLimit counts manifest GETs and tells the limit on every answer, as
// Docker Hub does.
func (r *Registry) withinLimit(w http.ResponseWriter, req Request) bool {
	limit := r.opts.PullLimit
	if limit == 0 {
		return true
	}
	r.mu.Lock()
	used := r.pulls[req.User]
	counted := req.Method == http.MethodGet
	over := counted && used >= limit
	if counted && !over {
		used++
		r.pulls[req.User] = used
	}
	r.mu.Unlock()
	w.Header().Set("Ratelimit-Limit", fmt.Sprintf("%d;w=21600", limit))
	w.Header().Set("Ratelimit-Remaining", fmt.Sprintf("%d;w=21600", limit-used))
	if over {
		fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit")
	}
	return !over
}

// ResetPullLimit forgets the counted pulls.
func (r *Registry) ResetPullLimit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.pulls)
}

func (r *Registry) findManifest(repo string, d oci.Digest) (manifest, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.content.repos[repo]
	if !ok {
		return manifest{}, false
	}
	m, ok := p.manifests[d]
	return m, ok
}

func (r *Registry) findBlob(repo string, d oci.Digest) (blob, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.content.repos[repo]
	if !ok {
		return blob{}, false
	}
	b, ok := p.blobs[d]
	return b, ok
}

func (r *Registry) sendManifest(w http.ResponseWriter, hr *http.Request, d oci.Digest, m manifest) {
	h := w.Header()
	h.Set("Content-Type", m.mediaType)
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Etag", strconv.Quote(d.String()))
	hr.Header.Del("Range") // registries send manifests whole
	http.ServeContent(w, hr, "", time.Time{}, bytes.NewReader(m.data))
}

func (r *Registry) blob(w http.ResponseWriter, hr *http.Request, req Request) {
	b, ok := r.findBlob(req.Repo, req.Digest)
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	if r.CDNURL() != "" && hr.Method == http.MethodGet {
		r.redirect(w, req, req.Digest)
		return
	}
	w.Header().Set("Docker-Content-Digest", req.Digest.String())
	r.sendBlob(w, hr, req.Digest, b)
}

func (r *Registry) sendBlob(w http.ResponseWriter, hr *http.Request, d oci.Digest, b blob) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Etag", strconv.Quote(d.String()))
	if r.opts.NoRange {
		hr.Header.Del("Range")
	}
	http.ServeContent(w, hr, "", time.Time{}, io.NewSectionReader(b.data, 0, b.size))
}

// tags pages by n and last, as specification 1.1 section "Listing Tags" has it.
func (r *Registry) tags(w http.ResponseWriter, hr *http.Request, req Request) {
	q := hr.URL.Query()
	r.mu.Lock()
	names := r.repo(req.Repo).tagNames()
	r.mu.Unlock()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(names, last)
		if found {
			i++
		}
		names = names[i:]
	}
	if n, err := strconv.Atoi(q.Get("n")); err == nil && n >= 0 && n < len(names) {
		names = names[:n]
		if n > 0 {
			next := url.Values{"n": {strconv.Itoa(n)}, "last": {names[n-1]}}
			w.Header().Set("Link", fmt.Sprintf(`<%s/v2/%s/tags/list?%s>; rel="next"`, r.opts.LinkBase, req.Repo, next.Encode()))
		}
	}
	if names == nil {
		names = []string{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"name": req.Repo, "tags": names})
}

// referrers lists what names a subject, known or not: an empty list is no 404.
func (r *Registry) referrers(w http.ResponseWriter, hr *http.Request, req Request) {
	if r.opts.NoReferrers {
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no referrers here")
		return
	}
	wanted := hr.URL.Query().Get("artifactType")
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	r.mu.Lock()
	for d, m := range r.repo(req.Repo).manifests {
		if m.subject == req.Digest && (wanted == "" || wanted == m.artifactType) {
			index.Manifests = append(index.Manifests, v1.Descriptor{
				MediaType: m.mediaType, Digest: d, Size: int64(len(m.data)), ArtifactType: m.artifactType, Annotations: m.annotations,
			})
		}
	}
	r.mu.Unlock()
	slices.SortFunc(index.Manifests, func(a, b v1.Descriptor) int { return bytes.Compare([]byte(a.Digest), []byte(b.Digest)) })
	w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(mustJSON(index))
}
